// The judge that trained nothing, and halves of pictures.

#include <numeric>
#include <vector>

#include <doctest/doctest.h>

#include "pictures/assets.hpp"
#include "pictures/judge.hpp"
#include "pictures/study.hpp"

namespace pictures::judge_tests {

TEST_CASE("A template finds its sprite wherever it is, and others less") {
  const auto sprites = read_sprites(shipped());
  const Index dog = sprites.find("dog face"), cat = sprites.find("cat face"), pizza = sprites.find("pizza");
  const Template match(sprites, dog);
  for (const float x : {8.f, 17.3f, 24.f})
    for (const float size : {12.4f, 14.f, 15.8f}) {
      const auto at = [&](Index object) {
        return match(render({Layout::alone, {object}, 2}, {{{x, 15.6f, size}}, {}}, sprites));
      };
      CHECK(at(dog) > 0.9f);
      CHECK(at(dog) > at(cat) + 0.03f);
      CHECK(at(dog) > at(pizza) + 0.03f);
    }
  CHECK(match(std::vector<float>(static_cast<std::size_t>(side * side * 3), 0.2f)) < 0.1f);
}

TEST_CASE("The judge finds the objects of true pictures and none in pictures without them") {
  const auto sprites = read_sprites(shipped());
  const std::vector<Index> subjects{sprites.find("dog face"), sprites.find("cat face")};
  std::vector<Index> others(static_cast<std::size_t>(sprites.count() - sprites.subjects));
  std::iota(others.begin(), others.end(), sprites.subjects);
  const auto prompts = prompts_of(subjects);
  const Judge judge(sprites, subjects, prompts.training, others);
  int found = 0, wrong = 0, objects = 0;
  for (std::uint64_t i = 0; i < 24; ++i) {
    const auto& scene = prompts.two[i % prompts.two.size()];
    for (const bool there : judge.present(scene, render(scene, place(scene.layout, {99, i}), sprites)))
      found += there, ++objects;
    const auto other = random_scene(others, {98, i});
    for (const bool there : judge.present(scene, render(other, place(other.layout, {97, i}), sprites)))
      wrong += there;
  }
  CHECK(found >= objects * 85 / 100);
  CHECK(wrong <= 2);
  CHECK_THROWS_AS(judge.present({Layout::alone, {sprites.find("pizza")}, 0}, {}), mole::ArgumentError);
}

TEST_CASE("Half a picture keeps its own object's half and the corner's colour elsewhere") {
  std::vector<float> picture(static_cast<std::size_t>(side * side * 3));
  std::iota(picture.begin(), picture.end(), 0.f);
  const auto pixel = [](const std::vector<float>& p, Index x, Index y) {
    return p[static_cast<std::size_t>((y * side + x) * 3 + 1)];
  };
  const Scene beside{Layout::left_of, {0, 1}, 0}, over{Layout::above, {0, 1}, 0};
  const auto left = half_picture(beside, picture, 0), right = half_picture(beside, picture, 1),
             low = half_picture(over, picture, 1);
  CHECK(pixel(left, 3, 30) == pixel(picture, 3, 30));
  CHECK(pixel(left, 16, 30) == 1);
  CHECK(pixel(right, 3, 30) == 1);
  CHECK(pixel(right, 16, 30) == pixel(picture, 16, 30));
  CHECK(pixel(low, 16, 15) == 1);
  CHECK(pixel(low, 3, 16) == pixel(picture, 3, 16));
  CHECK_THROWS_AS(half_picture({Layout::alone, {0}, 0}, picture, 0), mole::ArgumentError);
}

}  // namespace pictures::judge_tests
