#include "pictures/picture.hpp"

#include <algorithm>

#include <mole/core/error.hpp>
#include <mole/core/scalar.hpp>

namespace pictures {

Image to_image(const float* values) {
  Image image = Image::filled(side, side, 0);
  for (std::size_t i = 0; i < image.pixels.size(); ++i) {
    MOLE_CHECK_AS(mole::NumericError, mole::is_finite(values[i]), "the picture holds", values[i], "at pixel",
                  i / 3 % side, ",", i / 3 / side, ": were the weights or gates damaged?");
    image.pixels[i] = static_cast<std::uint8_t>(std::clamp((values[i] + 1) * 127.5f, 0.f, 255.f));
  }
  return image;
}

}  // namespace pictures
