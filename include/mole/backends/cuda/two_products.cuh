#pragma once
// Launches a kernel of TwoProducts where the device and the extents fit one.

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include <mole/backends/cuda/context.cuh>
#include <mole/backends/cuda/few_rows.cuh>
#include <mole/backends/cuda/hopper/two_products_kernel.cuh>
#include <mole/backends/cuda/launch.cuh>
#include <mole/core/kernels/two_products.hpp>
#include <mole/core/scalar.hpp>

namespace mole::detail {

using EncodeTensorMap = decltype(&cuTensorMapEncodeTiled);

/// The driver's function, without a link to the driver; null where the driver lacks it.
inline EncodeTensorMap encode_tensor_map() {
  static const EncodeTensorMap found = [] {
    void* f = nullptr;
    cudaDriverEntryPointQueryResult result = cudaDriverEntryPointSymbolNotFound;
#if CUDART_VERSION >= 12050
    const cudaError_t status =
        cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &f, 12000, cudaEnableDefault, &result);
#else
    const cudaError_t status =
        cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &f, cudaEnableDefault, &result);
#endif
    if (status != cudaSuccess) cudaGetLastError();
    return status == cudaSuccess && result == cudaDriverEntryPointSuccess
               ? reinterpret_cast<EncodeTensorMap>(f)
               : nullptr;
  }();
  return found;
}

/// `count` matrices [rows, columns] in rows of `stride` elements, `apart` elements from one to the next, that are copied
/// in boxes. Throws DeviceError where the driver refuses.
inline CUtensorMap tensor_map(const void* p, Index rows, Index columns, Index count, Index stride,
                              Index apart, int box_rows) {
  const auto size = [](Index n) { return static_cast<cuuint64_t>(n); };
  const cuuint64_t sizes[3] = {size(columns), size(rows), size(count)};
  // One matrix has no next one, but the driver wants a distance.
  const cuuint64_t strides[2] = {size(stride) * 2, size(count > 1 ? apart : stride * rows) * 2};
  const cuuint32_t box[3] = {64, static_cast<cuuint32_t>(box_rows), 1}, step[3] = {1, 1, 1};
  CUtensorMap map;
  const CUresult status =
      encode_tensor_map()(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 3, const_cast<void*>(p), sizes, strides,
                          box, step, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                          CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  MOLE_CHECK_AS(DeviceError, status == CUDA_SUCCESS, "cuda: no tensor map of", count, "x", rows, "x", columns,
                "at strides", stride, apart, "- cuTensorMapEncodeTiled returned", static_cast<int>(status));
  return map;
}

/// Whether a kernel has its code for this thread's device, with the shared memory it needs allowed. Looked up once.
template <int BN, bool Across, int Stages>
bool two_products_ready() {
  thread_local const bool ready = [] {
    const auto kernel = hopper::two_products<BN, Across, Stages>;
    cudaFuncAttributes found{};
    const bool there = encode_tensor_map() && cudaFuncGetAttributes(&found, kernel) == cudaSuccess &&
                       found.sharedSizeBytes > 0 &&
                       cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                            hopper::two_products_bytes<BN, Stages>) == cudaSuccess;
    if (!there) cudaGetLastError();
    return there;
  }();
  return ready;
}

