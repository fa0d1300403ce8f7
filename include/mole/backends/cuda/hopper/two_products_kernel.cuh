#pragma once
// The kernel of TwoProducts (core/kernels/two_products.hpp) in bf16, for sm_90a: D_i = A0 B0_i + A1_i B1_i + c_i.
//
// A block works on tiles of D [128, BN], in steps of 64 along inner0 and then inner1; sums are in float, and D is rounded
// and written once. One warpgroup loads: the copy engine fills `Stages` stages of shared memory. Two warpgroups multiply,
// 64 rows of the tile each. Blocks stay (there is one a multiprocessor) and take tile after tile; while a tile is written,
// the next one's stages are loaded. What lies outside the matrices is copied as 0 and not written.
//
// Where it is launched early, the kernel begins while the one that makes A1 still runs: it multiplies A0 B0 until it needs
// A1.

#include <cstdint>

#include <cuda_bf16.h>

#include <mole/backends/cuda/hopper/copies.cuh>
#include <mole/backends/cuda/hopper/wgmma.cuh>
#include <mole/backends/cuda/launch.cuh>
#include <mole/core/kernels/gate.hpp>

namespace mole::detail::hopper {

/// Where the operands and the result are, and the extents. Each map has a third extent, over i.
struct TwoProductsCall {
  CUtensorMap a0, b0, a1, b1, d;
  const __nv_bfloat16* c[most_gates];  ///< [columns] each, or null
  __nv_bfloat16* out;                  ///< D, to be read where it is added to
  long long rows, columns;
  int tile_rows, tile_columns;  ///< tiles of each D_i
  int steps0, steps1;           ///< of 64
  int count,
      group;  ///< tiles are taken by groups of so many rows of tiles, so that L2 has what is read again
  bool add;
};

constexpr int tile_rows = 128, step_inner = 64, two_products_threads = 384;

/// Columns of the boxes of D: a whole number of them makes a tile of BN columns.
template <int BN>
inline constexpr int box_columns = BN % 64 == 0 ? 64 : 32;

/// Bytes of shared memory a block asks for.
template <int BN, int Stages>
constexpr int two_products_bytes = 1024 + Stages*(tile_rows + BN) * step_inner * 2 + tile_rows* BN * 2;

/// Tile number `tile` is at tile row m and tile column n of D_i.
__device__ __forceinline__ void place_of_tile(const TwoProductsCall& call, int tile, int& i, int& m, int& n) {
  const int each = call.tile_rows * call.tile_columns;
  i = tile / each;
  tile -= i * each;
  const int in_group = call.group * call.tile_columns, first = tile / in_group * call.group,
            size = min(call.group, call.tile_rows - first), at = tile % in_group;
  m = first + at % size;
  n = at / size;
}

/// Adds the bias, and D itself where it is added to, to a thread's part of a tile. d: as wgmma leaves it; (row, column):
/// of d[0].
template <int BN>
__device__ __forceinline__ void add_to_tile(float (&d)[BN / 2], const TwoProductsCall& call, int i,
                                            long long row, long long column) {
  const __nv_bfloat16* const c = call.c[i];
#pragma unroll
  for (int j = 0; j < BN / 8; ++j) {
    const long long at = column + 8 * j;
    if (at >= call.columns) break;  // columns is a multiple of 8
    if (c) {
      const float2 more = __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(c + at));
      d[4 * j] += more.x, d[4 * j + 1] += more.y, d[4 * j + 2] += more.x, d[4 * j + 3] += more.y;
    }
    for (int half = 0; call.add && half < 2; ++half) {
      if (row + 8 * half >= call.rows) break;
      const float2 more = __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(
          call.out + (i * call.rows + row + 8 * half) * call.columns + at));
      d[4 * j + 2 * half] += more.x, d[4 * j + 2 * half + 1] += more.y;
    }
  }
}

