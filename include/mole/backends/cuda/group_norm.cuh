#pragma once
// Group norm of large images: blocks share an image's pixels, and threads side by side read channels side by side.
//
// A block sums over a stretch of pixels, for each group; a warp adds up the stretches of a group, in their order; then every
// number is mapped by its channel's factors. Sums are in double: the squares of numbers far from 0 keep their digits.

#include <algorithm>
#include <initializer_list>
#include <type_traits>

#include <mole/backends/cuda/context.cuh>
#include <mole/backends/cuda/launch.cuh>
#include <mole/backends/cuda/pack.cuh>
#include <mole/backends/cuda/warp.cuh>
#include <mole/core/buffer.hpp>
#include <mole/core/kernels/group_norm.hpp>

namespace mole::detail {

inline constexpr int group_norm_threads = 256;

/// Pixels of a stretch: an image has at least 64 stretches, as long as they are worth a block.
inline Index group_norm_stretch(Index pixels) { return std::clamp<Index>((pixels + 63) / 64, 16, 512); }

/// How the threads of a block share the pixels of a stretch: thread t has Pack<T>::size channels from first_channel on, of
/// every `rows`-th pixel.
template <class T>
struct ChannelThread {
  int packs, rows;  ///< packs of channels in a pixel, pixels at a time
  int pack, row;

  __device__ explicit ChannelThread(int channels)
      : packs(channels / Pack<T>::size),
        rows(group_norm_threads / packs),
        pack(threadIdx.x % packs),
        row(threadIdx.x / packs) {}
  __device__ bool works() const { return row < rows; }
  __device__ int channel() const { return pack * Pack<T>::size; }
};

/// The two sums of a number that the forward pass needs.
template <class T>
struct GroupMoments {
  GroupNormForward<T> a;

  __device__ void operator()(Index at, int, int, Index, double (&first)[Pack<T>::size],
                             double (&second)[Pack<T>::size]) const {
    const auto x = load_pack(a.x + at);
#pragma unroll
    for (int k = 0; k < Pack<T>::size; ++k) {
      const auto value = static_cast<double>(static_cast<Compute<T>>(x.values[k]));
      first[k] += value;
      second[k] += value * value;
    }
  }
};

/// And those of its pullback: w G and w G z.
template <class T>
struct GroupSlopes {
  GroupNormBackward<T> a;

  __device__ void operator()(Index at, int channel, int width, Index image, double (&first)[Pack<T>::size],
                             double (&second)[Pack<T>::size]) const {
    const auto x = load_pack(a.x + at), G = load_pack(a.G + at), w = load_pack(a.w + channel);
#pragma unroll
    for (int k = 0; k < Pack<T>::size; ++k) {
      const Index group = image * a.groups + (channel + k) / width;
      const Compute<T> slope = static_cast<Compute<T>>(w.values[k]) * static_cast<Compute<T>>(G.values[k]),
                       z = (static_cast<Compute<T>>(x.values[k]) - a.mean[group]) / a.deviation[group];
      first[k] += static_cast<double>(slope);
      second[k] += static_cast<double>(slope * z);
    }
  }
};

/// parts [images, stretches, groups, 2]: a block's sums for each group. Term adds what a pixel gives to a channel's.
template <class T, class Term>
__global__ void __launch_bounds__(group_norm_threads)
    group_sums_kernel(Term term, Index pixels, Index stretch, int channels, int groups, double* parts) {
  constexpr int n = Pack<T>::size;
  __shared__ double sums[2][group_norm_threads * n];
  follow_earlier();
  const ChannelThread<T> own(channels);
  const Index image = blockIdx.y, begin = blockIdx.x * stretch, end = min(pixels, begin + stretch);
  const int width = channels / groups;
  double first[n] = {}, second[n] = {};
  if (own.works())
    for (Index p = begin + own.row; p < end; p += own.rows)
      term((image * pixels + p) * channels + own.channel(), own.channel(), width, image, first, second);
#pragma unroll
  for (int k = 0; k < n; ++k) {
    sums[0][threadIdx.x * n + k] = first[k];
    sums[1][threadIdx.x * n + k] = second[k];
  }
  __syncthreads();
  for (int g = static_cast<int>(threadIdx.x); g < groups; g += group_norm_threads) {
    double total[2] = {};
    for (int row = 0; row < own.rows; ++row)
      for (int c = g * width; c < (g + 1) * width; ++c)
        for (int i = 0; i < 2; ++i) total[i] += sums[i][row * own.packs * n + c];
    double* const to = parts + ((image * gridDim.x + blockIdx.x) * groups + g) * 2;
    to[0] = total[0];
    to[1] = total[1];
  }
}

/// finish(group of all images, its two sums), a warp a group.
template <class Finish>
__global__ void group_totals_kernel(const double* parts, int stretches, int groups, Finish finish) {
  follow_earlier();
  const Index image = blockIdx.x / groups;
  const int g = static_cast<int>(blockIdx.x % groups);
  double total[2] = {};
  for (int s = static_cast<int>(threadIdx.x); s < stretches; s += 32)
    for (int i = 0; i < 2; ++i) total[i] += parts[((image * stretches + s) * groups + g) * 2 + i];
  for (double& sum : total) sum = sum_over_warp(sum);
  if (threadIdx.x == 0) finish(blockIdx.x, total[0], total[1]);
}

/// map(image, channel, group) gives a channel's map, which then takes each of its numbers.
template <class T, class Map>
__global__ void __launch_bounds__(group_norm_threads)
    group_map_kernel(Map map, Index pixels, Index stretch, int channels, int groups) {
  follow_earlier();
  const ChannelThread<T> own(channels);
  if (!own.works()) return;
  const Index image = blockIdx.y, begin = blockIdx.x * stretch, end = min(pixels, begin + stretch);
  const auto of_channels = map(image, own.channel(), channels / groups);
  for (Index p = begin + own.row; p < end; p += own.rows)
    of_channels((image * pixels + p) * channels + own.channel());
}

/// y = factor x + shift, by channel.
template <class T>
struct GroupNormMap {
  GroupNormForward<T> a;

