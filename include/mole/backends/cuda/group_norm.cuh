#pragma once
// Group norm of large images, or many: blocks share an image's pixels, and threads side by side read channels side by
// side.
//
// A block sums over a stretch of pixels, for each group, or for each channel in the pullback; a warp adds up the
// stretches, in their order; then every number is mapped by its channel's factors. Sums are in double: the squares of
// numbers far from 0 keep their digits.

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

/// Pixels of a stretch: all images together have about 2048 stretches, as long as they are worth a block, and one at
/// least 64.
inline Index group_norm_stretch(Index images, Index pixels) {
  const Index stretches = std::clamp<Index>(2048 / images, 1, 64);
  return std::clamp<Index>((pixels + stretches - 1) / stretches, 16, 512);
}

/// How the threads of a block share the pixels of a stretch: thread t has Pack<T>::size channels from first_channel on,
/// of every `rows`-th pixel.
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

  __device__ void operator()(Index at, int, Index, double (&first)[Pack<T>::size],
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

/// And those of its pullback: G and G z.
template <class T>
struct GroupSlopes {
  GroupNormBackward<T> a;

  __device__ void operator()(Index at, int channel, Index image, double (&first)[Pack<T>::size],
                             double (&second)[Pack<T>::size]) const {
    const auto x = load_pack(a.x + at), G = load_pack(a.G + at);
    const int width = static_cast<int>(a.channels / a.groups);
#pragma unroll
    for (int k = 0; k < Pack<T>::size; ++k) {
      const Index group = image * a.groups + (channel + k) / width;
      const Compute<T> slope = static_cast<Compute<T>>(G.values[k]),
                       z = (static_cast<Compute<T>>(x.values[k]) - a.mean[group]) / a.deviation[group];
      first[k] += static_cast<double>(slope);
      second[k] += static_cast<double>(slope * z);
    }
  }
};

/// parts [images, stretches, sets, 2]: a block's sums for each set of neighbouring channels. Term adds what a pixel
/// gives to a channel's.
template <class T, class Term>
__global__ void __launch_bounds__(group_norm_threads)
    group_sums_kernel(Term term, Index pixels, Index stretch, int channels, int sets, double* parts) {
  constexpr int n = Pack<T>::size;
  __shared__ double sums[2][group_norm_threads * n];
  follow_earlier();
  const ChannelThread<T> own(channels);
  const Index image = blockIdx.y, begin = blockIdx.x * stretch, end = min(pixels, begin + stretch);
  const int width = channels / sets;
  double first[n] = {}, second[n] = {};
  if (own.works())
    for (Index p = begin + own.row; p < end; p += own.rows)
      term((image * pixels + p) * channels + own.channel(), own.channel(), image, first, second);
#pragma unroll
  for (int k = 0; k < n; ++k) {
    sums[0][threadIdx.x * n + k] = first[k];
    sums[1][threadIdx.x * n + k] = second[k];
  }
  __syncthreads();
  for (int set = static_cast<int>(threadIdx.x); set < sets; set += group_norm_threads) {
    double total[2] = {};
    for (int row = 0; row < own.rows; ++row)
      for (int c = set * width; c < (set + 1) * width; ++c)
        for (int i = 0; i < 2; ++i) total[i] += sums[i][row * own.packs * n + c];
    double* const to = parts + ((image * gridDim.x + blockIdx.x) * sets + set) * 2;
    to[0] = total[0];
    to[1] = total[1];
  }
}

/// A set's two sums over the stretches of its image, by a warp.
__device__ inline void add_stretches(const double* parts, Index image, int stretches, Index sets, Index set,
                                     int lane, double (&total)[2]) {
  for (int s = lane; s < stretches; s += 32)
    for (int i = 0; i < 2; ++i) total[i] += parts[((image * stretches + s) * sets + set) * 2 + i];
  for (double& sum : total) sum = sum_over_warp(sum);
}

/// mean and deviation of a group of an image from its sums [images, stretches, groups, 2], a warp each.
template <class T>
__global__ void group_moments_kernel(const double* parts, int stretches, GroupNormForward<T> a) {
  follow_earlier();
  double total[2] = {};
  add_stretches(parts, blockIdx.x / a.groups, stretches, a.groups, blockIdx.x % a.groups,
                static_cast<int>(threadIdx.x), total);
  if (threadIdx.x != 0) return;
  const double n = static_cast<double>(a.pixels * (a.channels / a.groups)), mu = total[0] / n,
               variance = total[1] / n - mu * mu;
  a.mean[blockIdx.x] = static_cast<Compute<T>>(mu);
  a.deviation[blockIdx.x] =
      static_cast<Compute<T>>(sqrt((variance > 0 ? variance : 0) + static_cast<double>(a.eps)));
}

/// dw and dc of a group's channels, where they are wanted, and means [images, groups, 2] of w G and w G z, from the
/// channels' sums [images, stretches, channels, 2]: a block a group, a warp a channel.
template <class T>
__global__ void __launch_bounds__(group_norm_threads)
    group_slopes_kernel(const double* parts, int stretches, GroupNormBackward<T> a, Compute<T>* means) {
  using V = Compute<T>;
  constexpr int warps = group_norm_threads / 32;
  __shared__ double shared[warps][2];
  follow_earlier();
  const Index image = blockIdx.x / a.groups, width = a.channels / a.groups,
              first = blockIdx.x % a.groups * width;
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  double level = 0, along = 0;
  for (Index c = first + warp; c < first + width; c += warps) {
    double total[2] = {};
    add_stretches(parts, image, stretches, a.channels, c, lane, total);
    if (lane == 0 && a.dw) {
      a.dc[image * a.channels + c] = static_cast<V>(total[0]);
      a.dw[image * a.channels + c] = static_cast<V>(total[1]);
    }
    const auto w = static_cast<double>(static_cast<V>(a.w[c]));
    level += w * total[0];
    along += w * total[1];
  }
  if (lane == 0) {
    shared[warp][0] = level;
    shared[warp][1] = along;
  }
  __syncthreads();
  if (threadIdx.x >= 2) return;
  double total = 0;
  for (int i = 0; i < warps; ++i) total += shared[i][threadIdx.x];
  means[2 * blockIdx.x + threadIdx.x] = static_cast<V>(total / static_cast<double>(a.pixels * width));
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

/// Whether the kernels take these: whole packs, channels that a block of threads holds, and images that a block a group
/// would be slow with, large or many. double stays with the row functors, whose sums go around the mean.
template <class T, class A>
bool group_norm_fits(const A& a, std::initializer_list<const T*> pointers) {
  constexpr Index large = 8192, many = Index{1} << 20;
  return !std::is_same_v<T, double> &&
         (a.pixels * (a.channels / a.groups) > large || a.images * a.pixels * a.channels >= many) &&
         a.channels <= group_norm_threads * Pack<T>::size && a.images > 0 && a.images < 65536 &&
         whole_packs(pointers, {a.channels});
}

/// How the blocks share the pixels.
struct GroupNormBlocks {
  Index stretch;
  dim3 grid;  ///< stretches, images

  template <class A>
  explicit GroupNormBlocks(const A& a)
      : stretch(group_norm_stretch(a.images, a.pixels)),
        grid(static_cast<unsigned>((a.pixels + stretch - 1) / stretch), static_cast<unsigned>(a.images)) {}
};

/// Of Cuda::group_norm_forward.
template <class B, class T>
bool launch_group_norm(const GroupNormForward<T>& a) {
  if (!group_norm_fits<T>(a, {a.x, a.y, a.w})) return false;
  const GroupNormBlocks blocks(a);
  const int channels = static_cast<int>(a.channels), groups = static_cast<int>(a.groups);
  const Buffer<double, B> parts(a.images * blocks.grid.x * groups * 2);
  launch_early(group_sums_kernel<T, GroupMoments<T>>, blocks.grid, group_norm_threads, 0, GroupMoments<T>{a},
               a.pixels, blocks.stretch, channels, groups, parts.data());
  launch_early(group_moments_kernel<T>, static_cast<unsigned>(a.images * groups), 32, 0, parts.data(),
               static_cast<int>(blocks.grid.x), a);
  launch_early(group_map_kernel<T, GroupNormMap<T>>, blocks.grid, group_norm_threads, 0, GroupNormMap<T>{a},
               a.pixels, blocks.stretch, channels, groups);
  return true;
}

/// Of Cuda::group_norm_backward.
template <class B, class T>
bool launch_group_norm(const GroupNormBackward<T>& a) {
  if (!group_norm_fits<T>(a, {a.x, a.G, a.w, a.dx})) return false;
  const GroupNormBlocks blocks(a);
  const int channels = static_cast<int>(a.channels), groups = static_cast<int>(a.groups);
  const Buffer<Compute<T>, B> means(a.images * groups * 2);
  const Buffer<double, B> parts(a.images * blocks.grid.x * channels * 2);
  launch_early(group_sums_kernel<T, GroupSlopes<T>>, blocks.grid, group_norm_threads, 0, GroupSlopes<T>{a},
               a.pixels, blocks.stretch, channels, channels, parts.data());
  launch_early(group_slopes_kernel<T>, static_cast<unsigned>(a.images * groups), group_norm_threads, 0,
               parts.data(), static_cast<int>(blocks.grid.x), a, means.data());
  if (a.dx)
    launch_early(group_map_kernel<T, GroupNormPullbackMap<T>>, blocks.grid, group_norm_threads, 0,
                 GroupNormPullbackMap<T>{a, means.data()}, a.pixels, blocks.stretch, channels, groups);
  return true;
}

}  // namespace mole::detail
