#pragma once
// The kernels of GateProduct (core/kernels/gate_product.hpp) in bf16, for sm_90a.
//
// A cluster of two blocks takes 128 rows. Each block multiplies one half of the inner extent, as two warpgroups of 64 rows
// each, while a warp has the copy engine fill the stages of shared memory. Then the block of rank i adds up both halves of
// warpgroup i's rows, by both warpgroups: a row is in the four lanes of a quad, whose lane q has columns 8 j + 2 q and the
// next one. So the gate, or its pullback, needs no memory but the parameters.

#include <cstdint>
#include <type_traits>

#include <mole/backends/cuda/hopper/copies.cuh>
#include <mole/backends/cuda/hopper/gate_product_rows.cuh>
#include <mole/backends/cuda/hopper/wgmma.cuh>
#include <mole/backends/cuda/launch.cuh>
#include <mole/core/kernels/gate.hpp>
#include <mole/core/scalar.hpp>

namespace mole::detail::hopper {

/// Where the operands are, the gates, and the steps of 64 along the inner extent.
template <class Gate>
struct GateProductCall {
  CUtensorMap a[most_gates], b;  ///< b with a third extent, over the gates; forth there is one a
  Gate gate;
  bf16* made;
  float *partial, *partial_rest;  ///< back, as gate_backward_kernel leaves them
  int steps;
};

constexpr int gate_product_rows = 128, gate_product_step = 64, gate_product_threads = 288;

/// Stages for a product of BN columns, and the bytes of shared memory a block asks for. Once all is multiplied it holds
/// what blocks and threads hand each other.
template <int BN>
inline constexpr int gate_product_stages = BN == 64 ? 8 : 6;
template <int BN>
inline constexpr int gate_product_bytes = 1024 +
                                          gate_product_stages<BN>*(gate_product_rows + BN) * gate_product_step
                                              * 2;

/// Everyone of the cluster has come here: what they wrote to shared memory before arrive can be read after wait.
__device__ __forceinline__ void cluster_arrive() {
  asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
}
__device__ __forceinline__ void cluster_wait() {
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}
__device__ __forceinline__ int cluster_rank() {
  std::uint32_t rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return static_cast<int>(rank);
}
/// Where the other block has what this one has at p.
__device__ __forceinline__ std::uint32_t address_in_block(const void* p, int rank) {
  std::uint32_t address;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(address) : "r"(shared_address(p)), "r"(rank));
  return address;
}
__device__ __forceinline__ float2 load_from_block(std::uint32_t address) {
  float2 x;
  asm volatile("ld.shared::cluster.v2.f32 {%0, %1}, [%2];" : "=f"(x.x), "=f"(x.y) : "r"(address) : "memory");
  return x;
}

/// Has the copy engine fill the stages with `steps` steps from `first` on.
template <int BN, bool Across, int Stages>
__device__ __forceinline__ void load_steps(const CUtensorMap* a, const CUtensorMap* b, unsigned char* of_a,
                                           unsigned char* of_b, std::uint64_t* full, std::uint64_t* empty,
                                           int first, int steps, int row, int gate) {
  constexpr std::uint32_t a_bytes = gate_product_rows * gate_product_step * 2,
                          b_bytes = BN * gate_product_step * 2, box_bytes = 64 * gate_product_step * 2;
  int stage = 0, phase = 1;
  for (int k = 0; k < steps; ++k) {
    const int at = (first + k) * gate_product_step;
    barrier_wait(empty + stage, phase);
    barrier_expect(full + stage, a_bytes + b_bytes);
    load_box(of_a + stage * a_bytes, a, full + stage, at, row, 0);
    unsigned char* const to = of_b + stage * b_bytes;
    if constexpr (!Across)
      load_box(to, b, full + stage, at, 0, gate);
    else
      for (int box = 0; box < BN / 64; ++box)
        load_box(to + box * box_bytes, b, full + stage, box * 64, at, gate);
    if (++stage == Stages) stage = 0, phase ^= 1;
  }
}

/// d = the products of those steps, of a warpgroup's 64 rows.
template <int BN, bool Across, int Stages>
__device__ __forceinline__ void multiply_steps(float (&d)[BN / 2], unsigned char* of_a, unsigned char* of_b,
                                               std::uint64_t* full, std::uint64_t* empty, int steps,
                                               int warpgroup, bool first_thread) {
  constexpr std::uint32_t a_bytes = gate_product_rows * gate_product_step * 2,
                          b_bytes = BN * gate_product_step * 2, box_bytes = 64 * gate_product_step * 2;
#pragma unroll
  for (int j = 0; j < BN / 2; ++j) d[j] = 0;
  int stage = 0, phase = 0, last = -1;
  for (int k = 0; k < steps; ++k) {
    barrier_wait(full + stage, phase);
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
    const std::uint64_t a = descriptor(of_a + stage * a_bytes + warpgroup * 64 * 128, 16, 1024);
    const std::uint64_t b = descriptor(of_b + stage * b_bytes, Across ? box_bytes : 16, 1024);
#pragma unroll
    for (int q = 0; q < gate_product_step / 16; ++q)
      multiply<BN, Across>(d, a + q * 2, b + q * (Across ? 128 : 2), 1);
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
    if (last >= 0) {
      asm volatile("wgmma.wait_group.sync.aligned 1;" ::: "memory");
      if (first_thread) barrier_arrive(empty + last);
    }
    last = stage;
    if (++stage == Stages) stage = 0, phase ^= 1;
  }
  asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
}

