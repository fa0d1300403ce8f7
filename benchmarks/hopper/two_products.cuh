#pragma once
// One kernel for two products in bf16, for sm_90a: D = A0 B0 + A1 B1. MoLE's y = x W^T + p Q^T is such a sum, and so is
// dx = G W + dh A'. D is rounded and written once.
//
// Legend: A0 [M, K0], A1 [M, K1], D [M, N]; B0 and B1 [N, K] (Transposed = 0) or [K, N] (Transposed = 1), all
// row-major. A block works on tiles of D [128, BN], in steps of 64 along K0 and then K1.
// One warpgroup loads: the tensor copy engine fills `Stages` stages of shared memory. Two warpgroups multiply, 64 rows of
// the tile each. Blocks stay (there is one a multiprocessor) and take tile after tile; while a tile is written, the next
// one's stages are loaded.

#include <cuda.h>
#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>

#include "hopper/wgmma.cuh"

namespace hopper {

using bf16 = __nv_bfloat16;

/// Where the operands and the result are.
struct Maps {
  CUtensorMap a0, b0, a1, b1, d;
};

namespace detail {

__device__ __forceinline__ uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

__device__ __forceinline__ void barrier_init(uint64_t* barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals));
}
/// Arrives, and has the barrier wait for so many bytes of copies.
__device__ __forceinline__ void barrier_expect(uint64_t* barrier, uint32_t bytes) {
  asm volatile(
      "mbarrier.arrive.expect_tx.release.cta.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)),
      "r"(bytes)
      : "memory");
}
__device__ __forceinline__ void barrier_arrive(uint64_t* barrier) {
  asm volatile("mbarrier.arrive.release.cta.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier))
               : "memory");
}
__device__ __forceinline__ void barrier_wait(uint64_t* barrier, int phase) {
  asm volatile(
      "{\n.reg .pred done;\n"
      "again:\nmbarrier.try_wait.parity.acquire.cta.shared::cta.b64 done, [%0], %1;\n"
      "@done bra.uni reached;\nbra.uni again;\nreached:\n}" ::"r"(shared_address(barrier)),
      "r"(phase)
      : "memory");
}
/// Copies the box of a tensor whose first element is (row y, column x).
__device__ __forceinline__ void load(void* to, const CUtensorMap* map, uint64_t* barrier, int x, int y) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];" ::
          "r"(shared_address(to)),
      "l"(map), "r"(shared_address(barrier)), "r"(x), "r"(y)
      : "memory");
}
__device__ __forceinline__ void store(const CUtensorMap* map, const void* from, int x, int y) {
  asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%0, {%2, %3}], [%1];" ::"l"(map),
               "r"(shared_address(from)), "r"(x), "r"(y)
               : "memory");
}
/// Of a matrix in shared memory whose rows of 128 bytes are swizzled. `along`: bytes from one block of 64 columns to the
/// next (transposed operands alone); `down`: bytes from one block of 8 rows to the next.
__device__ __forceinline__ uint64_t descriptor(const void* p, uint32_t along, uint32_t down) {
  return static_cast<uint64_t>((shared_address(p) & 0x3FFFF) >> 4) | static_cast<uint64_t>(along >> 4) << 16 |
         static_cast<uint64_t>(down >> 4) << 32 | 1ull << 62;
}

}  // namespace detail

