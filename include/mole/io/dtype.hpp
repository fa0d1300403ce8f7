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
#include <mole/core/quote.hpp>
#include <mole/core/scalar.hpp>
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

namespace detail {

// Types of the format that the library does not read, with the bits of one element.
struct ForeignDtype {
  std::string_view name;
  Index bits;
};

inline constexpr std::array<ForeignDtype, 14> foreign_dtypes{{{"I8", 8},
                                                              {"I16", 16},
                                                              {"U16", 16},
                                                              {"U32", 32},
                                                              {"U64", 64},
                                                              {"C64", 64},
                                                              {"F4", 4},
                                                              {"F6_E2M3", 6},
                                                              {"F6_E3M2", 6},
                                                              {"F8_E4M3", 8},
                                                              {"F8_E5M2", 8},
                                                              {"F8_E8M0", 8},
                                                              {"F8_E4M3FNUZ", 8},
                                                              {"F8_E5M2FNUZ", 8}}};

inline const ForeignDtype* foreign_dtype(std::string_view name) {
  for (const auto& dtype : foreign_dtypes)
    if (dtype.name == name) return &dtype;
  return nullptr;
}

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
  throw FormatError(
      message("dtype", quote(name), "is not supported: expected F64, F32, F16, BF16, I64, I32, U8 or BOOL"));
}

inline std::ostream& operator<<(std::ostream& out, Dtype dtype) { return out << dtype_name(dtype); }

/// The host's types that stored numbers convert to and from.
template <class T>
concept HostNumber = std::same_as<T, double> || std::same_as<T, float> || Narrow<T> ||
    std::same_as<T, std::int64_t> || std::same_as<T, std::int32_t> || std::same_as<T, std::uint8_t>;

namespace detail {

// Reals round; whole numbers must keep their value, else E is thrown.
template <class E, class To, class From>
To number_cast(From value) {
  if constexpr (std::floating_point<To> || Narrow<To>) {
    return static_cast<To>(value);
  } else if constexpr (std::integral<From>) {
    MOLE_CHECK_AS(E, std::in_range<To>(value), "the number", +value, "does not fit", sizeof(To), "bytes");
    return static_cast<To>(value);
  } else {
    const double real = static_cast<double>(value);
    const bool fits = is_finite(real) && real >= static_cast<double>(std::numeric_limits<To>::min()) &&
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
      return detail::decode_each<half>(data, n, out, [](half stored) { return float{stored}; });
    case Dtype::BF16:
      return detail::decode_each<bf16>(data, n, out, [](bf16 stored) { return float{stored}; });
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
  switch (dtype) {
    case Dtype::F64:
      return detail::encode_each<double>(in, n, out, [](T x) { return static_cast<double>(x); });
    case Dtype::F32:
      return detail::encode_each<float>(in, n, out, [](T x) { return static_cast<float>(x); });
    case Dtype::F16:
      return detail::encode_each<half>(in, n, out, [](Compute<T> x) { return half(x); });
    case Dtype::BF16:
      return detail::encode_each<bf16>(in, n, out, [](Compute<T> x) { return bf16(x); });
    case Dtype::I64:
      return detail::encode_each<std::int64_t>(in, n, out,
                                               detail::number_cast<ArgumentError, std::int64_t, Compute<T>>);
    case Dtype::I32:
      return detail::encode_each<std::int32_t>(in, n, out,
                                               detail::number_cast<ArgumentError, std::int32_t, Compute<T>>);
    case Dtype::U8:
      return detail::encode_each<std::uint8_t>(in, n, out,
                                               detail::number_cast<ArgumentError, std::uint8_t, Compute<T>>);
    case Dtype::BOOL:
      return detail::encode_each<std::uint8_t>(
          in, n, out, [](T x) { return static_cast<std::uint8_t>(Compute<T>(x) != 0); });
  }
}

}  // namespace mole
