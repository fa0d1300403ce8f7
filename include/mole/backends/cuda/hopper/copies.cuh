#pragma once
// Hopper's copies of boxes between device memory and shared memory, the barriers that say when they have arrived, and how
// the matrix units find what was copied; all by PTX.

#include <cstdint>

#include <cuda.h>

namespace mole::detail::hopper {

__device__ __forceinline__ std::uint32_t shared_address(const void* p) {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(p));
}

__device__ __forceinline__ void barrier_init(std::uint64_t* barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals));
}
/// Arrives, and has the barrier wait for so many bytes of copies.
__device__ __forceinline__ void barrier_expect(std::uint64_t* barrier, std::uint32_t bytes) {
  asm volatile(
      "mbarrier.arrive.expect_tx.release.cta.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)),
      "r"(bytes)
      : "memory");
}
__device__ __forceinline__ void barrier_arrive(std::uint64_t* barrier) {
  asm volatile("mbarrier.arrive.release.cta.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier))
               : "memory");
}
__device__ __forceinline__ void barrier_wait(std::uint64_t* barrier, int phase) {
  asm volatile(
      "{\n.reg .pred done;\n"
      "again:\nmbarrier.try_wait.parity.acquire.cta.shared::cta.b64 done, [%0], %1;\n"
      "@done bra.uni reached;\nbra.uni again;\nreached:\n}" ::"r"(shared_address(barrier)),
      "r"(phase)
      : "memory");
}

/// Copies the box of a tensor that begins at column x and row y of matrix z. What lies outside becomes 0, and counts as
/// copied.
__device__ __forceinline__ void load_box(void* to, const CUtensorMap* map, std::uint64_t* barrier, int x,
                                         int y, int z) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, "
      "%5}], [%2];" ::"r"(shared_address(to)),
      "l"(map), "r"(shared_address(barrier)), "r"(x), "r"(y), "r"(z)
      : "memory");
}
/// The other way. What lies outside is not written.
__device__ __forceinline__ void store_box(const CUtensorMap* map, const void* from, int x, int y, int z) {
  asm volatile(
      "cp.async.bulk.tensor.3d.global.shared::cta.tile.bulk_group [%0, {%2, %3, %4}], [%1];" ::"l"(map),
      "r"(shared_address(from)), "r"(x), "r"(y), "r"(z)
      : "memory");
}

/// Where the matrix units find an operand in shared memory whose rows of 128 bytes are swizzled. `along`: bytes from one
/// block of 64 columns to the next (of B across alone); `down`: bytes from one block of 8 rows to the next.
__device__ __forceinline__ std::uint64_t descriptor(const void* p, std::uint32_t along, std::uint32_t down) {
  return static_cast<std::uint64_t>((shared_address(p) & 0x3FFFF) >> 4) |
         static_cast<std::uint64_t>(along >> 4) << 16 | static_cast<std::uint64_t>(down >> 4) << 32 |
         1ull << 62;
}

}  // namespace mole::detail::hopper
