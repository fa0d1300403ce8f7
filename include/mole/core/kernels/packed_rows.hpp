#pragma once
// A packed matrix as a device holds it, and the kernels for it, which a backend may offer beside the primitives of its
// concept:
//   static void unpack_numbers(const UnpackNumbers<T>&)      some of its numbers
//   static bool packed_product(const PackedProduct<T>&)      y (+)= x W^T of a few rows; false for what it is not
//                                                            made for, before it has done anything
// On a backend that lacks them weights are not kept packed.
//
// Numbers are counted through the whole matrix, row by row. Eight neighbours are an *eight*, 32 are a *group*; the last
// ones are padded. Bytes lie in parts, so that a thread reads 4 to 16 of them at once:
//
//   codes   4, 5, 6 bits: the lower four, number j of an eight in bits [4 j, 4 j + 4) of its 32;  8 and 16 bits: as they are
//   high    5, 6 bits: the upper one or two, in the order of packed_high_place()
//   fine    what a block's codes are multiplied by, or its scale among those of 256 numbers
//   coarse  scales of 256 numbers
//
//   format              number                       fine                               coarse
//   map4 (NF4, FP4)     map[q] s                     float s of 2^block_bits numbers
//   int8                (q - 128) s / 127            float s of a row
//   q4_0, q5_0, q8_0    (q - 8, 16, 128) d           half d of a group
//   q4_1, q5_1          q d + m                      half d, half m of a group
//   q4_k, q5_k          q (d s) - (m l)              bytes s, l of a group              half d, half m
//   q6_k                (q - 32) (d s)               signed byte s of 16 numbers        half d
//   f16, bf16           the code itself

#include <bit>
#include <concepts>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include <mole/core/kernels/row_layers.hpp>
#include <mole/core/scalar.hpp>
#include <mole/core/shape.hpp>

