#pragma once
// The block formats of GGUF files as numbers. A row is a whole number of blocks; all is little-endian. Values are
// formed in float, in the order of the gguf package: the same bits.

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>

#include <mole/core/instruction_set.hpp>
#include <mole/core/omp.hpp>
#include <mole/core/scalar.hpp>
#include <mole/core/shape.hpp>
#include <mole/core/vectors.hpp>
#include <mole/io/packed_numbers.hpp>

namespace mole {

/// How a GGUF file stores a tensor: ggml's number of it.
enum class GgufType : std::uint32_t {
  F32 = 0,
  F16 = 1,
  Q4_0 = 2,
  Q4_1 = 3,
  Q5_0 = 6,
  Q5_1 = 7,
  Q8_0 = 8,
  Q2_K = 10,
  Q3_K = 11,
  Q4_K = 12,
  Q5_K = 13,
  Q6_K = 14,
  BF16 = 30
};

/// A format's name, its values a block and the bytes of a block.
struct GgufFormat {
  GgufType type;
  std::string_view name;
  Index values, bytes;
};

/// Null for a type that is not read.
inline const GgufFormat* gguf_format(std::uint32_t type) {
  static constexpr std::array<GgufFormat, 13> formats{{{GgufType::F32, "F32", 1, 4},
                                                       {GgufType::F16, "F16", 1, 2},
                                                       {GgufType::BF16, "BF16", 1, 2},
                                                       {GgufType::Q4_0, "Q4_0", 32, 18},
                                                       {GgufType::Q4_1, "Q4_1", 32, 20},
                                                       {GgufType::Q5_0, "Q5_0", 32, 22},
                                                       {GgufType::Q5_1, "Q5_1", 32, 24},
                                                       {GgufType::Q8_0, "Q8_0", 32, 34},
                                                       {GgufType::Q2_K, "Q2_K", 256, 84},
                                                       {GgufType::Q3_K, "Q3_K", 256, 110},
                                                       {GgufType::Q4_K, "Q4_K", 256, 144},
                                                       {GgufType::Q5_K, "Q5_K", 256, 176},
                                                       {GgufType::Q6_K, "Q6_K", 256, 210}}};
  for (const auto& format : formats)
    if (static_cast<std::uint32_t>(format.type) == type) return &format;
  return nullptr;
}

namespace detail {

// In the formats below a scale has 11 bits, its own scale at most 8, and a number at most 8: their products are exact in
// float. So a number is rounded at most once, where a least value is taken off, whether the compiler fuses the two or
// not.

/// q by, or q by - less, to `at`.
template <InstructionSet set, bool least, class To>
[[gnu::always_inline]] inline void put_scaled(const Ints<set>& q, float by, float less, int at,
                                              const To& to) {
  Floats<set> v = __builtin_convertvector(q, Floats<set>) * by;
  // Of a format without a least value zeros keep their sign.
  if constexpr (least) v = v - less;
  to.put(at, v);
}

/// The same of sixteen bytes, less a middle.
template <InstructionSet set, bool least, class To>
[[gnu::always_inline]] inline void put_bytes(const Bytes16& bytes, int middle, float by, float less, int at,
                                             const To& to) {
  for (int i = 0; i < 16; i += vector_lanes<set>) {
    Ints<set> q;
    widen<set>(bytes, i, q);
    put_scaled<set, least>(q - middle, by, less, at + i, to);
  }
}

/// The same of their lower or their upper four bits.
template <InstructionSet set, bool upper, bool least, class To>
[[gnu::always_inline]] inline void put_four_bits(const Bytes16& bytes, int middle, float by, float less,
                                                 int at, const To& to) {
  if constexpr (looks_up<set>) {
    // There are sixteen numbers. One instruction looks up sixteen of them, by the lower four bits of each integer.
    const Ints<set> codes{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    Floats<set> table = __builtin_convertvector(codes - middle, Floats<set>) * by, numbers;
    if constexpr (least) table = table - less;
    Ints<set> q;
    widen<set>(bytes, 0, q);
    look_up<set>(table, upper ? q >> 4 : q, numbers);
    to.put(at, numbers);
  } else {
    put_bytes<set, least>(upper ? bytes >> 4 : bytes & 15, middle, by, less, at, to);
  }
}

/// What the numbers of one block are multiplied by, and what is then taken off, made once:
///   Q4_0 to Q8_0  of[0], of[8];  Q4_K, Q5_K  of[j], of[8 + j] for the 32 numbers of part j;  Q6_K  of[i] for 16 numbers
struct BlockScales {
  float of[16];
};

/// The scales and least values of 6 bits of Q4_K and Q5_K, eight of each, as bytes.
inline Bytes16 scales_q45_k(const std::uint8_t* s) {
  const auto u = stored_at<std::uint32_t>(s), v = stored_at<std::uint32_t>(s + 4),
             w = stored_at<std::uint32_t>(s + 8);
  constexpr std::uint32_t six = 0x3f3f3f3f, four = 0x0f0f0f0f, two = 0x03030303;
  const VectorOf<std::uint32_t, 4>::type all{u & six, (w & four) | (u >> 6 & two) << 4, v & six,
                                             (w >> 4 & four) | (v >> 6 & two) << 4};
  return reinterpret_cast<Bytes16>(all);
}

template <InstructionSet set, GgufType type>
[[gnu::always_inline]] inline void scales_of_block(const std::uint8_t* b, BlockScales& scales) {
  using Type = GgufType;
  if constexpr (type == Type::Q4_K || type == Type::Q5_K) {
    put_bytes<set, false>(scales_q45_k(b + 4), 0, 1, 0, 0, NumbersToMemory{scales.of});
    VectorOf<float, 8>::type by, less;
    std::memcpy(&by, scales.of, sizeof by);
    std::memcpy(&less, scales.of + 8, sizeof less);
    by *= half_at<set>(b);
    less *= half_at<set>(b + 2);
    std::memcpy(scales.of, &by, sizeof by);
    std::memcpy(scales.of + 8, &less, sizeof less);
  } else if constexpr (type == Type::Q6_K) {
    const float d = half_at<set>(b + 208);
    for (int i = 0; i < 16; i += vector_lanes<set>) {
      Ints<set> q;
      widen_signed<set>(stored_at<Bytes16>(b + 192), i, q);
      put_scaled<set, false>(q, d, 0, i, NumbersToMemory{scales.of});
    }
  } else {
    scales.of[0] = half_at<set>(b);
    if constexpr (type == Type::Q4_1 || type == Type::Q5_1) scales.of[8] = -half_at<set>(b + 2);
  }
}

/// Q4_0 and Q4_1: 32 numbers of 4 bits with a scale and a least value or a middle.
template <InstructionSet set, bool least, class To>
[[gnu::always_inline]] inline void block_q4(const std::uint8_t* b, const BlockScales& scales, const To& to) {
  const float d = scales.of[0], less = least ? scales.of[8] : 0;
  const auto bytes = stored_at<Bytes16>(b + (least ? 4 : 2));
  put_four_bits<set, false, least>(bytes, least ? 0 : 8, d, less, 0, to);
  put_four_bits<set, true, least>(bytes, least ? 0 : 8, d, less, 16, to);
}

/// Sixteen bits as bytes that are 0 or 16.
inline Bytes16 fifth_bits(const std::uint8_t* b) {
  const Bytes16 lower{1, 2, 4, 8, 16, 32, 64, 128},
      upper{0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 4, 8, 16, 32, 64, 128};
  const Bytes16 found = ((Bytes16{} + b[0]) & lower) | ((Bytes16{} + b[1]) & upper);
  // Bit 7 of the sum is set but where nothing was found.
  return shifted<-3>(found + 127, 16);
}

/// Q5_0 and Q5_1: the same of 5 bits.
template <InstructionSet set, bool least, class To>
[[gnu::always_inline]] inline void block_q5(const std::uint8_t* b, const BlockScales& scales, const To& to) {
  const float d = scales.of[0], less = least ? scales.of[8] : 0;
  const std::uint8_t* const high = b + (least ? 4 : 2);
  const auto bytes = stored_at<Bytes16>(high + 4);
  put_bytes<set, least>((bytes & 15) | fifth_bits(high), least ? 0 : 16, d, less, 0, to);
  put_bytes<set, least>((bytes >> 4) | fifth_bits(high + 2), least ? 0 : 16, d, less, 16, to);
}

template <InstructionSet set, class To>
[[gnu::always_inline]] inline void block_q8_0(const std::uint8_t* b, const BlockScales& scales,
                                              const To& to) {
  for (int i = 0; i < 32; i += vector_lanes<set>) {
    Ints<set> q;
    widen_signed<set>(stored_at<Bytes16>(b + 2 + i / 16 * 16), i % 16, q);
    put_scaled<set, false>(q, scales.of[0], 0, i, to);
  }
}

template <InstructionSet set>
[[gnu::always_inline]] inline void block_q2_k(const std::uint8_t* b, float* y) {
  const float d = half_at<set>(b + 80), least = half_at<set>(b + 82);
  for (int j = 0; j < 16; ++j) {
    const float by = d * static_cast<float>(b[j] & 15), less = least * static_cast<float>(b[j] >> 4);
    const std::uint8_t* const low = b + 16 + j / 8 * 32 + j % 2 * 16;
    const int shift = j % 8 / 2 * 2;
    MOLE_OMP("omp simd")
    for (int l = 0; l < 16; ++l) y[j * 16 + l] = by * static_cast<float>(low[l] >> shift & 3) - less;
  }
}

template <InstructionSet set>
[[gnu::always_inline]] inline void block_q3_k(const std::uint8_t* b, float* y) {
  const std::uint8_t* const s = b + 96;
  const float d = half_at<set>(b + 108);
  for (int j = 0; j < 16; ++j) {
    const int four = j < 8 ? s[j] & 15 : s[j - 8] >> 4, two = s[8 + j % 4] >> (j / 4 * 2) & 3;
    const float by = d * static_cast<float>((four | two << 4) - 32);
    const std::uint8_t *const high = b + j % 2 * 16, *const low = b + 32 + j / 8 * 32 + j % 2 * 16;
    const int shift = j % 8 / 2 * 2, bit = j / 2;
    MOLE_OMP("omp simd")
    for (int l = 0; l < 16; ++l)
      y[j * 16 + l] = by * static_cast<float>((low[l] >> shift & 3) + ((high[l] >> bit & 1) << 2) - 4);
  }
}

/// 32 numbers of Q4_K and Q5_K: part j of eight.
template <InstructionSet set, bool fifth, int j, class To>
[[gnu::always_inline]] inline void part_q45_k(const std::uint8_t* b, const BlockScales& scales,
                                              const To& to) {
  const std::uint8_t *const high = b + 16, *const low = b + (fifth ? 48 : 16) + j / 2 * 32;
  const float by = scales.of[j], less = scales.of[8 + j];
  for (int half = 0; half < 32; half += 16) {
    const auto bytes = stored_at<Bytes16>(low + half);
    if constexpr (fifth) {
      const Bytes16 four = j % 2 == 0 ? bytes & 15 : bytes >> 4;
      const Bytes16 q = four | shifted<4 - j>(stored_at<Bytes16>(high + half), 1 << 4);
      put_bytes<set, true>(q, 0, by, less, j * 32 + half, to);
    } else {
      put_four_bits<set, j % 2 != 0, true>(bytes, 0, by, less, j * 32 + half, to);
    }
  }
}

/// 32 numbers of Q6_K: part j of eight.
template <InstructionSet set, int j, class To>
[[gnu::always_inline]] inline void part_q6_k(const std::uint8_t* b, const BlockScales& scales, const To& to) {
  constexpr int quarter = j % 4;
  const std::uint8_t *const low = b + j / 4 * 64 + quarter % 2 * 32, *const high = b + 128 + j / 4 * 32;
  for (int half = 0; half < 2; ++half) {
    const auto four = stored_at<Bytes16>(low + 16 * half), two = stored_at<Bytes16>(high + 16 * half);
    const Bytes16 q = (quarter < 2 ? four & 15 : four >> 4) | shifted<4 - 2 * quarter>(two, 3 << 4);
    put_bytes<set, false>(q, 32, scales.of[2 * j + half], 0, j * 32 + 16 * half, to);
  }
}

/// How many parts of 32 numbers part_of_block() makes of a block; 0: it does not know the type.
constexpr int parts_of_block(GgufType type) {
  using Type = GgufType;
  if (type == Type::Q4_K || type == Type::Q5_K || type == Type::Q6_K) return 8;
  return type == Type::Q4_0 || type == Type::Q4_1 || type == Type::Q5_0 || type == Type::Q5_1 ||
                 type == Type::Q8_0
             ? 1
             : 0;
}

/// to.put(..) for the numbers of part j of a block.
template <InstructionSet set, GgufType type, int j, class To>
[[gnu::always_inline]] inline void part_of_block(const std::uint8_t* b, const BlockScales& scales,
                                                 const To& to) {
  using Type = GgufType;
  if constexpr (type == Type::Q4_0 || type == Type::Q4_1)
    block_q4<set, type == Type::Q4_1>(b, scales, to);
  else if constexpr (type == Type::Q5_0 || type == Type::Q5_1)
    block_q5<set, type == Type::Q5_1>(b, scales, to);
  else if constexpr (type == Type::Q8_0)
    block_q8_0<set>(b, scales, to);
  else if constexpr (type == Type::Q6_K)
    part_q6_k<set, j>(b, scales, to);
  else
    part_q45_k<set, type == Type::Q5_K, j>(b, scales, to);
}

/// f.template part<j>() for j from 0 to n - 1, of which there are 1 or 8.
template <int n, class F>
[[gnu::always_inline]] inline void each_part(const F& f) {
  static_assert(n == 1 || n == 8);
  f.template part<0>();
  if constexpr (n == 8) {
    f.template part<1>();
    f.template part<2>();
    f.template part<3>();
    f.template part<4>();
    f.template part<5>();
    f.template part<6>();
    f.template part<7>();
  }
}

/// A block's parts to memory.
template <InstructionSet set, GgufType type>
struct PartsToMemory {
  const std::uint8_t* b;
  const BlockScales& scales;
  NumbersToMemory to;

  template <int j>
  [[gnu::always_inline]] void part() const {
    part_of_block<set, type, j>(b, scales, to);
  }
};

/// One block of `type`; a plain number is a block of its own.
template <InstructionSet set, GgufType type>
[[gnu::always_inline]] inline void gguf_block(const std::uint8_t* b, float* y) {
  using Type = GgufType;
  if constexpr (type == Type::F32)
    y[0] = stored_at<float>(b);
  else if constexpr (type == Type::F16)
    y[0] = half_at<set>(b);
  else if constexpr (type == Type::BF16)
    y[0] = float{stored_at<bf16>(b)};
  else if constexpr (type == Type::Q2_K)
    block_q2_k<set>(b, y);
  else if constexpr (type == Type::Q3_K)
    block_q3_k<set>(b, y);
  else {
    BlockScales scales;
    scales_of_block<set, type>(b, scales);
    each_part<parts_of_block(type)>(PartsToMemory<set, type>{b, scales, {y}});
  }
}

/// Blocks one after another, for run_widest().
template <GgufType type>
struct GgufBlocks {
  template <InstructionSet set>
  [[gnu::always_inline]] static inline void run(const std::uint8_t* b, Index blocks, Index values,
                                                Index bytes, float* y) {
    for (Index i = 0; i < blocks; ++i) gguf_block<set, type>(b + i * bytes, y + i * values);
  }
};

template <GgufType... types>
void gguf_blocks_of(const GgufFormat& format, const std::uint8_t* b, Index blocks, float* y) {
  (void)((format.type == types &&
          (run_widest<GgufBlocks<types>>(b, blocks, format.values, format.bytes, y), true)) ||
         ...);
}

/// The numbers of stored blocks.
inline void gguf_blocks(const GgufFormat& format, const std::uint8_t* b, Index blocks, float* y) {
  using Type = GgufType;
  gguf_blocks_of<Type::F32, Type::F16, Type::BF16, Type::Q4_0, Type::Q4_1, Type::Q5_0, Type::Q5_1, Type::Q8_0,
                 Type::Q2_K, Type::Q3_K, Type::Q4_K, Type::Q5_K, Type::Q6_K>(format, b, blocks, y);
}

/// take(first, n, y) for the n numbers of stored blocks, some at a time and by several threads: y[0, n) are the numbers
/// from `first` on. Returns the first block whose scale makes numbers that are not finite, or -1; plain numbers may be
/// anything.
template <class F>
Index each_number(const GgufFormat& format, const std::byte* data, Index n, F take) {
  const auto* bytes = reinterpret_cast<const std::uint8_t*>(data);
  constexpr Index chunk = 1024;
  const Index blocks = n / format.values, chunk_blocks = chunk / format.values;
  const Index chunks = (blocks + chunk_blocks - 1) / chunk_blocks;
  Index bad = blocks;
  MOLE_OMP("omp parallel for schedule(static) reduction(min : bad) if (n > 100000)")
  for (Index i = 0; i < chunks; ++i) {
    float y[chunk];
    const Index first = i * chunk_blocks, count = std::min(chunk_blocks, blocks - first);
    gguf_blocks(format, bytes + first * format.bytes, count, y);
    if (format.values > 1)
      for (Index j = 0; j < count * format.values; ++j)
        if (!is_finite(y[j])) bad = std::min(bad, first + j / format.values);
    take(first * format.values, count * format.values, y);
  }
  return bad < blocks ? bad : -1;
}

/// As dequantise() returns, without the numbers.
inline Index first_not_finite(const GgufFormat& format, const std::byte* data, Index n) {
  return each_number(format, data, n, [](Index, Index, const float*) {});
}

}  // namespace detail

/// Writes the n numbers of stored blocks to out, n a multiple of the format's values. Returns the first block
/// whose scale makes numbers that are not finite, or -1; plain numbers may be anything.
template <class T>
Index dequantise(const GgufFormat& format, const std::byte* data, Index n, T* out) {
  return detail::each_number(format, data, n, [out](Index first, Index count, const float* y) {
    for (Index j = 0; j < count; ++j) out[first + j] = static_cast<T>(y[j]);
  });
}

}  // namespace mole
