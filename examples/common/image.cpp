#include "common/image.hpp"

#include <algorithm>
#include <cmath>

#include <mole/core/error.hpp>
#include <mole/core/scalar.hpp>

namespace common {

Image Image::filled(Index width, Index height, std::uint8_t value) {
  return {width, height, 3, std::vector<std::uint8_t>(static_cast<std::size_t>(width * height * 3), value)};
}

void Image::paste(const Image& other, Index x, Index y, Index scale) {
  MOLE_CHECK_ARG(other.channels == channels && x >= 0 && y >= 0 && scale >= 1 &&
                     x + other.width * scale <= width && y + other.height * scale <= height,
                 "paste: a picture of", other.width * scale, "x", other.height * scale, "does not fit at", x,
                 ",", y, "of one of", width, "x", height);
  for (Index v = 0; v < other.height * scale; ++v)
    for (Index u = 0; u < other.width * scale; ++u)
      std::copy_n(other.at(u / scale, v / scale), channels, at(x + u, y + v));
}

Image image01(const float* values, Index width, Index height) {
  Image image = Image::filled(width, height, 0);
  for (std::size_t i = 0; i < image.pixels.size(); ++i) {
    const auto pixel = static_cast<Index>(i) / 3;
    MOLE_CHECK_AS(mole::NumericError, mole::is_finite(values[i]), "the picture holds", values[i], "at pixel",
                  pixel % width, ",", pixel / width, ": were the weights or gates damaged?");
    image.pixels[i] = static_cast<std::uint8_t>(std::nearbyint(std::clamp(values[i], 0.f, 1.f) * 255.f));
  }
  return image;
}

Image thumbnail(const Image& image, Index most) {
  MOLE_CHECK_ARG(most >= 1, "thumbnail: expected a side of 1 pixel or more, got", most);
  const Index longest = std::max(image.width, image.height), by = (longest + most - 1) / most;
  if (by <= 1) return image;
  Image small{(image.width + by - 1) / by, (image.height + by - 1) / by, image.channels, {}};
  for (Index y = 0; y < small.height; ++y)
    for (Index x = 0; x < small.width; ++x)
      for (Index c = 0; c < image.channels; ++c) {
        Index sum = 0, count = 0;
        for (Index v = y * by; v < std::min(image.height, (y + 1) * by); ++v)
          for (Index u = x * by; u < std::min(image.width, (x + 1) * by); ++u, ++count)
            sum += image.at(u, v)[c];
        small.pixels.push_back(static_cast<std::uint8_t>((sum + count / 2) / count));
      }
  return small;
}

}  // namespace common