/// Launches with tiles of BN columns.
template <int BN, bool Across>
void launch_tiles(const TwoProducts<bf16>& a) {
  constexpr int stages = BN == 256 ? 3 : 5;
  const auto of_b = [&](const bf16* b, Index inner) {
    return Across ? tensor_map(b, inner, a.columns, a.count, a.columns, inner * a.columns, 64)
                  : tensor_map(b, a.columns, inner, a.count, inner, inner * a.columns, BN);
  };
  const auto up = [](Index n, int by) { return static_cast<int>((n + by - 1) / by); };
  hopper::TwoProductsCall call;
  call.a0 = tensor_map(a.a0, a.rows, a.inner0, 1, a.inner0, 0, hopper::tile_rows);
  call.a1 = tensor_map(a.a1, a.rows, a.inner1, a.count, a.stride1, a.inner1, hopper::tile_rows);
  call.b0 = of_b(a.b0, a.inner0), call.b1 = of_b(a.b1, a.inner1);
  call.d = tensor_map(a.d, a.rows, a.columns, a.count, a.columns, a.rows * a.columns, 64);
  for (int i = 0; i < most_gates; ++i) call.c[i] = reinterpret_cast<const __nv_bfloat16*>(a.c[i]);
  call.out = reinterpret_cast<__nv_bfloat16*>(a.d);
  call.rows = a.rows, call.columns = a.columns, call.count = a.count, call.add = a.add;
  call.tile_rows = up(a.rows, hopper::tile_rows), call.tile_columns = up(a.columns, BN);
  call.steps0 = up(a.inner0, hopper::step_inner), call.steps1 = up(a.inner1, hopper::step_inner);
  call.group = 16;
  const auto& context = cuda_context();
  const int blocks = std::min(context.processors, call.count * call.tile_rows * call.tile_columns);
  launch_kernel(a.early, hopper::two_products<BN, Across, stages>, blocks, hopper::two_products_threads,
                hopper::two_products_bytes<BN, stages>, call);
}

/// Tiles of so many columns.
template <class T>
Index count_tiles(const TwoProducts<T>& a, Index width) {
  return (a.rows + hopper::tile_rows - 1) / hopper::tile_rows * ((a.columns + width - 1) / width) * a.count;
}

/// Whether the copy engine can read these operands: it wants addresses and distances of rows in multiples of 16 bytes, and
/// the kernel counts tiles in 31 bits.
inline bool two_products_extents_fit(const TwoProducts<bf16>& a) {
  const auto whole = [](Index n) { return n % 8 == 0; };
  for (const void* p :
       {static_cast<const void*>(a.a0), static_cast<const void*>(a.b0), static_cast<const void*>(a.a1),
        static_cast<const void*>(a.b1), static_cast<const void*>(a.d)})
    if (reinterpret_cast<std::uintptr_t>(p) % 16 != 0) return false;
  for (int i = 0; i < a.count; ++i)
    if (reinterpret_cast<std::uintptr_t>(a.c[i]) % 4 != 0) return false;
  constexpr Index most = Index{1} << 30;
  return a.rows > 0 && a.inner0 > 0 && a.inner1 > 0 && a.columns > 0 && whole(a.columns) && whole(a.inner0) &&
         whole(a.inner1) && whole(a.stride1) && a.count <= most_gates &&
         std::max({a.rows, a.columns, a.inner0, a.inner1, a.stride1}) < most && count_tiles(a, 128) < most;
}

/// Of Cuda::two_products_fit. Where few tiles leave most multiprocessors idle, cuBLAS splits the sums among them, and in a
/// graph its wide product runs beside the gate's steps.
template <class T>
bool two_products_fit(const TwoProducts<T>& a) {
  if (few_rows_fit(a)) return true;
  if constexpr (std::is_same_v<T, bf16>)
    return two_products_extents_fit(a) &&
           (cuda_context().branches ? 1 : 3) * count_tiles(a, 128) >= cuda_context().processors &&
           (a.across ? two_products_ready<256, true, 3>() && two_products_ready<128, true, 5>()
                     : two_products_ready<256, false, 3>() && two_products_ready<128, false, 5>());
  return false;
}

/// Of Cuda::two_products. Wide tiles read less; narrow ones leave fewer multiprocessors idle in the last round.
template <class T>
void launch_two_products(const TwoProducts<T>& a) {
  if (few_rows_fit(a)) return launch_few_rows(a);
  if constexpr (std::is_same_v<T, bf16>) {
    const auto rounds = [&](Index width) {
      const Index processors = cuda_context().processors;
      return (count_tiles(a, width) + processors - 1) / processors;
    };
    // A wide tile takes 1.8 times as long as a narrow one.
    if (rounds(256) * 18 <= rounds(128) * 10)
      a.across ? launch_tiles<256, true>(a) : launch_tiles<256, false>(a);
    else
      a.across ? launch_tiles<128, true>(a) : launch_tiles<128, false>(a);
  }
}

}  // namespace mole::detail
