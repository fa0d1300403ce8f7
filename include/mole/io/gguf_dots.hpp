#pragma once
// Products of rows of GGUF's blocks with a few rows of x. The numbers are formed in registers, as gguf_blocks() forms
// them, and multiplied there.

#include <cstdint>
#include <cstring>

#include <mole/core/instruction_set.hpp>
#include <mole/core/vectors.hpp>
#include <mole/io/gguf_blocks.hpp>
#include <mole/io/packed_numbers.hpp>
#include <mole/nn/packed_rows.hpp>

namespace mole::detail {

/// Four rows of W as blocks lie in them. What will be multiplied soon lies `ahead` bytes from there, and is fetched
/// meanwhile: the processor alone does not guess it where rows are short.
struct GgufRowBlocks {
  const std::uint8_t* rows[PackedDots::most];
  Index blocks, bytes;
  Index ahead;
};

/// Four rows of W with `tokens` rows of x. A sum has sixteen lanes until all of a row is seen, as in DotTile.
template <GgufType type, int tokens>
struct GgufDots {
  static constexpr int rows = PackedDots::most;

  template <InstructionSet set>
  struct Block {
    const std::uint8_t* const* b;
    const BlockScales* scales;
    const float* const* x;
    Index first;
    SumOfLanes<set> (*sums)[tokens];

    /// Row by row within a part, so that one sum need not wait for itself.
    template <int j>
    [[gnu::always_inline]] void part() const {
      part_of_block<set, type, j>(b[0], scales[0], NumbersToSums<set, tokens>{x, first, sums[0]});
      part_of_block<set, type, j>(b[1], scales[1], NumbersToSums<set, tokens>{x, first, sums[1]});
      part_of_block<set, type, j>(b[2], scales[2], NumbersToSums<set, tokens>{x, first, sums[2]});
      part_of_block<set, type, j>(b[3], scales[3], NumbersToSums<set, tokens>{x, first, sums[3]});
    }
  };

  template <InstructionSet set>
  [[gnu::always_inline]] static inline void run(const GgufRowBlocks& W, const float* const* inputs,
                                                float (*y)[PackedDots::most]) {
    // A block of one part has at most 34 bytes, one of eight at most 210: so many lines of memory.
    constexpr int parts = parts_of_block(type), lines = parts == 1 ? 1 : 4;
    const std::uint8_t* b[rows];
    const float* x[tokens];
    for (int r = 0; r < rows; ++r) b[r] = W.rows[r];
    for (int t = 0; t < tokens; ++t) x[t] = inputs[t];
    SumOfLanes<set> sums[rows][tokens] = {};
    for (Index i = 0; i < W.blocks; ++i) {
      for (int r = 0; r < rows; ++r)
        for (int line = 0; line < lines; ++line) __builtin_prefetch(b[r] + W.ahead + 64 * line, 0, 2);
      BlockScales scales[rows];
      for (int r = 0; r < rows; ++r) scales_of_block<set, type>(b[r], scales[r]);
      each_part<parts>(Block<set>{b, scales, x, i * parts * 32, sums});
      for (int r = 0; r < rows; ++r) b[r] += W.bytes;
    }
    for (int r = 0; r < rows; ++r)
      for (int t = 0; t < tokens; ++t) y[t][r] = sums[r][t].total();
  }
};

template <GgufType type>
bool gguf_dots_of(const GgufFormat& format, const GgufRowBlocks& W, Index tokens, const float* const* x,
                  float (*y)[PackedDots::most]) {
  if (format.type != type) return false;
  if (tokens == 1)
    run_widest<GgufDots<type, 1>>(W, x, y);
  else if (tokens == 2)
    run_widest<GgufDots<type, 2>>(W, x, y);
  else
    run_widest<GgufDots<type, 4>>(W, x, y);
  return true;
}

/// PackedRows::dots() of rows W[0, 4) and x[0, 4) of so many blocks. Where there are fewer, some stand there twice. False
/// for a type without such sums.
inline bool gguf_dots(const GgufFormat& format, const GgufRowBlocks& W, Index tokens, const float* const* x,
                      float (*y)[PackedDots::most]) {
  const auto any = [&]<GgufType... types>() { return (gguf_dots_of<types>(format, W, tokens, x, y) || ...); };
  using Type = GgufType;
  return any.template operator()<Type::Q4_0, Type::Q4_1, Type::Q5_0, Type::Q5_1, Type::Q8_0, Type::Q4_K,
                                 Type::Q5_K, Type::Q6_K>();
}

}  // namespace mole::detail

// What mole::compiled holds is declared, and not compiled again.
#ifdef MOLE_COMPILED
#  include <mole/io/compiled_gguf.hpp>
#endif
