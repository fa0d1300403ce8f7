#pragma once
// The numbers of checkpoint files: their names and sizes, and conversion from and to the host's types.

#include <array>
#include <bit>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <ostream>
#include <string>
#include <string_view>
#include <utility>

#include <mole/core/error.hpp>
#include <mole/core/shape.hpp>

namespace mole {

static_assert(std::endian::native == std::endian::little,
              "checkpoints are little-endian and are read in place");

/// The stored types that the library reads and writes.
enum class Dtype { F64, F32, F16, BF16, I64, I32, U8, BOOL };

namespace detail {

struct DtypeRow {
  Dtype dtype;
  std::string_view name;
  Index bytes;
};

inline constexpr std::array<DtypeRow, 8> dtype_rows{{{Dtype::F64, "F64", 8},
                                                     {Dtype::F32, "F32", 4},
                                                     {Dtype::F16, "F16", 2},
                                                     {Dtype::BF16, "BF16", 2},
                                                     {Dtype::I64, "I64", 8},
                                                     {Dtype::I32, "I32", 4},
                                                     {Dtype::U8, "U8", 1},
                                                     {Dtype::BOOL, "BOOL", 1}}};

}  // namespace detail

/// The name in a safetensors header, such as "BF16".
constexpr std::string_view dtype_name(Dtype dtype) {
  return detail::dtype_rows[static_cast<std::size_t>(dtype)].name;
}

/// Bytes of one element.
constexpr Index dtype_size(Dtype dtype) { return detail::dtype_rows[static_cast<std::size_t>(dtype)].bytes; }

/// Whether it holds real numbers: F64, F32, F16 or BF16.
constexpr bool is_floating(Dtype dtype) { return dtype <= Dtype::BF16; }

/// The type of that name. Throws FormatError for any other name.
inline Dtype dtype_from_name(std::string_view name) {
  for (const auto& row : detail::dtype_rows)
    if (row.name == name) return row.dtype;
  throw FormatError(message(
      "dtype",
      "'" + std::string(name) + "' is not supported: expected F64, F32, F16, BF16, I64, I32, U8 or BOOL"));
}

inline std::ostream& operator<<(std::ostream& out, Dtype dtype) { return out << dtype_name(dtype); }

/// The host's types that stored numbers convert to and from.
template <class T>
concept HostNumber = std::same_as<T, double> || std::same_as<T, float> || std::same_as<T, std::int64_t> ||
    std::same_as<T, std::int32_t> || std::same_as<T, std::uint8_t>;

namespace detail {

// A float to be rounded once more. Rounding to odd on the way from double keeps the second rounding, to half
// or bfloat16, the one that the double itself would have had.
inline float narrow_to_odd(float value) { return value; }
inline float narrow_to_odd(double value) {
  const float nearest = static_cast<float>(value);
  if (std::isnan(value) || static_cast<double>(nearest) == value) return nearest;
  if (std::bit_cast<std::uint32_t>(nearest) & 1U) return nearest;
  const float side = static_cast<double>(nearest) < value ? std::numeric_limits<float>::infinity()
                                                          : -std::numeric_limits<float>::infinity();
  return std::nextafter(nearest, side);
}

}  // namespace detail

/// IEEE half, as its bits, nearest to the value (ties to even). Beyond its range: infinity. NaN stays NaN.
template <std::floating_point T>
std::uint16_t half_bits(T value) {
  const auto bits = std::bit_cast<std::uint32_t>(detail::narrow_to_odd(value));
  const std::uint32_t sign = (bits >> 16) & 0x8000U;
  const std::uint32_t magnitude = bits & 0x7fffffffU;
  std::uint32_t half;
  if (magnitude > 0x7f800000U) {
    half = 0x7e00U | ((magnitude >> 13) & 0x3ffU);
  } else if (magnitude >= 0x477ff000U) {
    half = 0x7c00U;
  } else if (magnitude >= 0x38800000U) {
    half = (magnitude + 0x0fffU + ((magnitude >> 13) & 1U) - 0x38000000U) >> 13;
  } else {
    // The last bit of 0.5f weighs as much as that of a subnormal half: the addition rounds.
    half = std::bit_cast<std::uint32_t>(std::bit_cast<float>(magnitude) + 0.5F) - 0x3f000000U;
  }
  return static_cast<std::uint16_t>(sign | half);
}

/// The value of an IEEE half given as its bits.
inline float half_value(std::uint16_t half) {
  const std::uint32_t sign = (half & 0x8000U) << 16;
  const std::uint32_t exponent = (half >> 10) & 0x1fU;
  const std::uint32_t fraction = half & 0x3ffU;
  if (exponent == 0x1fU) return std::bit_cast<float>(sign | 0x7f800000U | (fraction << 13));
  if (exponent != 0) return std::bit_cast<float>(sign | ((exponent + 112U) << 23) | (fraction << 13));
  const float magnitude = static_cast<float>(fraction) * 0x1p-24F;
  return sign ? -magnitude : magnitude;
}

/// bfloat16, as its bits, nearest to the value (ties to even). Beyond its range: infinity. NaN stays NaN.
template <std::floating_point T>
std::uint16_t bfloat16_bits(T value) {
  const auto bits = std::bit_cast<std::uint32_t>(detail::narrow_to_odd(value));
  if ((bits & 0x7fffffffU) > 0x7f800000U) return static_cast<std::uint16_t>((bits >> 16) | 0x40U);
  return static_cast<std::uint16_t>((bits + 0x7fffU + ((bits >> 16) & 1U)) >> 16);
}

/// The value of a bfloat16 given as its bits.
inline float bfloat16_value(std::uint16_t bits) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
}

