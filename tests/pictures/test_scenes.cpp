// Scenes, captions, prompts and sprites.

#include <algorithm>
#include <cmath>
#include <fstream>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <mole/io/json.hpp>
#include <testing.hpp>

#include "examples_common/folder.hpp"
#include "pictures/assets.hpp"
#include "pictures/scenes.hpp"

namespace pictures::scene_tests {

namespace {

const Sprites& sprites() {
  static const Sprites all = read_sprites(shipped());
  return all;
}

Index named(const std::string& name) { return sprites().find(name); }

}  // namespace

TEST_CASE("A scene is drawn as a second program draws it") {
  const auto golden = mole::read_json(std::filesystem::path(MOLE_TEST_DATA) / "pictures/scene.json");
  REQUIRE(golden.size() == 3);
  for (const auto& entry : golden) {
    const auto text = entry.at("caption").get<std::string>();
    CAPTURE(text);
    const auto scene = parse_scene(text, sprites());
    CHECK(caption(scene, sprites()) == text);
    Placement placement;
    for (const auto& object : entry.at("objects")) {
      const auto at = placement.objects.size();
      CHECK(scene.objects.at(at) == named(object[0].get<std::string>()));
      placement.objects.push_back({object[1].get<float>(), object[2].get<float>(), object[3].get<float>()});
    }
    for (std::size_t i = 0; i < 3; ++i) placement.jitter[i] = entry.at("jitter")[i].get<float>();
    const auto picture = render(scene, placement, sprites());
    const auto expected = entry.at("pixels").get<std::vector<float>>();
    REQUIRE(expected.size() == (picture.size() + 12) / 13);
    float worst = 0;
    for (std::size_t i = 0; i < expected.size(); ++i)
      worst = std::max(worst, std::abs(picture[i * 13] - expected[i]));
    CHECK(worst <= 2e-5f);
  }
}

TEST_CASE("Captions have articles, and prompts need none") {
  const Scene scene{Layout::triangle, {named("octopus"), named("cat face"), named("pizza")}, 2};
  const std::string text = "an octopus left of a cat face above a pizza on blue";
  CHECK(caption(scene, sprites()) == text);
  for (const std::string& prompt : {text, std::string("Octopus left of CAT face above pizza on blue")}) {
    const auto read = parse_scene(prompt, sprites());
    CHECK(read.layout == scene.layout);
    CHECK(read.objects == scene.objects);
    CHECK(read.colour == 2);
  }
  CHECK(parse_scene("pizza on red", sprites()).layout == Layout::alone);
  CHECK(parse_scene("pizza above cat face on red", sprites()).layout == Layout::above);
}

TEST_CASE("A prompt that is no scene is refused with the reason and the forms") {
  using mole::testing::lacks;
  const auto refused = [&](const std::string& prompt, const char* reason) {
    return lacks<mole::ArgumentError>([&] { parse_scene(prompt, sprites()); }, {reason});
  };
  CHECK(refused("a pizza", "on COLOUR") == "");
  CHECK(refused("a pizza on pink", "pink") == "");
  CHECK(refused("a dragonfly on blue", "dragonfly") == "");
  CHECK(refused("a pizza left of on blue", "a name is missing") == "");
  CHECK(refused("a pizza above a robot above a rocket on blue", "order") == "");
  CHECK(refused("", "on COLOUR") == "");
}

TEST_CASE("Objects stay inside the picture and apart, at random but the same for a stream") {
  for (const Layout layout : {Layout::alone, Layout::left_of, Layout::above, Layout::triangle})
    for (std::uint64_t i = 0; i < 200; ++i) {
      const auto placement = place(layout, {5, i});
      REQUIRE(placement.objects.size() == object_count(layout));
      for (const auto& object : placement.objects) {
        CHECK(object.size >= 12.5f);
        CHECK(object.x - object.size / 2 >= -1.5f);
        CHECK(object.x + object.size / 2 <= side + 1.5f);
        CHECK(object.y - object.size / 2 >= -1.5f);
        CHECK(object.y + object.size / 2 <= side + 1.5f);
      }
      if (layout == Layout::left_of) CHECK(placement.objects[1].x - placement.objects[0].x > 12);
      if (layout == Layout::above) CHECK(placement.objects[1].y - placement.objects[0].y > 12);
      CHECK(place(layout, {5, i}).objects[0].x == placement.objects[0].x);
    }
  CHECK(place(Layout::alone, {5, 1}).objects[0].x != place(Layout::alone, {5, 2}).objects[0].x);
  const auto small = place(Layout::alone, {5, 3}, {14, 14.5f}).objects[0];
  CHECK(small.size >= 14);
  CHECK(small.size <= 14.5f);
}

TEST_CASE("Random scenes have distinct objects of all kinds, and a confused one differs") {
  const std::vector<Index> used{6, 7, 8, 9};
  std::vector<int> layouts(4);
  for (std::uint64_t i = 0; i < 400; ++i) {
    const auto scene = random_scene(used, {3, i});
    ++layouts[static_cast<std::size_t>(scene.layout)];
    REQUIRE(scene.objects.size() == object_count(scene.layout));
    auto sorted = scene.objects;
    std::sort(sorted.begin(), sorted.end());
    CHECK(std::adjacent_find(sorted.begin(), sorted.end()) == sorted.end());
    const auto other = confused(scene, used, {4, i});
    CHECK(other.objects != scene.objects);
    CHECK(other.layout == scene.layout);
    CHECK(other.colour == scene.colour);
  }
  CHECK(layouts[0] > 90);
  for (const int count : layouts) CHECK(count > 50);
  CHECK_THROWS_AS(random_scene({1, 2}, {1, 1}), mole::ArgumentError);
}

TEST_CASE("The sheet holds the sprites that its list names, and neither is taken without the other") {
  using mole::testing::lacks;
  CHECK(sprites().count() == 176);
  CHECK(sprites().subjects == 6);
  CHECK(named("pizza") == 5);
  CHECK(lacks<mole::ArgumentError>([] { named("nobody"); }, {"nobody", "dog face"}) == "");
  // No sprite is clear, and no colour is brighter than its alpha: they are multiplied by it.
  for (Index i = 0; i < sprites().count(); ++i) {
    const float* const pixels = sprites().of(i);
    float most = 0, over = 0;
    for (Index p = 0; p < Sprites::size * Sprites::size; ++p)
      for (int c = 0; c < 3; ++c) {
        most = std::max(most, pixels[p * 4 + 3]);
        over = std::max(over, pixels[p * 4 + c] - pixels[p * 4 + 3]);
      }
    CHECK(most == 1);
    CHECK(over <= 0.01f);
  }
  const common_test::Folder folder;
  CHECK_THROWS_AS(read_sprites(folder.path), mole::Error);
  std::filesystem::copy(shipped() / "sprites.png", folder.path / "sprites.png");
  const auto with = [&](const std::string& json) {
    std::ofstream(folder.path / "sprites.json") << json;
    read_sprites(folder.path);
  };
  CHECK_THROWS_AS(with(R"({"size": 40, "columns": 16, "subjects": 1, "names": ["a", "b"]})"),
                  mole::FormatError);
  CHECK_THROWS_AS(with(R"({"size": 20, "columns": 16, "subjects": 1, "names": ["a"]})"), mole::FormatError);
  CHECK_THROWS_AS(with(R"({"size": 40, "columns": 0, "subjects": 1, "names": ["a", "b"]})"),
                  mole::FormatError);
  CHECK_THROWS_AS(with(R"({"size": 40})"), mole::FormatError);
}

}  // namespace pictures::scene_tests
