// The study's pictures as bytes.

#include <limits>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <testing.hpp>

#include "pictures/picture.hpp"

namespace pictures::picture_tests {

using mole::testing::lacks;

TEST_CASE("Values become bytes, and NaN is refused with its place") {
  std::vector<float> values(static_cast<std::size_t>(side * side * 3), 0);
  values[0] = -1, values[1] = 1, values[2] = 7;
  const auto image = to_image(values.data());
  CHECK(image.pixels[0] == 0);
  CHECK(image.pixels[1] == 255);
  CHECK(image.pixels[2] == 255);
  CHECK(image.pixels[3] == 127);
  values[3 * 33 + 1] = std::numeric_limits<float>::quiet_NaN();
  CHECK(lacks<mole::NumericError>([&] { to_image(values.data()); }, {"nan", "pixel 1, 1"}) == "");
}

}  // namespace pictures::picture_tests