  struct Channels {
    const T* x;
    T* y;
    Compute<T> mean[Pack<T>::size], factor[Pack<T>::size], shift[Pack<T>::size];

    __device__ void operator()(Index at) const {
      const auto from = load_pack(x + at);
      Pack<T> to;
#pragma unroll
      for (int k = 0; k < Pack<T>::size; ++k)
        to.values[k] =
            static_cast<T>((static_cast<Compute<T>>(from.values[k]) - mean[k]) * factor[k] + shift[k]);
      *reinterpret_cast<Pack<T>*>(y + at) = to;
    }
  };

  __device__ Channels operator()(Index image, int channel, int width) const {
    Channels c{a.x, a.y, {}, {}, {}};
#pragma unroll
    for (int k = 0; k < Pack<T>::size; ++k) {
      const Index group = image * a.groups + (channel + k) / width;
      c.mean[k] = a.mean[group];
      c.factor[k] = static_cast<Compute<T>>(a.w[channel + k]) / a.deviation[group];
      c.shift[k] = static_cast<Compute<T>>(a.c[channel + k]);
    }
    return c;
  }
};

/// dx = (w G - level - z along) / deviation, added to what is there where `add` is set.
template <class T>
struct GroupNormPullbackMap {
  GroupNormBackward<T> a;
  const Compute<T>* means;  ///< [images, groups, 2]: level and along

  struct Channels {
    GroupNormBackward<T> a;
    Compute<T> w[Pack<T>::size], mean[Pack<T>::size], by[Pack<T>::size], level[Pack<T>::size],
        along[Pack<T>::size];

    __device__ void operator()(Index at) const {
      const auto x = load_pack(a.x + at), G = load_pack(a.G + at);
      Pack<T> to;
      if (a.add) to = *reinterpret_cast<const Pack<T>*>(a.dx + at);
#pragma unroll
      for (int k = 0; k < Pack<T>::size; ++k) {
        const Compute<T> z = (static_cast<Compute<T>>(x.values[k]) - mean[k]) * by[k];
        const Compute<T> value =
            (static_cast<Compute<T>>(G.values[k]) * w[k] - level[k] - z * along[k]) * by[k];
        to.values[k] = static_cast<T>(a.add ? static_cast<Compute<T>>(to.values[k]) + value : value);
      }
      *reinterpret_cast<Pack<T>*>(a.dx + at) = to;
    }
  };