/// See the file's head; N: a multiple of 4, and no fewer than the experts. Where the code is not for sm_90a it does nothing, and has no static
/// shared memory: so the host can tell.
template <int BN, int N, class Gate>
__global__ void __launch_bounds__(gate_product_threads, 1)
    gate_product(const __grid_constant__ GateProductCall<Gate> call) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  constexpr bool back = std::is_same_v<Gate, GateBackward<bf16>>;
  constexpr int stages = gate_product_stages<BN>;
  extern __shared__ __align__(1024) unsigned char raw[];
  __shared__ std::uint64_t full[stages], empty[stages];
  __shared__ __align__(16) GateShared<BN, N> s;
  auto* const of_a =
      reinterpret_cast<unsigned char*>((reinterpret_cast<std::uintptr_t>(raw) + 1023) / 1024 * 1024);
  unsigned char* const of_b = of_a + stages * gate_product_rows * gate_product_step * 2;
  const int warpgroup = threadIdx.x / 128, thread = threadIdx.x % 128;
  const int rank = cluster_rank(), tile = blockIdx.x / 2, gate = blockIdx.y;
  const auto& a = call.gate;
  if (threadIdx.x == 0) {
    for (int stage = 0; stage < stages; ++stage) {
      barrier_init(full + stage, 1);
      barrier_init(empty + stage, 2);
    }
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  __syncthreads();
  follow_earlier();
  const int half = (call.steps + 1) / 2, first = rank == 0 ? 0 : half,
            steps = rank == 0 ? half : call.steps - half;
  const Index block_row = static_cast<Index>(tile) * gate_product_rows + rank * gate_block_rows,
              row = block_row + threadIdx.x / 4;
  const int features = static_cast<int>(a.features), experts = static_cast<int>(a.experts);
  std::uint32_t v[BN / 8];
  float size = 1;
  // Sums for this block and for the other one: columns 8 j + 2 q and the next at [j, row, q].
  auto* const own = reinterpret_cast<float2*>(of_a);
  auto* const other = own + gate_block_rows * BN / 2;
  if (warpgroup == 2) {
    if (thread == 0)
      load_steps<BN, back, stages>(&call.a[back ? gate : 0], &call.b, of_a, of_b, full, empty, first, steps,
                                   tile * gate_product_rows, gate);
    __syncwarp();
  } else {
    const auto& one = a.gate[gate];
    s.load(one, features, experts);
    if constexpr (back) {
      s.load_rows(a.g + gate * a.rows * experts, block_row, a.rows, experts, s.gates);
      s.load_rows(one.dg, block_row, one.dg ? a.rows : 0, experts, s.dg);
      if (row < a.rows) size = a.norm[gate * a.rows + row];
#  pragma unroll
      for (int j = 0; j < BN / 8; ++j)
        v[j] = row < a.rows && 8 * j < features
                   ? *reinterpret_cast<const std::uint32_t*>(a.v + row * a.stride + gate * a.features +
                                                             8 * j + threadIdx.x % 4 * 2)
                   : 0;
    } else {
      if (threadIdx.x < N) {
        const int i = threadIdx.x;
        s.kept[i] = i < experts && (!one.keep || static_cast<float>(one.keep[i]) != 0.f) ? 1.f : 0.f;
      }
    }
    float d[BN / 2];
    multiply_steps<BN, back, stages>(d, of_a, of_b, full, empty, steps, warpgroup, thread == 0);
    workers_sync();  // the stages have been read
    float2* const to = (warpgroup == rank ? own : other) + thread / 32 * 64 + thread % 32;
#  pragma unroll
    for (int j = 0; j < BN / 8; ++j) {
      if (8 * j >= features) break;
      to[j * 256] = make_float2(d[4 * j], d[4 * j + 1]);
      to[j * 256 + 32] = make_float2(d[4 * j + 2], d[4 * j + 3]);
    }
  }
  cluster_arrive();
  cluster_wait();
  float sums[BN / 4];
  if (warpgroup < 2) {
    const std::uint32_t from = address_in_block(other + threadIdx.x, 1 - rank);
#  pragma unroll
    for (int j = 0; j < BN / 8; ++j) {
      if (8 * j >= features) break;
      const float2 ours = own[j * 256 + threadIdx.x], theirs = load_from_block(from + j * 256 * 8);
      sums[2 * j] = ours.x + theirs.x, sums[2 * j + 1] = ours.y + theirs.y;
    }
  }
  __syncwarp();
  cluster_arrive();  // the other block may go once it has been read
  if (warpgroup < 2) {
    if constexpr (back) {
      auto* const rows_of_v = reinterpret_cast<std::uint32_t*>(other + gate_block_rows * BN / 2);
      auto* const between = reinterpret_cast<float*>(rows_of_v + gate_block_rows * (BN / 2 + 4));
      pull_back<BN, N>(sums, a, s, rows_of_v, v, size, row, gate);
      workers_sync();
      leave_parts<BN, N>(a, s, rows_of_v, between, call.partial, call.partial_rest, gate);
    } else {
      gates_of<BN, N>(sums, a, call.made, s, row, gate);
    }
  }
  __syncwarp();
  cluster_wait();
#endif
}

}  // namespace mole::detail::hopper
