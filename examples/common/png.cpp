#include "common/image.hpp"

#include <string>
#include <string_view>

#include <png.h>

#include <mole/core/error.hpp>
#include <mole/io/atomic_file.hpp>
#include <mole/io/mapped_file.hpp>

namespace common {

namespace {

/// libpng's simplified interface, which never jumps; what it holds is given back.
struct Png {
  png_image image{};
  explicit Png(Index channels) {
    image.version = PNG_IMAGE_VERSION;
    image.format = channels == 4 ? PNG_FORMAT_RGBA : PNG_FORMAT_RGB;
  }
  Png(const Png&) = delete;
  Png& operator=(const Png&) = delete;
  ~Png() { png_image_free(&image); }
};

constexpr png_uint_32 longest_side = 4096;

}  // namespace

bool has_png() { return true; }

Image read_png(const std::filesystem::path& path, Index channels) {
  const mole::detail::MappedFile file(path);
  const auto bytes = file.bytes();
  MOLE_CHECK_FORMAT(!bytes.empty(), path, "is empty; a PNG file was expected");
  mole::detail::check_no_lfs_pointer({reinterpret_cast<const char*>(bytes.data()), bytes.size()},
                                     mole::message(path) + ":");
  Png png(channels);
  const auto format = png.image.format;
  const bool begun = png_image_begin_read_from_memory(&png.image, bytes.data(), bytes.size()) != 0;
  MOLE_CHECK_FORMAT(begun, path, "is no PNG file that libpng reads:", png.image.message);
  MOLE_CHECK_FORMAT(png.image.width <= longest_side && png.image.height <= longest_side, path, "is",
                    png.image.width, "x", png.image.height, "pixels; at most", longest_side,
                    "a side are read");
  png.image.format = format;
  // libpng takes 16 bits for linear light where the file does not say; cameras and editors mean sRGB.
  png.image.flags |= PNG_IMAGE_FLAG_16BIT_sRGB;
  Image image{static_cast<Index>(png.image.width), static_cast<Index>(png.image.height), channels,
              std::vector<std::uint8_t>(PNG_IMAGE_SIZE(png.image))};
  const bool read = png_image_finish_read(&png.image, nullptr, image.pixels.data(), 0, nullptr) != 0;
  MOLE_CHECK_FORMAT(read, path, "is damaged:", png.image.message);
  return image;
}

void write_png(const std::filesystem::path& path, const Image& image) {
  Png png(image.channels);
  png.image.width = static_cast<png_uint_32>(image.width);
  png.image.height = static_cast<png_uint_32>(image.height);
  png_alloc_size_t size = PNG_IMAGE_PNG_SIZE_MAX(png.image);
  std::string bytes(size, '\0');
  const bool written =
      png_image_write_to_memory(&png.image, bytes.data(), &size, 0, image.pixels.data(), 0, nullptr) != 0;
  MOLE_CHECK_AS(mole::Error, written, path, "cannot be made:", png.image.message);
  mole::write_atomically(path, std::string_view(bytes.data(), size));
}

}  // namespace common
