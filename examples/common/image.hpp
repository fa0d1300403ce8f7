#pragma once
// Pictures as bytes, and PNG files through libpng.

#include <cstdint>
#include <filesystem>
#include <vector>

#include <mole/core/shape.hpp>

namespace common {

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

/// Values in [0, 1], [height, width, 3], as bytes, rounded as diffusers does; values beyond are cut. Throws
/// mole::NumericError for NaN or infinity.
Image image01(const float* values, Index width, Index height);

/// The picture with at most `most` pixels a side, each the mean of a square of its pixels. Throws mole::ArgumentError
/// for `most` below 1.
Image thumbnail(const Image& image, Index most);

/// Whether this build reads and writes PNG files.
bool has_png();

/// The PNG file at `path`, as RGB or RGBA with 8 bits a channel. As RGB, what is transparent becomes black. Throws
/// mole::FormatError, naming the file, for what is no PNG, such as a Git LFS pointer, or has more than 4096 pixels a
/// side; mole::Error where it cannot be read.
Image read_png(const std::filesystem::path& path, Index channels = 3);

/// Writes a PNG file, whole or not at all. Throws mole::Error where it cannot be written, and in a build without libpng.
void write_png(const std::filesystem::path& path, const Image& image);

}  // namespace common
