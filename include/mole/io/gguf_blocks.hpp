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

template <class Stored>
Stored stored_at(const std::uint8_t* bytes) {
  Stored value;
  std::memcpy(&value, bytes, sizeof value);
  return value;
}
/// A half with the instructions of a set: one of them, which clang takes in functions for that set alone.
template <InstructionSet set>
[[gnu::always_inline]] inline float half_at(const std::uint8_t* bytes) {
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(__CUDACC__)
  if constexpr (set != InstructionSet::plain) {
    using Halves = short __attribute__((vector_size(16)));
    return __builtin_ia32_vcvtph2ps(Halves{stored_at<std::int16_t>(bytes)})[0];
  }
#endif
  return float{stored_at<half>(bytes)};
}

// In the formats below a scale has 11 bits, its own scale at most 8, and a number at most 8: their products are exact in
// float. So a number is rounded at most once, where a least value is taken off, whether the compiler fuses the two or
// not.

// GCC and clang make of these types what the instruction set has.
using Bytes16 = std::uint8_t __attribute__((vector_size(16)));
using Ints16 = std::int32_t __attribute__((vector_size(64)));
using Floats16 = float __attribute__((vector_size(64)));

template <class Vector>
[[gnu::always_inline]] inline Vector vector_at(const std::uint8_t* b) {
  Vector v;
  std::memcpy(&v, b, sizeof v);
  return v;
}

/// y[0, 16) = by q, or by q - less.
template <bool least>
[[gnu::always_inline]] inline void put_scaled(const Ints16& q, float by, float less, float* y) {
  Floats16 v = __builtin_convertvector(q, Floats16) * by;
  // Of a format without a least value zeros keep their sign.
  if constexpr (least) v = v - less;
  std::memcpy(y, &v, sizeof v);
}