/// See the file's head. Across: B0_i and B1_i are [inner, columns]. Where the code is not for sm_90a it does nothing, and
/// has no static shared memory: so the host can tell.
template <int BN, bool Across, int Stages>
__global__ void __launch_bounds__(two_products_threads, 1)
    two_products(const __grid_constant__ TwoProductsCall call) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  constexpr int BM = tile_rows, BK = step_inner, box_width = box_columns<BN>, box_row = 2 * box_width;
  static_assert(!Across || BN % 64 == 0);
  constexpr std::uint32_t a_bytes = BM * BK * 2, b_bytes = BN * BK * 2, b_box_bytes = 64 * BK * 2,
                          box_bytes = 64 * box_row;
  extern __shared__ __align__(1024) unsigned char raw[];
  __shared__ std::uint64_t full[Stages], empty[Stages];
  auto* const base =
      reinterpret_cast<unsigned char*>((reinterpret_cast<std::uintptr_t>(raw) + 1023) / 1024 * 1024);
  unsigned char* const of_a = base;
  unsigned char* const of_b = base + Stages * a_bytes;
  unsigned char* const of_d = of_b + Stages * b_bytes;
  const int warpgroup = threadIdx.x / 128, thread = threadIdx.x % 128;
  if (threadIdx.x == 0) {
    for (int s = 0; s < Stages; ++s) {
      barrier_init(full + s, 1);
      barrier_init(empty + s, 2);
    }
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  __syncthreads();
  const int tiles = call.count * call.tile_rows * call.tile_columns, steps = call.steps0 + call.steps1;
  if (warpgroup == 2) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
    if (thread != 0) return;
    int stage = 0, phase = 1;
    for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
      int i, m, n;
      place_of_tile(call, tile, i, m, n);
      for (int k = 0; k < steps; ++k) {
        barrier_wait(empty + stage, phase);
        barrier_expect(full + stage, a_bytes + b_bytes);
        const bool first = k < call.steps0;
        const int at = (first ? k : k - call.steps0) * BK;
        if (!first) wait_for_earlier();
        load_box(of_a + stage * a_bytes, first ? &call.a0 : &call.a1, full + stage, at, m * BM,
                 first ? 0 : i);
        const CUtensorMap* const b = first ? &call.b0 : &call.b1;
        unsigned char* const to = of_b + stage * b_bytes;
        if constexpr (!Across)
          load_box(to, b, full + stage, at, n * BN, i);
        else
          for (int box = 0; box < BN / 64; ++box)
            load_box(to + box * b_box_bytes, b, full + stage, n * BN + box * 64, at, i);
        if (++stage == Stages) stage = 0, phase ^= 1;
      }
    }
    return;
  }
  asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
  int stage = 0, phase = 0;
  const int lane = thread % 32, warp = thread / 32;
  const auto release = [&](int s) {
    if (thread == 0) barrier_arrive(empty + s);
  };
  unsigned char* const own = of_d + warpgroup * 64 * BN * 2;
  for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
    int i, m, n;
    place_of_tile(call, tile, i, m, n);
    float d[BN / 2];
    int last = -1;
    for (int k = 0; k < steps; ++k) {
      barrier_wait(full + stage, phase);
      asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
      const std::uint64_t a = descriptor(of_a + stage * a_bytes + warpgroup * 64 * BK * 2, 16, 1024);
      const std::uint64_t b = descriptor(of_b + stage * b_bytes, Across ? b_box_bytes : 16, 1024);
      // 16 columns on: 32 bytes of a row, or 16 rows of 128 bytes.
#  pragma unroll
      for (int q = 0; q < BK / 16; ++q)
        multiply<BN, Across>(d, a + q * 2, b + q * (Across ? 128 : 2), k > 0 || q > 0);
      asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
      // One step stays in flight: the one before has read its stage.
      if (last >= 0) {
        asm volatile("wgmma.wait_group.sync.aligned 1;" ::: "memory");
        release(last);
      }
      last = stage;
      if (++stage == Stages) stage = 0, phase ^= 1;
    }
    asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
    release(last);
    wait_for_earlier();
    if (call.add || call.c[i])
      add_to_tile<BN>(d, call, i, m * static_cast<long long>(BM) + warpgroup * 64 + warp * 16 + lane / 4,
                      n * static_cast<long long>(BN) + lane % 4 * 2);
    // The store of the tile before must have read its memory.
    if (thread == 0) asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");
    asm volatile("bar.sync %0, 128;" ::"r"(warpgroup + 2) : "memory");
    const int row = warp * 16 + lane % 8 + 8 * (lane / 8 % 2);
#  pragma unroll
    for (int j = 0; j < BN / 16; ++j) {
      const int chunk = 2 * j + lane / 16;  // of 8 columns
      std::uint32_t pairs[4];
#  pragma unroll
      for (int e = 0; e < 4; ++e) {
        const __nv_bfloat162 pair = __floats2bfloat162_rn(d[8 * j + 2 * e], d[8 * j + 2 * e + 1]);
        pairs[e] = *reinterpret_cast<const std::uint32_t*>(&pair);
      }
      constexpr int chunks = box_row / 16;  // of a box's row; swizzled by its place in 1024 bytes
      const std::uint32_t to = shared_address(own) + chunk / chunks * box_bytes + row * box_row +
                               ((chunk % chunks) ^ (row * chunks / 8 % chunks)) * 16;
      asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(to),
                   "r"(pairs[0]), "r"(pairs[1]), "r"(pairs[2]), "r"(pairs[3])
                   : "memory");
    }
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    asm volatile("bar.sync %0, 128;" ::"r"(warpgroup + 2) : "memory");
    if (thread == 0) {
      for (int box = 0; box < BN / box_width; ++box)
        store_box(&call.d, own + box * box_bytes, n * BN + box * box_width, m * BM + warpgroup * 64, i);
      asm volatile("cp.async.bulk.commit_group;" ::: "memory");
    }
  }
  if (thread == 0) asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
#endif
}

}  // namespace mole::detail::hopper
