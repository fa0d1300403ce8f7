#include <doctest/doctest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include <mole/io/dtype.hpp>

using namespace mole;

TEST_CASE("A stored type is found by its name and no other name is accepted") {
  for (const auto dtype :
       {Dtype::F64, Dtype::F32, Dtype::F16, Dtype::BF16, Dtype::I64, Dtype::I32, Dtype::U8, Dtype::BOOL})
    CHECK(dtype_from_name(dtype_name(dtype)) == dtype);
  CHECK(dtype_size(Dtype::BF16) == 2);
  CHECK(dtype_size(Dtype::I64) == 8);
  CHECK_THROWS_AS(dtype_from_name("F8_E4M3"), FormatError);
  CHECK_THROWS_AS(dtype_from_name("f32"), FormatError);
}

TEST_CASE("Halves round to nearest even, with subnormals, overflow and NaN") {
  struct Row {
    double value;
    std::uint16_t bits;
  };
  const double inf = std::numeric_limits<double>::infinity();
  for (const auto& row : std::vector<Row>{{0.0, 0x0000},           {-0.0, 0x8000},
                                          {1.0, 0x3c00},           {-2.0, 0xc000},
                                          {1.0 / 3, 0x3555},       {65504.0, 0x7bff},
                                          {65519.99, 0x7bff},      {65520.0, 0x7c00},
                                          {1e30, 0x7c00},          {1e300, 0x7c00},
                                          {-inf, 0xfc00},          {1.0 + 0x1p-11, 0x3c00},
                                          {1.0 + 0x3p-11, 0x3c02}, {1.0 + 0x1p-11 + 0x1p-40, 0x3c01},
                                          {0x1p-14, 0x0400},       {0x1p-24, 0x0001},
                                          {0x1p-25, 0x0000},       {0x1.8p-25, 0x0001},
                                          {0x3p-25, 0x0002},       {0x1p-14 - 0x1p-26, 0x0400},
                                          {-0x1p-149, 0x8000}}) {
    const auto& value = row.value;
    const auto& bits = row.bits;
    CAPTURE(value);
    CHECK(half_bits(value) == bits);
  }
  CHECK(std::isnan(half_value(half_bits(std::numeric_limits<float>::quiet_NaN()))));
}

TEST_CASE("Every half survives the way to float and back") {
  for (std::uint32_t bits = 0; bits < 0x10000; ++bits) {
    const auto half = static_cast<std::uint16_t>(bits);
    const float value = half_value(half);
    if (std::isnan(value)) {
      REQUIRE((half & 0x7c00) == 0x7c00);
      REQUIRE(std::isnan(half_value(half_bits(value))));
    } else {
      REQUIRE(half_bits(value) == half);
      REQUIRE(half_bits(static_cast<double>(value)) == half);
    }
  }
}

TEST_CASE("The float between two neighbouring halves rounds to the even one, and beside it to the nearer") {
  for (std::uint32_t bits = 0; bits < 0x7bff; ++bits) {
    const auto low = static_cast<std::uint16_t>(bits), high = static_cast<std::uint16_t>(bits + 1);
    const float middle = (half_value(low) + half_value(high)) / 2;
    REQUIRE(half_bits(middle) == (low % 2 ? high : low));
    REQUIRE(half_bits(std::nextafter(middle, 0.0F)) == low);
    REQUIRE(half_bits(std::nextafter(middle, 1e9F)) == high);
    REQUIRE(half_bits(std::nextafter(static_cast<double>(middle), 1e9)) == high);
  }
}

TEST_CASE("Bfloat16 rounds to nearest even, with overflow and NaN") {
  CHECK(bfloat16_bits(1.0F) == 0x3f80);
  CHECK(bfloat16_bits(-3.140625F) == 0xc049);
  CHECK(bfloat16_bits(1.0 + 0x1p-8) == 0x3f80);
  CHECK(bfloat16_bits(1.0 + 0x3p-8) == 0x3f82);
  CHECK(bfloat16_bits(1.0 + 0x1p-8 + 0x1p-45) == 0x3f81);
  CHECK(bfloat16_bits(std::numeric_limits<float>::max()) == 0x7f80);
  CHECK(bfloat16_bits(1e300) == 0x7f80);
  CHECK(bfloat16_bits(-1e-300) == 0x8000);
  CHECK(bfloat16_bits(0x1p-133) == 0x0001);
  CHECK(std::isnan(bfloat16_value(bfloat16_bits(std::bit_cast<float>(0x7f800001U)))));
  for (std::uint32_t bits = 0; bits < 0x10000; ++bits) {
    const float value = bfloat16_value(static_cast<std::uint16_t>(bits));
    if (!std::isnan(value)) REQUIRE(bfloat16_bits(value) == bits);
  }
}

TEST_CASE_TEMPLATE("Numbers survive storage in every type that holds them, at any alignment", T, double,
                   float, std::int64_t, std::int32_t, std::uint8_t) {
  const std::vector<T> values{T(0), T(1), T(2), T(96), T(1)};
  for (const auto dtype :
       {Dtype::F64, Dtype::F32, Dtype::F16, Dtype::BF16, Dtype::I64, Dtype::I32, Dtype::U8}) {
    CAPTURE(dtype);
    std::vector<std::byte> stored(1 + 5 * static_cast<std::size_t>(dtype_size(dtype)));
    encode(dtype, values.data(), 5, stored.data() + 1);
    std::vector<T> read(5);
    decode(dtype, stored.data() + 1, 5, read.data());
    CHECK(read == values);
  }
  std::vector<std::byte> stored(5);
  encode(Dtype::BOOL, values.data(), 5, stored.data());
  std::vector<T> read(5);
  decode(Dtype::BOOL, stored.data(), 5, read.data());
  CHECK(read == std::vector<T>{T(0), T(1), T(1), T(1), T(1)});
}

TEST_CASE("A number that the type cannot hold is refused rather than bent") {
  std::vector<std::byte> stored(8);
  for (const double value : {0.5, -1.0, 256.0, std::nan(""), 1e300})
    CHECK_THROWS_AS(encode(Dtype::U8, &value, 1, stored.data()), ArgumentError);
  const double largest = 0x1p63;
  CHECK_THROWS_AS(encode(Dtype::I64, &largest, 1, stored.data()), ArgumentError);

  const double half = 2.5;
  encode(Dtype::F64, &half, 1, stored.data());
  std::int64_t whole;
  CHECK_THROWS_AS(decode(Dtype::F64, stored.data(), 1, &whole), FormatError);
  const std::int64_t wide = std::int64_t{1} << 40;
  encode(Dtype::I64, &wide, 1, stored.data());
  std::int32_t narrow;
  CHECK_THROWS_AS(decode(Dtype::I64, stored.data(), 1, &narrow), FormatError);
  decode(Dtype::I64, stored.data(), 1, &whole);
  CHECK(whole == wide);
}
