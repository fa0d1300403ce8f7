#pragma once
// Group norm on the CPU: channels side by side fill the registers, whatever the width of a group.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <vector>

#include <mole/backends/cpu_exceptions.hpp>
#include <mole/core/kernels/group_norm.hpp>
#include <mole/core/omp.hpp>

namespace mole::detail {

/// Images of channels, cut into bands of pixels. The cuts depend on the extents alone, so that a sum over bands is the
/// same for any number of threads.
struct ImageBands {
  static constexpr Index band = 1024;
  Index images, pixels, channels;

  Index bands() const { return std::max<Index>(1, (pixels + band - 1) / band); }

  /// f(image, first pixel, pixels, number of the band) for all bands, shared among threads.
  template <class F>
  void each(F f) const {
    FirstException thrown;
    const Index n = bands();
    MOLE_OMP("omp parallel for schedule(static) if (images * pixels * channels > 8192)")
    for (Index i = 0; i < images * n; ++i) {
      const Index first = i % n * band;
      try {
        f(i / n, first, std::min(band, pixels - first), i);
      } catch (...) {
        thrown.keep();
      }
    }
    thrown.rethrow();
  }
};

/// sums[c] = the sum over pixels of term(p, c): of some pixels at a time, so that a sum of many keeps its digits.
template <class T, class F>
void sum_pixels(Index pixels, Index channels, T* sums, F term) {
  constexpr Index some = 64;
  std::vector<T> part(static_cast<std::size_t>(channels));
  T* const partial = part.data();
  std::fill_n(sums, channels, T(0));
  for (Index first = 0; first < pixels; first += some) {
    std::fill_n(partial, channels, T(0));
    for (Index p = first; p < std::min(pixels, first + some); ++p) {
      MOLE_OMP("omp simd")
      for (Index c = 0; c < channels; ++c) partial[c] += term(p, c);
    }
    MOLE_OMP("omp simd")
    for (Index c = 0; c < channels; ++c) sums[c] += partial[c];
  }
}

/// The sums of an image's bands added up, and those of each group's channels: into `groups` [images, groups].
template <class T>
void gather_bands(const ImageBands& cut, std::vector<T>& sums, Index groups, T* to) {
  const Index C = cut.channels, n = cut.bands(), width = C / groups;
  for (Index s = 0; s < cut.images; ++s) {
    T* const first = sums.data() + s * n * C;
    for (Index b = 1; b < n; ++b)
      for (Index c = 0; c < C; ++c) first[c] += first[b * C + c];
    for (Index g = 0; to && g < groups; ++g) {
      T total = 0;
      for (Index c = g * width; c < (g + 1) * width; ++c) total += first[c];
      to[s * groups + g] = total;
    }
  }
}

/// y[c] = f(group of c) for the channels of an image.
template <class T, class F>
std::vector<T> by_channel(Index channels, Index groups, F f) {
  std::vector<T> values(static_cast<std::size_t>(channels));
  for (Index c = 0; c < channels; ++c) values[static_cast<std::size_t>(c)] = f(c / (channels / groups), c);
  return values;
}

/// See GroupNormForward.
template <class T>
void host_group_norm(const GroupNormForward<T>& f) {
  const ImageBands cut{f.images, f.pixels, f.channels};
  const Index C = f.channels, G = f.groups;
  const T n = static_cast<T>(f.pixels * (C / G));
  std::vector<T> sums(static_cast<std::size_t>(cut.images * cut.bands() * C));
  cut.each([&](Index s, Index first, Index pixels, Index band) {
    const T* const x = f.x + (s * f.pixels + first) * C;
    sum_pixels(pixels, C, sums.data() + band * C, [=](Index p, Index c) { return x[p * C + c]; });
  });
  gather_bands(cut, sums, G, f.mean);
  for (Index i = 0; i < f.images * G; ++i) f.mean[i] /= n;
  cut.each([&](Index s, Index first, Index pixels, Index band) {
    const T* const x = f.x + (s * f.pixels + first) * C;
    const auto means = by_channel<T>(C, G, [&](Index g, Index) { return f.mean[s * G + g]; });
    const T* const mean = means.data();
    sum_pixels(pixels, C, sums.data() + band * C, [=](Index p, Index c) {
      const T away = x[p * C + c] - mean[c];
      return away * away;
    });
  });
  gather_bands(cut, sums, G, f.deviation);
  for (Index i = 0; i < f.images * G; ++i) f.deviation[i] = std::sqrt(f.deviation[i] / n + f.eps);
  cut.each([&](Index s, Index first, Index pixels, Index) {
    const T* const x = f.x + (s * f.pixels + first) * C;
    T* const y = f.y + (s * f.pixels + first) * C;
    const auto means = by_channel<T>(C, G, [&](Index g, Index) { return f.mean[s * G + g]; });
    const auto factors =
        by_channel<T>(C, G, [&](Index g, Index c) { return f.w[c] / f.deviation[s * G + g]; });
    const T *const mean = means.data(), *const factor = factors.data(), *const bias = f.c;
    for (Index p = 0; p < pixels; ++p) {
      MOLE_OMP("omp simd")
      for (Index c = 0; c < C; ++c) y[p * C + c] = (x[p * C + c] - mean[c]) * factor[c] + bias[c];
    }
  });
}

/// See GroupNormBackward.
template <class T>
void host_group_norm_pullback(const GroupNormBackward<T>& f) {
  const ImageBands cut{f.images, f.pixels, f.channels};
  const Index C = f.channels, G = f.groups, width = C / G, bands = cut.bands();
  const T n = static_cast<T>(f.pixels * width);
  // Of each channel, the sums of G and of G (x - mean).
  std::vector<T> sums(static_cast<std::size_t>(cut.images * bands * C)), along(sums.size());
  cut.each([&](Index s, Index first, Index pixels, Index band) {
    const T *const x = f.x + (s * f.pixels + first) * C, *const g = f.G + (s * f.pixels + first) * C;
    const auto means = by_channel<T>(C, G, [&](Index group, Index) { return f.mean[s * G + group]; });
    const T* const mean = means.data();
    sum_pixels(pixels, C, sums.data() + band * C, [=](Index p, Index c) { return g[p * C + c]; });
    sum_pixels(pixels, C, along.data() + band * C,
               [=](Index p, Index c) { return g[p * C + c] * (x[p * C + c] - mean[c]); });
  });
  gather_bands<T>(cut, sums, G, nullptr);
  gather_bands<T>(cut, along, G, nullptr);
  const auto of = [&](const std::vector<T>& list, Index s, Index c) {
    return list[static_cast<std::size_t>(s * bands * C + c)];
  };
  // dx = a G - k (x - mean) - level: the means of wG and of wG z, over the deviation, of each group.
  std::vector<T> k(static_cast<std::size_t>(f.images * G)), level(k.size());
  for (Index s = 0; s < f.images; ++s)
    for (Index g = 0; g < G; ++g) {
      const auto i = static_cast<std::size_t>(s * G + g);
      const T d = f.deviation[i];
      T total = 0, dot = 0;
      for (Index c = g * width; c < (g + 1) * width; ++c) {
        total += f.w[c] * of(sums, s, c);
        dot += f.w[c] * of(along, s, c);
        if (f.dc) f.dc[s * C + c] = of(sums, s, c);
        if (f.dw) f.dw[s * C + c] = of(along, s, c) / d;
      }
      level[i] = total / n / d;
      k[i] = dot / n / (d * d * d);
    }
  if (!f.dx) return;
  cut.each([&](Index s, Index first, Index pixels, Index) {
    const Index at = (s * f.pixels + first) * C;
    const T *const x = f.x + at, *const g = f.G + at;
    T* const dx = f.dx + at;
    const auto group = [&](Index i) { return static_cast<std::size_t>(s * G + i); };
    const auto means = by_channel<T>(C, G, [&](Index i, Index) { return f.mean[group(i)]; });
    const auto factors =
        by_channel<T>(C, G, [&](Index i, Index c) { return f.w[c] / f.deviation[group(i)]; });
    const auto slopes = by_channel<T>(C, G, [&](Index i, Index) { return k[group(i)]; });
    const auto levels = by_channel<T>(C, G, [&](Index i, Index) { return level[group(i)]; });
    const T *const mean = means.data(), *const a = factors.data(), *const slope = slopes.data(),
                   *const down = levels.data();
    for (Index p = 0; p < pixels; ++p) {
      const Index row = p * C;
      if (f.add) {
        MOLE_OMP("omp simd")
        for (Index c = 0; c < C; ++c)
          dx[row + c] += g[row + c] * a[c] - (x[row + c] - mean[c]) * slope[c] - down[c];
      } else {
        MOLE_OMP("omp simd")
        for (Index c = 0; c < C; ++c)
          dx[row + c] = g[row + c] * a[c] - (x[row + c] - mean[c]) * slope[c] - down[c];
      }
    }
  });
}

}  // namespace mole::detail
