#include "pictures/train.hpp"

#include <algorithm>
#include <array>
#include <cstdio>
#include <numeric>

#include <mole/backends/cpu_exceptions.hpp>
#include <mole/core/omp.hpp>

namespace pictures {

namespace {

/// Every four pixels get their mean.
void blur(float* picture) {
  for (Index y = 0; y < side; y += 2)
    for (Index x = 0; x < side; x += 2)
      for (Index c = 0; c < 3; ++c) {
        const auto at = [&](Index v, Index u) -> float& { return picture[((y + v) * side + x + u) * 3 + c]; };
        const float mean = (at(0, 0) + at(0, 1) + at(1, 0) + at(1, 1)) / 4;
        for (const Index v : {0, 1})
          for (const Index u : {0, 1}) at(v, u) = mean;
      }
}

/// Adds noise of a standard deviation to a picture.
void add_noise(float* picture, double deviation, mole::RandomStream stream) {
  for (const float number : mole::normal_numbers<float>(side * side * 3, stream, deviation))
    *picture++ += number;
}

/// The scenes of a step, the same whoever asks, with their pictures. `change` may change the pixels of picture i.
template <class Change>
std::vector<Scene> draw_scenes(std::vector<float>& pictures, const Sprites& sprites, const ScenePool& pool,
                               Index step, Change change) {
  const auto count = static_cast<std::size_t>(pool.batch), size = static_cast<std::size_t>(side * side * 3);
  std::vector<Scene> scenes(count);
  pictures.resize(count * size);
  const mole::RandomStream choice{pool.seed + 2, static_cast<std::uint64_t>(step)};
  MOLE_OMP("omp parallel for")
  for (std::size_t i = 0; i < count; ++i) {
    const auto number = static_cast<std::uint64_t>(mole::uniform(choice, static_cast<Index>(i)) *
                                                   static_cast<double>(pool.pool));
    scenes[i] = random_scene(pool.used, {pool.seed + 3, number});
    const auto place_number = static_cast<std::uint64_t>(step) * count + i;
    const auto picture = render(scenes[i], place(scenes[i].layout, {pool.seed + 4, place_number}), sprites);
    float* const to = pictures.data() + i * size;
    std::copy(picture.begin(), picture.end(), to);
    change(i, to);
  }
  return scenes;
}

/// Adds the ids of text(i) for i < count. Throws as Vocabulary::encode().
template <class F>
void add_texts(std::vector<Index>& ids, std::size_t count, const Vocabulary& words, Index positions, F text) {
  const auto length = static_cast<std::size_t>(positions), before = ids.size();
  ids.resize(before + count * length);
  mole::detail::FirstException thrown;
  MOLE_OMP("omp parallel for")
  for (std::size_t i = 0; i < count; ++i) {
    try {
      const auto own = words.encode(text(i), positions);
      std::copy(own.begin(), own.end(), ids.begin() + static_cast<std::ptrdiff_t>(before + i * length));
    } catch (...) {
      thrown.keep();
    }
  }
  thrown.rethrow();
}

}  // namespace

CaptionedPictures clip_examples(const Sprites& sprites, const Vocabulary& words, const ScenePool& pool,
                                Index positions, Index step) {
  // For each picture how it is disturbed, what its caption is confused with, and its noise.
  mole::Generator random{pool.seed + 1, static_cast<std::uint64_t>(step) << 24};
  std::vector<std::array<mole::RandomStream, 3>> own(static_cast<std::size_t>(pool.batch));
  for (auto& of : own) of = {random.next(), random.next(), random.next()};
  CaptionedPictures made;
  const auto scenes = draw_scenes(made.pictures, sprites, pool, step, [&](std::size_t i, float* picture) {
    const auto& [disturbed, confusing, noise] = own[i];
    if (mole::uniform(disturbed, 0) < 0.25) blur(picture);
    if (mole::uniform(disturbed, 1) >= 0.5) add_noise(picture, 0.25 * mole::uniform(disturbed, 2), noise);
  });
  add_texts(made.captions, scenes.size(), words, positions,
            [&](std::size_t i) { return caption(scenes[i], sprites); });
  add_texts(made.captions, scenes.size(), words, positions,
            [&](std::size_t i) { return caption(confused(scenes[i], pool.used, own[i][1]), sprites); });
  return made;
}

CaptionedPictures base_examples(const Sprites& sprites, const Vocabulary& words, const ScenePool& pool,
                                const mole::NoiseSchedule& schedule, Index positions, Index step) {
  CaptionedPictures made;
  const auto scenes = draw_scenes(made.pictures, sprites, pool, step, [](std::size_t, float*) {});
  mole::Generator random{pool.seed + 1, static_cast<std::uint64_t>(step) << 24};
  std::vector<std::string> texts;
  for (const auto& scene : scenes)
    texts.push_back(mole::uniform(random.next(), 0) < 0.1 ? "" : caption(scene, sprites));
  add_texts(made.captions, texts.size(), words, positions, [&](std::size_t i) { return texts[i]; });
  made.noise = mole::draw_noise<float>(schedule, {pool.batch, side, side, 3}, random.next());
  return made;
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