/// Q4_0, Q4_1, Q5_0, Q5_1: 32 numbers of 4 or 5 bits with a scale and a least value or a middle.
template <InstructionSet set, bool fifth, bool least>
[[gnu::always_inline]] inline void small_block(const std::uint8_t* b, float* y) {
  constexpr int middle = least ? 0 : fifth ? 16 : 8;
  const float d = half_at<set>(b), m = least ? half_at<set>(b + 2) : 0;
  const std::uint8_t* const high = b + (least ? 4 : 2);
  const auto bytes = vector_at<Bytes16>(high + (fifth ? 4 : 0));
  const Bytes16 low = bytes & 15, up = bytes >> 4;
  Ints16 first = __builtin_convertvector(low, Ints16), second = __builtin_convertvector(up, Ints16);
  if constexpr (fifth) {
    const Ints16 place{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    first |= ((Ints16{} + stored_at<std::uint16_t>(high)) >> place & 1) << 4;
    second |= ((Ints16{} + stored_at<std::uint16_t>(high + 2)) >> place & 1) << 4;
  }
  put_scaled<least>(first - middle, d, -m, y);
  put_scaled<least>(second - middle, d, -m, y + 16);
}

template <InstructionSet set>
[[gnu::always_inline]] inline void block_q8_0(const std::uint8_t* b, float* y) {
  const float d = half_at<set>(b);
  // Bytes without a sign have an instruction that makes integers of them on every compiler.
  for (int i = 0; i < 32; i += 16) {
    const Bytes16 q = vector_at<Bytes16>(b + 2 + i) ^ 128;
    put_scaled<false>(__builtin_convertvector(q, Ints16) - 128, d, 0, y + i);
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

/// Part j of Q4_K and Q5_K, with its scale and least value of 6 bits. The number of a part is known to the compiler, as
/// a vector of bytes is slow to shift by what is not.
template <bool fifth, int j>
[[gnu::always_inline]] inline void part_q45_k(const std::uint8_t* b, float d, float least, float* y) {
  const std::uint8_t *const s = b + 4, *const high = b + 16;
  int scale, offset;
  if constexpr (j < 4) {
    scale = s[j] & 63;
    offset = s[j + 4] & 63;
  } else {
    scale = (s[j + 4] & 15) | (s[j - 4] >> 6) << 4;
    offset = (s[j + 4] >> 4) | (s[j] >> 6) << 4;
  }
  const float by = d * static_cast<float>(scale), less = least * static_cast<float>(offset);
  for (int half = 0; half < 32; half += 16) {
    const auto low = vector_at<Bytes16>(b + (fifth ? 48 : 16) + j / 2 * 32 + half);
    Bytes16 q = j % 2 == 0 ? low & 15 : low >> 4;
    if constexpr (fifth) q |= (vector_at<Bytes16>(high + half) >> j & 1) << 4;
    put_scaled<true>(__builtin_convertvector(q, Ints16), by, less, y + half);
  }
}

/// Q4_K and Q5_K: eight parts of 32 numbers.
template <InstructionSet set, bool fifth>
[[gnu::always_inline]] inline void block_q45_k(const std::uint8_t* b, float* y) {
  const float d = half_at<set>(b), least = half_at<set>(b + 2);
  part_q45_k<fifth, 0>(b, d, least, y);
  part_q45_k<fifth, 1>(b, d, least, y + 32);
  part_q45_k<fifth, 2>(b, d, least, y + 64);
  part_q45_k<fifth, 3>(b, d, least, y + 96);
  part_q45_k<fifth, 4>(b, d, least, y + 128);
  part_q45_k<fifth, 5>(b, d, least, y + 160);
  part_q45_k<fifth, 6>(b, d, least, y + 192);
  part_q45_k<fifth, 7>(b, d, least, y + 224);
}

/// A quarter of half a block of Q6_K, 32 numbers.
template <int quarter>
[[gnu::always_inline]] inline void quarter_q6_k(const std::uint8_t* low, const std::uint8_t* high,
                                                const std::uint8_t* scales, float d, float* y) {
  for (int half = 0; half < 32; half += 16) {
    const auto four = vector_at<Bytes16>(low + quarter % 2 * 32 + half);
    const auto two = vector_at<Bytes16>(high + half);
    const Bytes16 q = (quarter < 2 ? four & 15 : four >> 4) | (two >> (quarter * 2) & 3) << 4;
    const float by = d * static_cast<float>(static_cast<std::int8_t>(scales[quarter * 2 + half / 16]));
    put_scaled<false>(__builtin_convertvector(q, Ints16) - 32, by, 0, y + quarter * 32 + half);
  }
}

template <InstructionSet set>
[[gnu::always_inline]] inline void block_q6_k(const std::uint8_t* b, float* y) {
  const float d = half_at<set>(b + 208);
  for (int part = 0; part < 2; ++part) {
    const std::uint8_t *const low = b + part * 64, *const high = b + 128 + part * 32;
    const std::uint8_t* const scales = b + 192 + part * 8;
    quarter_q6_k<0>(low, high, scales, d, y + part * 128);
    quarter_q6_k<1>(low, high, scales, d, y + part * 128);
    quarter_q6_k<2>(low, high, scales, d, y + part * 128);
    quarter_q6_k<3>(low, high, scales, d, y + part * 128);
  }
}

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
  else if constexpr (type == Type::Q8_0)
    block_q8_0<set>(b, y);
  else if constexpr (type == Type::Q2_K)
    block_q2_k<set>(b, y);
  else if constexpr (type == Type::Q3_K)
    block_q3_k<set>(b, y);
  else if constexpr (type == Type::Q4_K || type == Type::Q5_K)
    block_q45_k<set, type == Type::Q5_K>(b, y);
  else if constexpr (type == Type::Q6_K)
    block_q6_k<set>(b, y);
  else
    small_block<set, type == Type::Q5_0 || type == Type::Q5_1, type == Type::Q4_1 || type == Type::Q5_1>(b,
                                                                                                         y);
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
