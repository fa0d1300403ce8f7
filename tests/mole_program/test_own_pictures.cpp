// Which pictures of a folder are read, and which would take too much to be resized.

#include "mole/pictures/own_pictures.hpp"

#include <doctest/doctest.h>

#include <fstream>
#include <string>

#include <mole/core/error.hpp>

#include "examples_common/folder.hpp"

using namespace program;

namespace {

/// What becomes of a folder with one captioned picture of these sides, read for 64 x 64 pixels: the sides of what was
/// read, or the error.
std::string sides_of(Index width, Index height) {
  const common_test::Folder folder;
  common::write_png(folder.path / "one.png", common::Image::filled(width, height, 9));
  std::ofstream(folder.path / "one.txt") << "a picture";
  try {
    const auto image = read_own_pictures(folder.path, 64, 64).at(0).image;
    return std::to_string(image.width) + " x " + std::to_string(image.height);
  } catch (const mole::FormatError& error) {
    return error.what();
  }
}

}  // namespace

TEST_CASE(
    "A picture so narrow that its resizing would take gigabytes is refused by name, and a panorama is not") {
  CHECK(sides_of(100, 70) == "64 x 64");
  CHECK(sides_of(4096, 64) == "64 x 64");
  CHECK(sides_of(1, 1) == "64 x 64");
  CHECK(sides_of(640, 40) == "64 x 64");
  for (const auto& refused : {sides_of(4096, 1), sides_of(1, 4096), sides_of(4096, 8)}) {
    CAPTURE(refused);
    CHECK(refused.find("one.png") != std::string::npos);
    CHECK(refused.find("too narrow to fill 64 x 64") != std::string::npos);
  }
}

TEST_CASE("A picture or caption that Git LFS keeps elsewhere is called its pointer") {
  const common_test::Folder folder;
  const auto pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n";
  std::ofstream(folder.path / "one.png") << pointer;
  std::ofstream(folder.path / "one.txt") << "a picture";
  CHECK_THROWS_WITH_AS(read_own_pictures(folder.path, 64, 64),
                       doctest::Contains("one.png\": is a Git LFS pointer"), mole::FormatError);
  std::ofstream(folder.path / "one.txt") << pointer;
  CHECK_THROWS_WITH_AS(read_own_pictures(folder.path, 64, 64),
                       doctest::Contains("one.txt\": is a Git LFS pointer"), mole::FormatError);
}
