#pragma once
// Pictures as bytes, and PNG files through libpng.

#include <cstdint>
#include <filesystem>
#include <vector>

#include <mole/core/shape.hpp>

namespace pictures {

using mole::Index;

/// An RGB or RGBA picture, 8 bits a channel, row by row.
struct Image {
  Index width = 0, height = 0, channels = 3;
  std::vector<std::uint8_t> pixels;  ///< [height, width, channels]

  /// Of one colour.
  static Image filled(Index width, Index height, std::uint8_t value);
  std::uint8_t* at(Index x, Index y) { return pixels.data() + (y * width + x) * channels; }
  const std::uint8_t* at(Index x, Index y) const { return pixels.data() + (y * width + x) * channels; }
  /// Puts another picture of as many channels with its corner at (x, y), each of its pixels `scale` wide and high.
  /// Throws mole::ArgumentError where it does not fit.
  void paste(const Image& other, Index x, Index y, Index scale = 1);
};

/// The side of the study's pictures in pixels.
inline constexpr Index side = 32;

/// Values in [-1, 1], [side, side, 3], as bytes; values beyond are cut. Throws mole::NumericError for NaN or infinity.
Image to_image(const float* values);

/// The PNG file at `path`, as RGB or RGBA. Throws mole::FormatError, naming the file, for what is no PNG or has more
/// than 4096 pixels a side; mole::Error where it cannot be read.
Image read_png(const std::filesystem::path& path, Index channels = 3);

/// Writes a PNG file, whole or not at all. Throws mole::Error where it cannot be written.
void write_png(const std::filesystem::path& path, const Image& image);

}  // namespace pictures