/// See the file's head. Tiles are taken in groups of `group` rows of tiles, so that what is read again is still in L2.
template <int BN, int Transposed, int Stages>
__global__ void __launch_bounds__(384, 1) two_products(const __grid_constant__ Maps maps, int rows,
                                                       int columns, int steps0, int steps1, int group) {
  using namespace detail;
  constexpr int BM = 128, BK = 64;
  constexpr uint32_t a_bytes = BM * BK * 2, b_bytes = BN * BK * 2, box_bytes = 64 * BK * 2;
  extern __shared__ __align__(1024) unsigned char raw[];
  auto* const base =
      reinterpret_cast<unsigned char*>((reinterpret_cast<uintptr_t>(raw) + 1023) / 1024 * 1024);
  unsigned char* const of_a = base;
  unsigned char* const of_b = base + Stages * a_bytes;
  unsigned char* const of_d = of_b + Stages * b_bytes;
  auto* const full = reinterpret_cast<uint64_t*>(of_d + BM * BN * 2);
  uint64_t* const empty = full + Stages;
  const int warpgroup = threadIdx.x / 128, thread = threadIdx.x % 128;
  if (threadIdx.x == 0) {
    for (int s = 0; s < Stages; ++s) {
      barrier_init(full + s, 1);
      barrier_init(empty + s, 2);
    }
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  __syncthreads();
  const int count = rows * columns, steps = steps0 + steps1;
  const auto place = [&](int tile, int& m, int& n) {
    const int in_group = group * columns, first = tile / in_group * group, size = min(group, rows - first),
              at = tile % in_group;
    m = first + at % size;
    n = at / size;
  };
  if (warpgroup == 2) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
    if (thread != 0) return;
    int stage = 0, phase = 1;
    for (int tile = blockIdx.x; tile < count; tile += gridDim.x) {
      int m, n;
      place(tile, m, n);
      for (int k = 0; k < steps; ++k) {
        barrier_wait(empty + stage, phase);
        barrier_expect(full + stage, a_bytes + b_bytes);
        const bool first = k < steps0;
        const int at = (first ? k : k - steps0) * BK;
        load(of_a + stage * a_bytes, first ? &maps.a0 : &maps.a1, full + stage, at, m * BM);
        const CUtensorMap* const b = first ? &maps.b0 : &maps.b1;
        unsigned char* const to = of_b + stage * b_bytes;
        if constexpr (Transposed == 0)
          load(to, b, full + stage, at, n * BN);
        else
          for (int box = 0; box < BN / 64; ++box)
            load(to + box * box_bytes, b, full + stage, n * BN + box * 64, at);
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
  for (int tile = blockIdx.x; tile < count; tile += gridDim.x) {
    int m, n;
    place(tile, m, n);
    float d[BN / 2];
    int last = -1;
    for (int k = 0; k < steps; ++k) {
      barrier_wait(full + stage, phase);
      asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
      const uint64_t a = descriptor(of_a + stage * a_bytes + warpgroup * 64 * BK * 2, 16, 1024);
      const uint64_t b = descriptor(of_b + stage * b_bytes, Transposed == 0 ? 16 : box_bytes, 1024);
      // 16 columns on: 32 bytes of a row, or 16 rows of 128 bytes.
#pragma unroll
      for (int q = 0; q < BK / 16; ++q)
        multiply<BN, Transposed>(d, a + q * 2, b + q * (Transposed == 0 ? 2 : 128), k > 0 || q > 0);
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
    // The store of the tile before must have read its memory.
    if (thread == 0) asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");
    asm volatile("bar.sync %0, 128;" ::"r"(warpgroup + 2) : "memory");
    const int row = warp * 16 + lane % 8 + 8 * (lane / 8 % 2);
#pragma unroll
    for (int j = 0; j < BN / 16; ++j) {
      const int chunk = 2 * j + lane / 16;  // of 8 columns
      uint32_t pairs[4];
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const __nv_bfloat162 pair = __floats2bfloat162_rn(d[8 * j + 2 * e], d[8 * j + 2 * e + 1]);
        pairs[e] = *reinterpret_cast<const uint32_t*>(&pair);
      }
      const uint32_t to =
          shared_address(own) + chunk / 8 * box_bytes + row * 128 + ((chunk % 8) ^ (row % 8)) * 16;
      asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(to),
                   "r"(pairs[0]), "r"(pairs[1]), "r"(pairs[2]), "r"(pairs[3])
                   : "memory");
    }
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    asm volatile("bar.sync %0, 128;" ::"r"(warpgroup + 2) : "memory");
    if (thread == 0) {
      for (int box = 0; box < BN / 64; ++box)
        store(&maps.d, own + box * box_bytes, n * BN + box * 64, m * BM + warpgroup * 64);
      asm volatile("cp.async.bulk.commit_group;" ::: "memory");
    }
  }
  if (thread == 0) asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
}

}  // namespace hopper