  __device__ Channels operator()(Index image, int channel, int width) const {
    Channels c{a, {}, {}, {}, {}, {}};
#pragma unroll
    for (int k = 0; k < Pack<T>::size; ++k) {
      const Index group = image * a.groups + (channel + k) / width;
      c.w[k] = static_cast<Compute<T>>(a.w[channel + k]);
      c.mean[k] = a.mean[group];
      c.by[k] = 1 / a.deviation[group];
      c.level[k] = means[2 * group];
      c.along[k] = means[2 * group + 1];
    }
    return c;
  }
};

/// mean and deviation from a group's sums.
template <class V>
struct FinishMoments {
  V *mean, *deviation;
  double n, eps;

  __device__ void operator()(Index group, double sum, double squares) const {
    const double mu = sum / n, variance = squares / n - mu * mu;
    mean[group] = static_cast<V>(mu);
    deviation[group] = static_cast<V>(sqrt((variance > 0 ? variance : 0) + eps));
  }
};
template <class V>
struct FinishSlopes {
  V* means;
  double n;

  __device__ void operator()(Index group, double level, double along) const {
    means[2 * group] = static_cast<V>(level / n);
    means[2 * group + 1] = static_cast<V>(along / n);
  }
};

/// Whether the kernels take these: whole packs, channels that a block of threads holds, and images that a block by itself
/// would be slow with. double stays with the row functors, whose sums go around the mean.
template <class T, class A>
bool group_norm_fits(const A& a, std::initializer_list<const T*> pointers) {
  constexpr Index small = 8192;
  return !std::is_same_v<T, double> && a.pixels * (a.channels / a.groups) > small &&
         a.channels <= group_norm_threads * Pack<T>::size && a.images > 0 && a.images < 65536 &&
         whole_packs(pointers, {a.channels});
}

/// The sums by Term, and what Finish makes of them.
template <class B, class T, class A, class Term, class Finish>
dim3 launch_group_sums(const A& a, Term term, Finish finish) {
  const Index stretch = group_norm_stretch(a.pixels);
  const dim3 blocks(static_cast<unsigned>((a.pixels + stretch - 1) / stretch),
                    static_cast<unsigned>(a.images));
  const int channels = static_cast<int>(a.channels), groups = static_cast<int>(a.groups);
  const Buffer<double, B> parts(a.images * blocks.x * groups * 2);
  launch_early(group_sums_kernel<T, Term>, blocks, group_norm_threads, 0, term, a.pixels, stretch, channels,
               groups, parts.data());
  launch_early(group_totals_kernel<Finish>, static_cast<unsigned>(a.images * groups), 32, 0, parts.data(),
               static_cast<int>(blocks.x), groups, finish);
  return blocks;
}

/// Of Cuda::group_norm_forward.
template <class B, class T>
bool launch_group_norm(const GroupNormForward<T>& a) {
  using V = Compute<T>;
  if (!group_norm_fits<T>(a, {a.x, a.y, a.w})) return false;
  const auto n = static_cast<double>(a.pixels * (a.channels / a.groups));
  const dim3 blocks = launch_group_sums<B, T>(
      a, GroupMoments<T>{a}, FinishMoments<V>{a.mean, a.deviation, n, static_cast<double>(a.eps)});
  launch_early(group_map_kernel<T, GroupNormMap<T>>, blocks, group_norm_threads, 0, GroupNormMap<T>{a},
               a.pixels, group_norm_stretch(a.pixels), static_cast<int>(a.channels),
               static_cast<int>(a.groups));
  return true;
}

/// Of Cuda::group_norm_backward; gradients of w and c are left to the row functors.
template <class B, class T>
bool launch_group_norm(const GroupNormBackward<T>& a) {
  using V = Compute<T>;
  if (a.dw || a.dc || !a.dx || !group_norm_fits<T>(a, {a.x, a.G, a.w, a.dx})) return false;
  const auto n = static_cast<double>(a.pixels * (a.channels / a.groups));
  const Buffer<V, B> means(a.images * a.groups * 2);
  const dim3 blocks = launch_group_sums<B, T>(a, GroupSlopes<T>{a}, FinishSlopes<V>{means.data(), n});
  launch_early(group_map_kernel<T, GroupNormPullbackMap<T>>, blocks, group_norm_threads, 0,
               GroupNormPullbackMap<T>{a, means.data()}, a.pixels, group_norm_stretch(a.pixels),
               static_cast<int>(a.channels), static_cast<int>(a.groups));
  return true;
}

}  // namespace mole::detail
