#include "pictures/train.hpp"

#include <algorithm>
#include <cstdio>
#include <numeric>

#include <mole/core/omp.hpp>

namespace pictures {

SceneBatch draw_scenes(const Sprites& sprites, const std::vector<Index>& used, Index pool, Index batch,
                       Index step, std::uint64_t seed) {
  const auto count = static_cast<std::size_t>(batch);
  SceneBatch drawn{std::vector<Scene>(count), std::vector<std::vector<float>>(count)};
  const mole::RandomStream choice{seed + 2, static_cast<std::uint64_t>(step)};
  MOLE_OMP("omp parallel for")
  for (Index i = 0; i < batch; ++i) {
    const auto number = static_cast<std::uint64_t>(mole::uniform(choice, i) * static_cast<double>(pool));
    auto& scene = drawn.scenes[static_cast<std::size_t>(i)];
    scene = random_scene(used, {seed + 3, number});
    const auto place_number =
        static_cast<std::uint64_t>(step) * static_cast<std::uint64_t>(batch) + static_cast<std::uint64_t>(i);
    drawn.pictures[static_cast<std::size_t>(i)] =
        render(scene, place(scene.layout, {seed + 4, place_number}), sprites);
  }
  return drawn;
}

namespace {

void disturb_one(std::vector<float>& picture, mole::RandomStream random) {
  if (mole::uniform(random, 0) < 0.25)
    for (Index y = 0; y < side; y += 2)
      for (Index x = 0; x < side; x += 2)
        for (Index c = 0; c < 3; ++c) {
          const auto at = [&](Index v, Index u) -> float& {
            return picture[static_cast<std::size_t>(((y + v) * side + x + u) * 3 + c)];
          };
          const float mean = (at(0, 0) + at(0, 1) + at(1, 0) + at(1, 1)) / 4;
          for (const Index v : {0, 1})
            for (const Index u : {0, 1}) at(v, u) = mean;
        }
  if (mole::uniform(random, 1) < 0.5) return;
  const double deviation = 0.25 * mole::uniform(random, 2);
  const mole::RandomStream noise{random.seed, random.stream + (std::uint64_t{1} << 42)};
  for (std::size_t i = 0; i < picture.size(); ++i)
    picture[i] += static_cast<float>(deviation * mole::normal(noise, static_cast<Index>(i)));
}

}  // namespace

void disturb(std::vector<std::vector<float>>& pictures, const std::vector<mole::RandomStream>& random) {
  const auto count = static_cast<Index>(pictures.size());
  MOLE_OMP("omp parallel for")
  for (Index i = 0; i < count; ++i)
    disturb_one(pictures[static_cast<std::size_t>(i)], random[static_cast<std::size_t>(i)]);
}

std::string loss_text(const mole::Curves& curves) {
  if (curves.series.empty() || curves.series.front().second.empty()) return "no step was taken";
  const auto& losses = curves.series.front().second;
  const auto n = static_cast<std::ptrdiff_t>(std::max<std::size_t>(1, losses.size() / 10));
  const auto mean = [&](auto from, auto to) {
    return std::accumulate(from, to, 0.0) / static_cast<double>(n);
  };
  char text[80];
  std::snprintf(text, sizeof text, "loss %.4g at the start, %.4g at the end",
                mean(losses.begin(), losses.begin() + n), mean(losses.end() - n, losses.end()));
  return text;
}

}  // namespace pictures