namespace detail {

// Reals round; whole numbers must keep their value, else E is thrown.
template <class E, class To, class From>
To number_cast(From value) {
  if constexpr (std::floating_point<To>) {
    return static_cast<To>(value);
  } else if constexpr (std::integral<From>) {
    MOLE_CHECK_AS(E, std::in_range<To>(value), "the number", +value, "does not fit", sizeof(To), "bytes");
    return static_cast<To>(value);
  } else {
    const double real = static_cast<double>(value);
    const bool fits = real >= static_cast<double>(std::numeric_limits<To>::min()) &&
                      real < static_cast<double>(std::numeric_limits<To>::max()) + 1.0;
    // max() + 1.0 is max() rounded up where To has 64 bits, and one more than max() elsewhere.
    MOLE_CHECK_AS(E, fits && std::trunc(real) == real, "the number", real, "is not a whole number of",
                  sizeof(To), "bytes");
    return static_cast<To>(value);
  }
}

template <class Stored, class T, class Value>
void decode_each(const std::byte* data, Index n, T* out, Value value) {
  for (Index i = 0; i < n; ++i) {
    Stored stored;
    std::memcpy(&stored, data + i * static_cast<Index>(sizeof(Stored)), sizeof(Stored));
    out[i] = number_cast<FormatError, T>(value(stored));
  }
}

template <class Stored, class T, class Bits>
void encode_each(const T* in, Index n, std::byte* out, Bits bits) {
  for (Index i = 0; i < n; ++i) {
    const Stored stored = bits(in[i]);
    std::memcpy(out + i * static_cast<Index>(sizeof(Stored)), &stored, sizeof(Stored));
  }
}

}  // namespace detail

/// Reads n stored numbers, which need no alignment, into out[0, n). Any byte but 0 is a true BOOL.
/// Throws FormatError where T is a whole number and a stored value is not, or does not fit.
template <HostNumber T>
void decode(Dtype dtype, const std::byte* data, Index n, T* out) {
  const auto same = [](auto stored) { return stored; };
  switch (dtype) {
    case Dtype::F64:
      return detail::decode_each<double>(data, n, out, same);
    case Dtype::F32:
      return detail::decode_each<float>(data, n, out, same);
    case Dtype::F16:
      return detail::decode_each<std::uint16_t>(data, n, out, half_value);
    case Dtype::BF16:
      return detail::decode_each<std::uint16_t>(data, n, out, bfloat16_value);
    case Dtype::I64:
      return detail::decode_each<std::int64_t>(data, n, out, same);
    case Dtype::I32:
      return detail::decode_each<std::int32_t>(data, n, out, same);
    case Dtype::U8:
      return detail::decode_each<std::uint8_t>(data, n, out, same);
    case Dtype::BOOL:
      return detail::decode_each<std::uint8_t>(data, n, out,
                                               [](std::uint8_t byte) { return int{byte != 0}; });
  }
}

/// Writes in[0, n) as stored numbers to out, n * dtype_size(dtype) bytes. Reals round to nearest even; BOOL
/// is "not zero". Throws ArgumentError where the stored type is a whole number that cannot hold a value.
template <HostNumber T>
void encode(Dtype dtype, const T* in, Index n, std::byte* out) {
  using Real = std::conditional_t<std::same_as<T, float>, float, double>;
  const auto real = [](T x) { return static_cast<Real>(x); };
  switch (dtype) {
    case Dtype::F64:
      return detail::encode_each<double>(in, n, out, [](T x) { return static_cast<double>(x); });
    case Dtype::F32:
      return detail::encode_each<float>(in, n, out, [](T x) { return static_cast<float>(x); });
    case Dtype::F16:
      return detail::encode_each<std::uint16_t>(in, n, out, [&](T x) { return half_bits(real(x)); });
    case Dtype::BF16:
      return detail::encode_each<std::uint16_t>(in, n, out, [&](T x) { return bfloat16_bits(real(x)); });
    case Dtype::I64:
      return detail::encode_each<std::int64_t>(in, n, out,
                                               detail::number_cast<ArgumentError, std::int64_t, T>);
    case Dtype::I32:
      return detail::encode_each<std::int32_t>(in, n, out,
                                               detail::number_cast<ArgumentError, std::int32_t, T>);
    case Dtype::U8:
      return detail::encode_each<std::uint8_t>(in, n, out,
                                               detail::number_cast<ArgumentError, std::uint8_t, T>);
    case Dtype::BOOL:
      return detail::encode_each<std::uint8_t>(in, n, out,
                                               [](T x) { return static_cast<std::uint8_t>(x != T(0)); });
  }
}

}  // namespace mole
