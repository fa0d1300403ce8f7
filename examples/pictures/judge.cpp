#include "pictures/judge.hpp"

#include <algorithm>
#include <array>
#include <cmath>

#include <mole/core/error.hpp>

namespace pictures {

namespace {

/// How many pixels the search goes beyond the picture, whose edge is repeated there.
constexpr Index margin = 2;

/// The weights by which pixel `at` of `size` averages the `n` of the source: a triangle as wide as a target pixel.
std::vector<float> triangle(Index at, Index size, Index n) {
  const float scale = static_cast<float>(n) / static_cast<float>(size),
              centre = (static_cast<float>(at) + 0.5f) * scale;
  const float support = std::max(scale, 1.f);
  std::vector<float> weights(static_cast<std::size_t>(n));
  float sum = 0;
  for (Index i = 0; i < n; ++i) {
    const float away = std::abs((static_cast<float>(i) + 0.5f - centre) / support);
    sum += weights[static_cast<std::size_t>(i)] = std::max(0.f, 1 - away);
  }
  for (float& weight : weights) weight /= sum;
  return weights;
}

/// A sprite [size, size, 4], averaged down.
std::vector<float> shrunk(const float* sprite, Index size) {
  constexpr Index n = Sprites::size;
  std::vector<float> wide(static_cast<std::size_t>(n * size * 4)),
      small(static_cast<std::size_t>(size * size * 4));
  for (Index at = 0; at < size; ++at) {
    const auto weights = triangle(at, size, n);
    for (Index y = 0; y < n; ++y)
      for (Index x = 0; x < n; ++x)
        for (Index c = 0; c < 4; ++c)
          wide[static_cast<std::size_t>((y * size + at) * 4 + c)] +=
              weights[static_cast<std::size_t>(x)] * sprite[(y * n + x) * 4 + c];
  }
  for (Index at = 0; at < size; ++at) {
    const auto weights = triangle(at, size, n);
    for (Index y = 0; y < n; ++y)
      for (Index i = 0; i < size * 4; ++i)
        small[static_cast<std::size_t>(at * size * 4 + i)] +=
            weights[static_cast<std::size_t>(y)] * wide[static_cast<std::size_t>(y * size * 4 + i)];
  }
  return small;
}

/// The value below which a share of the list lies.
float quantile(std::vector<float> values, double share) {
  MOLE_CHECK_ARG(!values.empty(), "judge: no picture to set a threshold by");
  std::sort(values.begin(), values.end());
  const double at = share * static_cast<double>(values.size() - 1);
  const auto low = static_cast<std::size_t>(at);
  const auto rest = static_cast<float>(at - std::floor(at));
  return values[low] + rest * (values[std::min(low + 1, values.size() - 1)] - values[low]);
}

}  // namespace

Template::Template(const Sprites& sprites, Index sprite) {
  for (Index size = 12; size <= 16; ++size) {
    const auto small = shrunk(sprites.of(sprite), size);
    Scaled scaled{size, 0, 0, {}, {}};
    float sum = 0;
    for (Index i = 0; i < size * size; ++i) {
      const float* const pixel = small.data() + i * 4;
      const bool covered = pixel[3] > 0.5f;
      for (int c = 0; c < 3; ++c) {
        scaled.mask.push_back(covered ? 1.f : 0.f);
        scaled.values.push_back(covered ? pixel[c] / pixel[3] : 0.f);
        sum += scaled.values.back();
      }
      if (covered) scaled.count += 3;
    }
    MOLE_CHECK_ARG(scaled.count > 0, "judge: sprite", sprite, "is clear");
    const float mean = sum / scaled.count;
    for (std::size_t i = 0; i < scaled.values.size(); ++i) {
      scaled.values[i] = (scaled.values[i] - mean) * scaled.mask[i];
      scaled.norm += scaled.values[i] * scaled.values[i];
    }
    scaled.norm = std::sqrt(scaled.norm);
    sizes_.push_back(std::move(scaled));
  }
}

float Template::operator()(const std::vector<float>& picture) const {
  constexpr Index wide = side + 2 * margin;
  std::array<float, static_cast<std::size_t>(wide * wide * 3)> padded;
  for (Index y = 0; y < wide; ++y)
    for (Index x = 0; x < wide; ++x)
      for (Index c = 0; c < 3; ++c) {
        const Index v = std::clamp<Index>(y - margin, 0, side - 1),
                    u = std::clamp<Index>(x - margin, 0, side - 1);
        padded[static_cast<std::size_t>((y * wide + x) * 3 + c)] =
            (picture[static_cast<std::size_t>((v * side + u) * 3 + c)] + 1) / 2;
      }
  float best = -1;
  for (const auto& scaled : sizes_)
    for (Index top = 0; top + scaled.size <= wide; ++top)
      for (Index left = 0; left + scaled.size <= wide; ++left) {
        float sum = 0, squares = 0, product = 0;
        for (Index y = 0; y < scaled.size; ++y) {
          const float* const from = padded.data() + ((top + y) * wide + left) * 3;
          const float* const values = scaled.values.data() + y * scaled.size * 3;
          const float* const mask = scaled.mask.data() + y * scaled.size * 3;
#pragma omp simd reduction(+ : sum, squares, product)
          for (Index i = 0; i < scaled.size * 3; ++i) {
            const float x = from[i] * mask[i];
            sum += x;
            squares += x * x;
            product += x * values[i];
          }
        }
        const float variance = std::max(squares - sum * sum / scaled.count, 1e-6f);
        best = std::max(best, product / (std::sqrt(variance) * scaled.norm));
      }
  return best;
}

Judge::Judge(const Sprites& sprites, const std::vector<Index>& judged, const std::vector<Scene>& scenes,
             const std::vector<Index>& others, std::uint64_t seed)
    : judged_(judged) {
  mole::Generator random{seed};
  std::vector<std::vector<float>> without;
  for (int i = 0; i < 120; ++i) {
    const auto scene = random_scene(others, random.next());
    const auto placement = random.next();
    without.push_back(render(scene, place(scene.layout, placement), sprites));
  }
  for (const Index sprite : judged) {
    templates_.emplace_back(sprites, sprite);
    const auto& match = templates_.back();
    std::vector<float> with_it, without_it;
    for (const auto& scene : scenes) {
      if (std::find(scene.objects.begin(), scene.objects.end(), sprite) == scene.objects.end()) continue;
      with_it.push_back(match(render(scene, place(scene.layout, random.next()), sprites)));
    }
    for (const auto& picture : without) without_it.push_back(match(picture));
    thresholds_.push_back((quantile(with_it, 0.05) + quantile(without_it, 0.99)) / 2);
  }
}

std::size_t Judge::place_of(Index sprite) const {
  const auto found = std::find(judged_.begin(), judged_.end(), sprite);
  MOLE_CHECK_ARG(found != judged_.end(), "judge: it was not made for sprite", sprite);
  return static_cast<std::size_t>(found - judged_.begin());
}

float Judge::threshold(Index sprite) const { return thresholds_[place_of(sprite)]; }

std::vector<bool> Judge::present(const Scene& scene, const std::vector<float>& picture) const {
  std::vector<bool> found;
  for (const Index sprite : scene.objects) {
    const std::size_t i = place_of(sprite);
    found.push_back(templates_[i](picture) > thresholds_[i]);
  }
  return found;
}

std::vector<float> half_picture(const Scene& scene, const std::vector<float>& picture, std::size_t object) {
  MOLE_CHECK_ARG(object < 2 && (scene.layout == Layout::left_of || scene.layout == Layout::above),
                 "half_picture: expected a scene of two objects");
  auto half = picture;
  for (Index y = 0; y < side; ++y)
    for (Index x = 0; x < side; ++x) {
      const Index along = scene.layout == Layout::left_of ? x : y;
      if ((along < side / 2) == (object == 0)) continue;
      for (Index c = 0; c < 3; ++c)
        half[static_cast<std::size_t>((y * side + x) * 3 + c)] = picture[static_cast<std::size_t>(c)];
    }
  return half;
}

}  // namespace pictures
