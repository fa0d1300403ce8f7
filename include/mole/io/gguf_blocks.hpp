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

#include <mole/core/error.hpp>
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
inline float half_at(const std::uint8_t* bytes) { return float{stored_at<half>(bytes)}; }

/// a b and a b - c, each rounded to float once: the compiler must not fuse the two.
inline float rounded_product(float a, float b) {
  return static_cast<float>(static_cast<double>(a) * static_cast<double>(b));
}
inline float product_less(float a, float b, float c) {
  return static_cast<float>(static_cast<double>(rounded_product(a, b)) - static_cast<double>(c));
}

/// Q4_0, Q4_1, Q5_0, Q5_1: 32 numbers of 4 or 5 bits with a scale and a least value or a middle.
inline void small_block(GgufType type, const std::uint8_t* b, float* y) {
  const bool least = type == GgufType::Q4_1 || type == GgufType::Q5_1;
  const bool fifth = type == GgufType::Q5_0 || type == GgufType::Q5_1;
  const float d = half_at(b), m = least ? half_at(b + 2) : 0;
  b += least ? 4 : 2;
  const auto high = fifth ? stored_at<std::uint32_t>(b) : 0;
  if (fifth) b += 4;
  const int middle = least ? 0 : fifth ? 16 : 8;
  for (int i = 0; i < 32; ++i) {
    const int nibble = i < 16 ? b[i] & 15 : b[i - 16] >> 4;
    const int q = nibble | static_cast<int>((high >> i) & 1U) << 4;
    y[i] = least ? product_less(d, static_cast<float>(q), -m)
                 : rounded_product(d, static_cast<float>(q - middle));
  }
}

inline void block_q8_0(const std::uint8_t* b, float* y) {
  const float d = half_at(b);
  for (int i = 0; i < 32; ++i)
    y[i] = rounded_product(d, static_cast<float>(static_cast<std::int8_t>(b[2 + i])));
}

inline void block_q2_k(const std::uint8_t* b, float* y) {
  const float d = half_at(b + 80), least = half_at(b + 82);
  for (int i = 0; i < 256; ++i) {
    const int half_of = i / 128, shift = i % 128 / 32 * 2;
    const int q = b[16 + half_of * 32 + i % 32] >> shift & 3, scales = b[i / 16];
    y[i] = product_less(rounded_product(d, static_cast<float>(scales & 15)), static_cast<float>(q),
                        rounded_product(least, static_cast<float>(scales >> 4)));
  }
}

inline void block_q3_k(const std::uint8_t* b, float* y) {
  const std::uint8_t *const high = b, *const low = b + 32, *const s = b + 96;
  const float d = half_at(b + 108);
  for (int i = 0; i < 256; ++i) {
    const int j = i / 16, shift = i % 128 / 32 * 2;
    const int four = j < 8 ? s[j] & 15 : s[j - 8] >> 4, two = s[8 + j % 4] >> (j / 4 * 2) & 3;
    const int bit = high[i % 32] >> (i / 32) & 1;
    const int q = (low[i / 128 * 32 + i % 32] >> shift & 3) - (bit ? 0 : 4);
    y[i] = rounded_product(rounded_product(d, static_cast<float>((four | two << 4) - 32)),
                           static_cast<float>(q));
  }
}

/// Q4_K and Q5_K: eight parts of 32 numbers with scales and least values of 6 bits.
inline void block_q45_k(bool fifth, const std::uint8_t* b, float* y) {
  const float d = half_at(b), least = half_at(b + 2);
  const std::uint8_t* const s = b + 4;
  const std::uint8_t* const high = b + 16;
  const std::uint8_t* const low = b + (fifth ? 48 : 16);
  for (int j = 0; j < 8; ++j) {
    const int scale = j < 4 ? s[j] & 63 : (s[j + 4] & 15) | (s[j - 4] >> 6) << 4;
    const int offset = j < 4 ? s[j + 4] & 63 : (s[j + 4] >> 4) | (s[j] >> 6) << 4;
    const float by = rounded_product(d, static_cast<float>(scale));
    const float less = rounded_product(least, static_cast<float>(offset));
    for (int l = 0; l < 32; ++l) {
      const int byte = low[j / 2 * 32 + l], nibble = j % 2 == 0 ? byte & 15 : byte >> 4;
      const int q = nibble | (fifth ? (high[l] >> j & 1) << 4 : 0);
      y[j * 32 + l] = product_less(by, static_cast<float>(q), less);
    }
  }
}

inline void block_q6_k(const std::uint8_t* b, float* y) {
  const float d = half_at(b + 208);
  for (int i = 0; i < 256; ++i) {
    const int part = i / 128, quarter = i % 128 / 32, l = i % 32;
    const int byte = b[part * 64 + quarter % 2 * 32 + l], nibble = quarter < 2 ? byte & 15 : byte >> 4;
    const int two = b[128 + part * 32 + l] >> (quarter * 2) & 3;
    const auto scale = static_cast<std::int8_t>(b[192 + part * 8 + quarter * 2 + l / 16]);
    y[i] = rounded_product(rounded_product(d, static_cast<float>(scale)),
                           static_cast<float>((nibble | two << 4) - 32));
  }
}

/// One block of `type`; a plain number is a block of its own.
inline void gguf_block(GgufType type, const std::uint8_t* b, float* y) {
  switch (type) {
    case GgufType::F32:
      y[0] = stored_at<float>(b);
      return;
    case GgufType::F16:
      y[0] = half_at(b);
      return;
    case GgufType::BF16:
      y[0] = float{stored_at<bf16>(b)};
      return;
    case GgufType::Q4_0:
    case GgufType::Q4_1:
    case GgufType::Q5_0:
    case GgufType::Q5_1:
      return small_block(type, b, y);
    case GgufType::Q8_0:
      return block_q8_0(b, y);
    case GgufType::Q2_K:
      return block_q2_k(b, y);
    case GgufType::Q3_K:
      return block_q3_k(b, y);
    case GgufType::Q4_K:
      return block_q45_k(false, b, y);
    case GgufType::Q5_K:
      return block_q45_k(true, b, y);
    case GgufType::Q6_K:
      return block_q6_k(b, y);
  }
}

}  // namespace detail

/// Writes the n numbers of stored blocks to out, n a multiple of the format's values. Returns the first block
/// whose scale makes numbers that are not finite, or -1; plain numbers may be anything.
template <class T>
Index dequantise(const GgufFormat& format, const std::byte* data, Index n, T* out) {
  const auto* bytes = reinterpret_cast<const std::uint8_t*>(data);
  const Index blocks = n / format.values;
  Index bad = blocks;
  MOLE_OMP("omp parallel for schedule(static) reduction(min : bad) if (n > 100000)")
  for (Index i = 0; i < blocks; ++i) {
    float y[256];
    detail::gguf_block(format.type, bytes + i * format.bytes, y);
    T* const to = out + i * format.values;
    bool finite = true;
    for (Index j = 0; j < format.values; ++j) {
      finite = finite && is_finite(y[j]);
      to[j] = static_cast<T>(y[j]);
    }
    if (!finite && format.values > 1) bad = std::min(bad, i);
  }
  return bad < blocks ? bad : -1;
}

}  // namespace mole
