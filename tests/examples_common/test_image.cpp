// PNG files, figures of pictures, and pictures that are none.

#include <fstream>
#include <limits>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <testing.hpp>

#include "common/gate_maps.hpp"
#include "common/tiles.hpp"
#include "examples_common/folder.hpp"

namespace common::image_tests {

using mole::testing::lacks;

TEST_CASE("A PNG file holds the pixels that were written") {
  const common_test::Folder folder;
  const auto path = folder.path / "a.png";
  for (const Index channels : {3, 4}) {
    Image image{5, 3, channels, {}};
    for (Index i = 0; i < 15 * channels; ++i) image.pixels.push_back(static_cast<std::uint8_t>(i * 7 % 256));
    write_png(path, image);
    const auto again = read_png(path, channels);
    CHECK(again.width == 5);
    CHECK(again.height == 3);
    CHECK(again.pixels == image.pixels);
  }
}

TEST_CASE("What is no PNG file is refused by its name") {
  const common_test::Folder folder;
  const auto path = folder.path / "a.png";
  CHECK(lacks<mole::Error>([&] { read_png(path); }, {"a.png", "cannot be opened"}) == "");
  CHECK(lacks<mole::Error>([&] { read_png(folder.path); }, {"is not a regular file"}) == "");
  std::ofstream(path).flush();
  CHECK(lacks<mole::FormatError>([&] { read_png(path); }, {"a.png", "is empty"}) == "");
  std::ofstream(path) << "no picture";
  CHECK(lacks<mole::FormatError>([&] { read_png(path); }, {"a.png", "no PNG"}) == "");
  std::ofstream(path) << "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n";
  CHECK(lacks<mole::FormatError>([&] { read_png(path); }, {"a.png", "Git LFS pointer", "git lfs pull"}) ==
        "");
  write_png(path, Image::filled(40, 40, 9));
  const auto bytes = common_test::contents(path);
  std::ofstream(path) << bytes.substr(0, bytes.size() / 2);
  CHECK(lacks<mole::FormatError>([&] { read_png(path); }, {"a.png"}) == "");
  CHECK_THROWS_AS(write_png(folder.path / "none" / "b.png", Image::filled(2, 2, 0)), mole::Error);
}

TEST_CASE("A grey picture of 16 bits is read as sRGB, as other programs read it") {
  const common_test::Folder folder;
  const auto path = folder.path / "grey.png";
  // One pixel of 0x8080, without a chunk that says what its numbers mean.
  std::ofstream(path, std::ios::binary) << std::string(
      "\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\1\0\0\0\1\x10\0\0\0\0\x6a\xee\x47\x16"
      "\0\0\0\x0bIDAT\x78\xda\x63\x68\x68\0\0\1\x83\1\1\x8b\x91\x55\xf2"
      "\0\0\0\0IEND\xae\x42\x60\x82",
      68);
  CHECK(read_png(path).pixels == std::vector<std::uint8_t>{128, 128, 128});
}

TEST_CASE("What is transparent in a picture is black without its fourth channel") {
  const common_test::Folder folder;
  Image image{2, 1, 4, {200, 100, 50, 0, 200, 100, 50, 255}};
  write_png(folder.path / "half.png", image);
  CHECK(read_png(folder.path / "half.png").pixels == std::vector<std::uint8_t>{0, 0, 0, 200, 100, 50});
}

TEST_CASE("A picture is pasted at its scale, and only where it fits") {
  Image sheet = Image::filled(8, 8, 255), dot = Image::filled(1, 1, 3);
  sheet.paste(dot, 2, 4, 3);
  CHECK(sheet.at(2, 4)[0] == 3);
  CHECK(sheet.at(4, 6)[2] == 3);
  CHECK(sheet.at(5, 6)[0] == 255);
  CHECK_THROWS_AS(sheet.paste(dot, 6, 0, 3), mole::ArgumentError);
}

TEST_CASE("Tiles are drawn with labels, and counts that do not fit are refused") {
  const common_test::Folder folder;
  Tiles tiles{{"one", "two's"}, {"a\nb"}, {Image::filled(4, 4, 9), Image::filled(2, 2, 99)}, 8, 40, 30};
  const auto plot = draw_tiles(folder.path, "grid", tiles);
  const auto sheet = read_png(folder.path / "grid-tiles.png");
  CHECK(sheet.width == 10);
  CHECK(sheet.height == 20);
  CHECK(sheet.at(7, 7)[0] == 9);
  CHECK(sheet.at(0, 10)[0] == 99);
  CHECK(common_test::contents(plot.csv) == "row,column,x,y\none,a b,0,0\ntwo's,a b,0,10\n");
  tiles.pictures.pop_back();
  CHECK_THROWS_AS(draw_tiles(folder.path, "grid", tiles), mole::ArgumentError);
}

TEST_CASE("A gate map is red, green and blue, and its quarters are means") {
  const std::vector<double> weights{1, 0, 0, 1, 0, 0.5, 0, 0.25};  // 2 x 2 tokens, two experts
  const GateGrid grid{2, weights};
  const auto image = map_image(grid, 2);
  CHECK(image.width == 2);
  CHECK(image.at(0, 0)[0] == 255);
  CHECK(image.at(1, 0)[1] == 255);
  CHECK(image.at(0, 1)[1] == 128);
  CHECK(image.at(0, 1)[2] == 0);
  const auto text = quarters_text({{"gate", grid}}, {"dog", "cat"});
  CHECK(text.find("top left       dog 100%   cat   0%") != text.npos);
  CHECK(text.find("bottom left    dog   0%   cat  50%") != text.npos);
}

TEST_CASE("Values of [0, 1] are rounded to bytes, and NaN is refused with its place") {
  std::vector<float> values(2 * 3 * 3, 0.5f);
  values[0] = -0.2f, values[1] = 1.5f, values[2] = 0.4999f / 255;
  const auto image = image01(values.data(), 3, 2);
  CHECK(image.width == 3);
  CHECK(image.pixels[0] == 0);
  CHECK(image.pixels[1] == 255);
  CHECK(image.pixels[2] == 0);
  CHECK(image.pixels[3] == 128);
  values[3 * 4 + 2] = std::numeric_limits<float>::quiet_NaN();
  CHECK(lacks<mole::NumericError>([&] { image01(values.data(), 3, 2); }, {"nan", "pixel 1, 1"}) == "");
}

TEST_CASE("A thumbnail's pixels are the means of squares, those at the edges of what is left") {
  Image image = Image::filled(5, 3, 10);
  image.at(0, 0)[0] = 50;
  image.at(4, 2)[1] = 77;
  const auto small = thumbnail(image, 3);
  CHECK(small.width == 3);
  CHECK(small.height == 2);
  CHECK(small.at(0, 0)[0] == 20);
  CHECK(small.at(1, 0)[0] == 10);
  CHECK(small.at(2, 1)[1] == 77);
  CHECK(thumbnail(image, 5).pixels == image.pixels);
}

TEST_CASE(
    "The levels of a UNet halve its latents, rounded up, and other numbers of pixels are none of them") {
  CHECK(level_columns(40, 5, 8) == 8);
  CHECK(level_columns(12, 5, 8) == 4);
  CHECK(level_columns(4, 5, 8) == 2);
  CHECK(level_columns(1, 5, 8) == 1);
  CHECK_THROWS_AS(level_columns(6, 5, 8), mole::ArgumentError);
}

TEST_CASE("Quarters of a picture that is not square are means of their own pixels") {
  GateGrid grid{3, {}};  // 2 rows of 3 pixels, one expert
  grid.weights = {1, 0, 0.5, 0, 0, 1};
  const auto text = quarters_text({{"gate", grid}}, {"dog"});
  CHECK(text.find("top left       dog 100%") != text.npos);
  CHECK(text.find("top right      dog  25%") != text.npos);
  CHECK(text.find("bottom left    dog   0%") != text.npos);
  CHECK(text.find("bottom right   dog  50%") != text.npos);
}

}  // namespace common::image_tests