namespace mole {

/// What a packed matrix is made of; `none`: devices do not read it.
enum class PackedFormat { none, map4, int8, q4_0, q4_1, q5_0, q5_1, q8_0, q4_k, q5_k, q6_k, f16, bf16 };

/// W [d_out, d_in] at `data`, its parts at these distances in bytes, multiples of 16. The codes come first.
struct PackedMatrix {
  PackedFormat format = PackedFormat::none;
  int block_bits = 0;  ///< of map4: 2^block_bits numbers, 8 or more, have one scale
  Index d_out = 0, d_in = 0;
  Index high = 0, fine = 0, coarse = 0;
  float map[16] = {};
  const std::uint8_t* data = nullptr;
};

/// out [rows, columns] = the numbers of rows [first_row, first_row + rows), or of rows `ids` where given, in columns
/// [first_column, first_column + columns).
template <class T>
struct UnpackNumbers {
  PackedMatrix W;
  T* out;
  Index rows, columns;
  Index first_row = 0, first_column = 0;
  const Index* ids = nullptr;
};

/// y_i = x W_i^T for i < count, added to y_i where `add` is set. The W_i are alike but for their rows and numbers.
///   x [rows, d_in], y_i [rows, d_out of W_i]
template <class T>
struct PackedProduct {
  struct Layer {
    PackedMatrix W;
    T* y;
  };
  const T* x;
  Index rows;
  bool add = false;
  int count = 1;
  Layer layers[most_row_layers] = {};
};

namespace detail {

/// Whether the backend has the kernels for T.
template <class T, class B>
constexpr bool has_packed_kernels = requires(const UnpackNumbers<T>& unpack,
                                             const PackedProduct<T>& product) {
  B::unpack_numbers(unpack);
  { B::packed_product(product) } -> std::same_as<bool>;
};

/// Bits of a code.
constexpr int packed_bits(PackedFormat format) {
  using F = PackedFormat;
  if (format == F::f16 || format == F::bf16) return 16;
  if (format == F::int8 || format == F::q8_0) return 8;
  if (format == F::q6_k) return 6;
  return format == F::q5_0 || format == F::q5_1 || format == F::q5_k ? 5 : 4;
}
/// What is taken off a code.
constexpr int packed_middle(PackedFormat format) {
  using F = PackedFormat;
  if (format == F::int8 || format == F::q8_0) return 128;
  if (format == F::q6_k) return 32;
  return format == F::q4_0 ? 8 : format == F::q5_0 ? 16 : 0;
}
/// Whether a block has a least value.
constexpr bool packed_least(PackedFormat format) {
  using F = PackedFormat;
  return format == F::q4_1 || format == F::q5_1 || format == F::q4_k || format == F::q5_k;
}
/// Whether 256 numbers share scales.
constexpr bool packed_nested(PackedFormat format) {
  using F = PackedFormat;
  return format == F::q4_k || format == F::q5_k || format == F::q6_k;
}
/// Bytes of a group in `codes`, `high` and `fine` (of which map4 and int8 have another count), and of 256 numbers in
/// `coarse`.
constexpr Index packed_code_bytes(PackedFormat format) {
  const int bits = packed_bits(format);
  return bits < 8 ? 16 : 4 * bits;
}
constexpr Index packed_high_bytes(PackedFormat format) {
  const int bits = packed_bits(format);
  return bits == 5 ? 4 : bits == 6 ? 8 : 0;
}
constexpr Index packed_fine_bytes(PackedFormat format) {
  if (packed_bits(format) == 16) return 0;
  return packed_least(format) && !packed_nested(format) ? 4 : 2;
}
constexpr Index packed_coarse_bytes(PackedFormat format) {
  return packed_nested(format) ? packed_least(format) ? 4 : 2 : 0;
}

/// n words that are read at once.
template <int n>
struct alignas(4 * n) Words {
  std::uint32_t of[n];
};

/// What lies at p, which is a multiple of its size.
template <class Stored>
MOLE_HD Stored packed_at(const std::uint8_t* p) {
#if defined(__CUDA_ARCH__)
  return *reinterpret_cast<const Stored*>(p);
#else
  Stored value;
  std::memcpy(&value, p, sizeof value);
  return value;
#endif
}

/// word & mask | with, which is one instruction of a GPU.
MOLE_HD inline std::uint32_t packed_and_or(std::uint32_t word, std::uint32_t mask, std::uint32_t with) {
#if defined(__CUDA_ARCH__)
  std::uint32_t result;
  asm("lop3.b32 %0, %1, %2, %3, 0xEA;" : "=r"(result) : "r"(word), "r"(mask), "r"(with));
  return result;
#else
  return (word & mask) | with;
#endif
}

/// The bit in the upper bits of an eight where those of number j begin: where few instructions spread them over bytes.
constexpr int packed_high_place(PackedFormat format, int j) {
  const int pair = j / 2, odd = j % 2;
  if (packed_bits(format) == 5) return pair + 4 * odd;
  return pair % 2 * 8 + (pair < 2 ? 2 : 0) + 4 * odd;
}

/// The codes of an eight; `high` has its own bits alone.
template <PackedFormat f>
struct PackedEight {
  static constexpr int words = packed_bits(f) < 8 ? 1 : packed_bits(f) / 4;
  Words<words> codes;
  std::uint32_t high;
};

template <PackedFormat f>
MOLE_HD PackedEight<f> packed_eight(const PackedMatrix& W, std::uint32_t eight) {
  constexpr Index code_bytes = packed_code_bytes(f) / 4;
  PackedEight<f> e;
  e.codes = packed_at<Words<PackedEight<f>::words>>(W.data + code_bytes * eight);
  e.high = 0;
  if constexpr (packed_bits(f) == 5) e.high = packed_at<std::uint8_t>(W.data + W.high + eight);
  if constexpr (packed_bits(f) == 6) e.high = packed_at<std::uint16_t>(W.data + W.high + Index{2} * eight);
  return e;
}

/// The scales of an eight as they lie, which are those of its group but for map4 with blocks that are smaller.
struct PackedScaleBits {
  std::uint32_t fine = 0, coarse = 0;
};

template <PackedFormat f>
MOLE_HD PackedScaleBits packed_scale_bits(const PackedMatrix& W, Index row, std::uint32_t eight) {
  PackedScaleBits bits;
  const std::uint8_t* const fine = W.data + W.fine;
  if constexpr (f == PackedFormat::map4)
    bits.fine = packed_at<std::uint32_t>(fine + Index{4} * (eight >> (W.block_bits - 3)));
  else if constexpr (f == PackedFormat::int8)
    bits.fine = packed_at<std::uint32_t>(fine + 4 * row);
  else if constexpr (packed_fine_bytes(f) == 4)
    bits.fine = packed_at<std::uint32_t>(fine + Index{4} * (eight / 4));
  else if constexpr (packed_fine_bytes(f) == 2)
    bits.fine = packed_at<std::uint16_t>(fine + Index{2} * (eight / 4));
  if constexpr (packed_coarse_bytes(f) == 4)
    bits.coarse = packed_at<std::uint32_t>(W.data + W.coarse + Index{4} * (eight / 32));
  else if constexpr (packed_coarse_bytes(f) == 2)
    bits.coarse = packed_at<std::uint16_t>(W.data + W.coarse + Index{2} * (eight / 32));
  return bits;
}

/// A number is  code by  or  code by - less.
struct PackedScale {
  float by = 1, less = 0;
};

/// Of eight `eight`, or any other one of the same half of its group.
template <PackedFormat f>
MOLE_HD PackedScale packed_scale(const PackedScaleBits& bits, std::uint32_t eight) {
  const auto low = [](std::uint32_t pair) { return half_value(static_cast<std::uint16_t>(pair & 0xffffU)); };
  const auto high = [](std::uint32_t pair) { return half_value(static_cast<std::uint16_t>(pair >> 16)); };
  PackedScale s;
  if constexpr (f == PackedFormat::map4 || f == PackedFormat::int8) {
    s.by = std::bit_cast<float>(bits.fine);
  } else if constexpr (f == PackedFormat::q6_k) {
    const auto own = static_cast<std::uint8_t>(eight % 4 < 2 ? bits.fine & 0xffU : bits.fine >> 8);
    s.by = low(bits.coarse) * static_cast<float>(static_cast<std::int8_t>(own));
  } else if constexpr (packed_nested(f)) {
    s.by = low(bits.coarse) * static_cast<float>(bits.fine & 0xffU);
    s.less = high(bits.coarse) * static_cast<float>(bits.fine >> 8);
  } else if constexpr (packed_bits(f) < 16) {
    s.by = low(bits.fine);
    if constexpr (packed_least(f)) s.less = -high(bits.fine);
  }
  return s;
}

/// The map of a matrix, in memory.
struct PackedMap {
  const float* of;

