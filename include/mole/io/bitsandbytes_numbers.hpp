#pragma once
// What the bytes of bitsandbytes' weights stand for: numbers in memory, and products with rows of x whose numbers are formed
// in registers.

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>

#include <mole/core/instruction_set.hpp>
#include <mole/core/omp.hpp>
#include <mole/core/vectors.hpp>
#include <mole/io/packed_numbers.hpp>
#include <mole/nn/packed_rows.hpp>

namespace mole::detail {

/// What the bytes of a weight of 4 bits stand for.
struct Bits4Map {
  std::array<float, 16> of{};                     ///< each half byte
  std::array<std::array<float, 2>, 256> pairs{};  ///< each byte
};

/// to.put(at, numbers) of vectors of 32 numbers, `by` times what 16 bytes stand for.
template <InstructionSet set, class To>
[[gnu::always_inline]] inline void put_32(const FloatTable<set>& table, const std::uint8_t* b, float by,
                                          const To& to) {
  const auto bytes = stored_at<Bytes16>(b);
  const Bytes16 high = bytes >> 4, codes[2] = {by_turns<0>(high, bytes), by_turns<8>(high, bytes)};
  for (int half = 0; half < 2; ++half)
    for (int first = 0; first < 16; first += vector_lanes<set>) {
      Ints<set> q;
      Floats<set> numbers;
      widen<set>(codes[half], first, q);
      table.look_up(q, numbers);
      numbers *= by;
      to.put(16 * half + first, numbers);
    }
}

/// y[0, 2 n) = by times what n bytes stand for.
struct Bits4Stretch {
  template <InstructionSet set>
  [[gnu::always_inline]] static inline void run(const Bits4Map* map, const std::uint8_t* b, Index n, float by,
                                                float* y) {
    Index i = 0;
    if constexpr (has_tables<set>) {
      const FloatTable<set> table(map->of.data());
      for (; i + 16 <= n; i += 16) put_32<set>(table, b + i, by, NumbersToMemory{y + 2 * i});
    }
    const Index rest = i;
    for (; i < n; ++i) std::memcpy(y + 2 * i, map->pairs[b[i]].data(), 2 * sizeof(float));
    MOLE_OMP("omp simd")
    for (Index j = 2 * rest; j < 2 * n; ++j) y[j] *= by;
  }
};

/// The same of blocks of n bytes, each with a scale of its own.
struct Bits4Blocks {
  template <InstructionSet set>
  [[gnu::always_inline]] static inline void run(const Bits4Map* map, const std::uint8_t* b, Index n,
                                                const float* scales, Index blocks, float* y) {
    for (Index i = 0; i < blocks; ++i) Bits4Stretch::run<set>(map, b + i * n, n, scales[i], y + 2 * i * n);
  }
};

/// Four rows of 4-bit codes whose blocks do not cross rows.
struct Bits4RowBlocks {
  const StoredRows* stored;
  Index row[PackedDots::most];
  Index blocks, bytes;  ///< blocks of a row; bytes of a block, a multiple of 16
};

/// Their products with `tokens` rows of x, as GgufDots has them.
template <int tokens>
struct Bits4Dots {
  static constexpr int rows = PackedDots::most;

  template <InstructionSet set>
  [[gnu::always_inline]] static inline void run(const Bits4RowBlocks& W, const float* const* x,
                                                float (*y)[PackedDots::most]) {
    if constexpr (has_tables<set>) {
      const FloatTable<set> table(W.stored->map);
      SumOfLanes<set> sums[rows][tokens] = {};
      for (Index i = 0; i < W.blocks; ++i) {
        const std::uint8_t* b[rows];
        float by[rows];
        for (int r = 0; r < rows; ++r) {
          const Index block = W.row[r] * W.blocks + i;
          b[r] = W.stored->data + block * W.bytes;
          by[r] = stored_scale(*W.stored, block);
        }
        // Row by row, so that one sum need not wait for itself.
        for (Index k = 0; k < W.bytes; k += 16)
          for (int r = 0; r < rows; ++r)
            put_32<set>(table, b[r] + k, by[r],
                        NumbersToSums<set, tokens>{x, 2 * (i * W.bytes + k), sums[r]});
      }
      for (int r = 0; r < rows; ++r)
        for (int t = 0; t < tokens; ++t) y[t][r] = sums[r][t].total();
    }
  }
};

template <int tokens>
void bits4_dots_of(const Bits4RowBlocks& W, const float* const* x, float (*y)[PackedDots::most]) {
  run_widest<Bits4Dots<tokens>>(W, x, y);
}

/// PackedRows::dots() of such rows of d_in numbers; false where the processor does not look numbers up, and for blocks of fewer
/// than 32 numbers or across rows.
inline bool bits4_dots(const StoredRows& stored, Index d_in, const PackedDots& dots,
                       float (*y)[PackedDots::most]) {
  constexpr Index most = PackedDots::most;
  if (!has_tables_here() || stored.block % 32 != 0 || d_in % stored.block != 0) return false;
  Bits4RowBlocks W{.stored = &stored, .row = {}, .blocks = d_in / stored.block, .bytes = stored.block / 2};
  const float* x[most];
  for (Index i = 0; i < most; ++i) {
    W.row[i] = dots.row + std::min(i, dots.rows - 1);
    x[i] = dots.x + std::min(i, dots.tokens - 1) * dots.x_step;
  }
  if (dots.tokens == 1)
    bits4_dots_of<1>(W, x, y);
  else if (dots.tokens == 2)
    bits4_dots_of<2>(W, x, y);
  else
    bits4_dots_of<4>(W, x, y);
  return true;
}

/// y[0, n) = q by / 127 of n signed bytes q, rounded as bitsandbytes does: after each product.
struct Bits8Stretch {
  static constexpr float one_of_127 = 7.874015718698502e-3F;

  template <InstructionSet set>
  [[gnu::always_inline]] static inline void run(const std::uint8_t* b, Index n, float by, float* y) {
    constexpr Index lanes = vector_lanes<set>;
    Index i = 0;
    for (; i + 16 <= n; i += 16)
      for (Index j = i; j < i + 16; j += lanes) {
        Ints<set> q;
        widen_signed<set>(stored_at<Bytes16>(b + i), static_cast<int>(j - i), q);
        Floats<set> v = __builtin_convertvector(q, Floats<set>) * by;
        v = v * one_of_127;
        std::memcpy(y + j, &v, sizeof v);
      }
    for (; i < n; ++i) y[i] = static_cast<float>(static_cast<std::int8_t>(b[i])) * by * one_of_127;
  }
};

}  // namespace mole::detail

// What mole::compiled holds is declared, and not compiled again.
#ifdef MOLE_COMPILED
#  include <mole/io/compiled_bits4.hpp>
#endif