  /// What byte `byte` of `fours` stands for, which is four times a code.
  MOLE_HD float operator()(std::uint32_t fours, int byte) const {
    return of[(fours >> 8 * byte & 0xffU) / 4];
  }
};

/// What a code of `mask`'s bits comes to where it stands, `at` bits up in the lower half of a word, less the middle: 2^at
/// times itself. Integers become floats without the instruction for it, which is slow on a GPU: one below 2^23 is the end
/// of the float that is 2^23 larger.
template <std::uint32_t mask, std::uint32_t middle>
MOLE_HD float packed_code(std::uint32_t word, int at) {
  constexpr std::uint32_t large = 0x4b000000U;
  return std::bit_cast<float>(packed_and_or(word, mask << at, large)) -
         std::bit_cast<float>(middle << at | large);
}

/// The numbers of an eight.
template <PackedFormat f, class Map>
MOLE_HD void packed_numbers(const PackedEight<f>& e, const PackedScale& s, const Map& map, float (&y)[8]) {
  constexpr int bits = packed_bits(f);
  constexpr std::uint32_t middle = packed_middle(f);
  const std::uint32_t first = e.codes.of[0];
  if constexpr (f == PackedFormat::map4) {
    const std::uint32_t even = first << 2 & 0x3c3c3c3cU, odd = first >> 2 & 0x3c3c3c3cU;
    for (int j = 0; j < 8; ++j) y[j] = map(j % 2 == 0 ? even : odd, j / 2) * s.by;
  } else if constexpr (bits == 16) {
    for (int j = 0; j < 8; ++j) {
      const auto code = static_cast<std::uint16_t>(e.codes.of[j / 2] >> 16 * (j % 2) & 0xffffU);
      y[j] = f == PackedFormat::f16 ? half_value(code) : bfloat16_value(code);
    }
  } else if constexpr (f == PackedFormat::int8) {
    // Rounded after each product, as bitsandbytes does.
    for (int j = 0; j < 8; ++j)
      y[j] = packed_code<255, middle>(e.codes.of[j / 4] >> 8 * (j % 4), 0) * s.by * 7.874015718698502e-3F;
  } else {
    // A code is 2^at times as large as it should be; its scale, which is far from the smallest floats, 2^at times as small.
    const float by[4] = {s.by, s.by * 0x1p-4F, s.by * 0x1p-8F, s.by * 0x1p-12F};
    const auto put = [&]<std::uint32_t mask>(int j, std::uint32_t word, int at,
                                             std::integral_constant<std::uint32_t, mask>) {
      y[j] = packed_code<mask, middle>(word, at) * by[at / 4];
      if constexpr (packed_least(f)) y[j] = y[j] - s.less;
    };
    constexpr std::integral_constant<std::uint32_t, 15> nibble;
    constexpr std::integral_constant<std::uint32_t, 255> byte;
    if constexpr (bits == 4) {
      for (int j = 0; j < 8; ++j) put(j, first >> j / 4 * 16, j % 4 * 4, nibble);
    } else if constexpr (bits == 8) {
      for (int j = 0; j < 8; ++j) put(j, e.codes.of[j / 4] >> j / 2 % 2 * 16, j % 2 * 8, byte);
    } else {
      // The upper bits spread over bytes, then with the lower ones: numbers 0, 2, 4, 6 and 1, 3, 5, 7.
      std::uint32_t even, odd;
      if constexpr (bits == 5) {
        constexpr std::uint32_t seven_apart = 0x02040810U, ones = 0x10101010U;
        even = packed_and_or((e.high & 15U) * seven_apart, ones, first & 0x0f0f0f0fU);
        odd = packed_and_or((e.high >> 4) * seven_apart, ones, first >> 4 & 0x0f0f0f0fU);
      } else {
        constexpr std::uint32_t eighteen_apart = 0x00040001U, threes = 0x30303030U;
        const std::uint32_t spread = e.high * eighteen_apart;
        even = packed_and_or(spread << 2, threes, first & 0x0f0f0f0fU);
        odd = packed_and_or(spread >> 2, threes, first >> 4 & 0x0f0f0f0fU);
      }
      for (int j = 0; j < 8; ++j) put(j, (j % 2 == 0 ? even : odd) >> j / 4 * 16, j / 2 % 2 * 8, byte);
    }
  }
}

/// Number j of row `row`, wherever eights lie.
template <PackedFormat f, class Map>
MOLE_HD float packed_number(const PackedMatrix& W, Index row, Index j, const Map& map) {
  const Index i = row * W.d_in + j;
  const auto eight = static_cast<std::uint32_t>(i / 8);
  float y[8];
  packed_numbers<f>(packed_eight<f>(W, eight), packed_scale<f>(packed_scale_bits<f>(W, row, eight), eight),
                    map, y);
  float found = y[0];
  for (int k = 1; k < 8; ++k) found = i % 8 == k ? y[k] : found;
  return found;
}

template <PackedFormat... formats, class F>
void with_packed_format_of(PackedFormat format, const F& f) {
  (void)((format == formats && (f(std::integral_constant<PackedFormat, formats>()), true)) || ...);
}

/// f(std::integral_constant<PackedFormat, ..>) of a format that devices read.
template <class F>
void with_packed_format(PackedFormat format, const F& f) {
  using Format = PackedFormat;
  with_packed_format_of<Format::map4, Format::int8, Format::q4_0, Format::q4_1, Format::q5_0, Format::q5_1,
                        Format::q8_0, Format::q4_k, Format::q5_k, Format::q6_k, Format::f16, Format::bf16>(
      format, f);
}

}  // namespace detail

}  // namespace mole
