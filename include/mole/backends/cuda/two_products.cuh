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
/// in boxes of 64 or 32 columns, whose rows are swizzled. Throws DeviceError where the driver refuses.
inline CUtensorMap tensor_map(const void* p, Index rows, Index columns, Index count, Index stride,
                              Index apart, int box_rows, int box_columns = 64) {
  const auto size = [](Index n) { return static_cast<cuuint64_t>(n); };
  const cuuint64_t sizes[3] = {size(columns), size(rows), size(count)};
  // One matrix has no next one, but the driver wants a distance.
  const cuuint64_t strides[2] = {size(stride) * 2, size(count > 1 ? apart : stride * rows) * 2};
  const cuuint32_t box[3] = {static_cast<cuuint32_t>(box_columns), static_cast<cuuint32_t>(box_rows), 1},
                   step[3] = {1, 1, 1};
  CUtensorMap map;
  const CUresult status =
      encode_tensor_map()(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 3, const_cast<void*>(p), sizes, strides,
                          box, step, CU_TENSOR_MAP_INTERLEAVE_NONE,
                          box_columns == 64 ? CU_TENSOR_MAP_SWIZZLE_128B : CU_TENSOR_MAP_SWIZZLE_64B,
                          CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  MOLE_CHECK_AS(DeviceError, status == CUDA_SUCCESS, "cuda: no tensor map of", count, "x", rows, "x", columns,
                "at strides", stride, apart, "- cuTensorMapEncodeTiled returned", static_cast<int>(status));
  return map;
}

/// Whether a kernel that has static shared memory in code for sm_90a alone has that code for this thread's device, with the
/// shared memory it asks for allowed.
template <class... P>
bool hopper_ready(void (*kernel)(P...), int bytes) {
  cudaFuncAttributes found{};
  const bool there =
      encode_tensor_map() && cudaFuncGetAttributes(&found, kernel) == cudaSuccess &&
      found.sharedSizeBytes > 0 &&
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes) == cudaSuccess;
  if (!there) cudaGetLastError();
  return there;
}

/// Allows a kernel so much shared memory. Whoever launches calls it: a kernel of a template is another one in each unit that
/// nvcc 13 compiles, so it is of no use that hopper_ready() allowed it in some unit.
template <class... P>
void allow_shared_bytes(void (*kernel)(P...), int bytes) {
  thread_local const void* allowed = nullptr;
  const void* const wanted = reinterpret_cast<const void*>(kernel);
  if (allowed == wanted) return;
  MOLE_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
  allowed = wanted;
}

/// Stages of a kernel with tiles of BN columns: about as many as fit, so that a tile's loads are ahead of its products.
template <int BN>
inline constexpr int two_products_stages = BN == 256  ? 3
                                           : BN == 64 ? 6
                                                      : 5;

/// hopper_ready() of the kernel, looked up once.
template <int BN, bool Across>
bool two_products_ready() {
  constexpr int stages = two_products_stages<BN>;
  thread_local const bool ready =
      hopper_ready(hopper::two_products<BN, Across, stages>, hopper::two_products_bytes<BN, stages>);
  return ready;
}

/// Launches with tiles of BN columns.
template <int BN, bool Across>
void launch_tiles(const TwoProducts<bf16>& a) {
  constexpr int stages = two_products_stages<BN>, box = hopper::box_columns<BN>;
  const auto of_b = [&](const bf16* b, Index inner) {
    return Across ? tensor_map(b, inner, a.columns, a.count, a.columns, inner * a.columns, 64)
                  : tensor_map(b, a.columns, inner, a.count, inner, inner * a.columns, BN);
  };
  const auto up = [](Index n, int by) { return static_cast<int>((n + by - 1) / by); };
  hopper::TwoProductsCall call;
  call.a0 = tensor_map(a.a0, a.rows, a.inner0, 1, a.inner0, 0, hopper::tile_rows);
  call.a1 = tensor_map(a.a1, a.rows, a.inner1, a.count, a.stride1, a.inner1, hopper::tile_rows);
  call.b0 = of_b(a.b0, a.inner0), call.b1 = of_b(a.b1, a.inner1);
  call.d = tensor_map(a.d, a.rows, a.columns, a.count, a.columns, a.rows * a.columns, 64, box);
  for (int i = 0; i < most_gates; ++i) call.c[i] = reinterpret_cast<const __nv_bfloat16*>(a.c[i]);
  call.out = reinterpret_cast<__nv_bfloat16*>(a.d);
  call.rows = a.rows, call.columns = a.columns, call.count = a.count, call.add = a.add;
  call.tile_rows = up(a.rows, hopper::tile_rows), call.tile_columns = up(a.columns, BN);
  call.steps0 = up(a.inner0, hopper::step_inner), call.steps1 = up(a.inner1, hopper::step_inner);
  call.group = 16;
  const auto& context = cuda_context();
  const int blocks = std::min(context.processors, call.count * call.tile_rows * call.tile_columns);
  const auto kernel = hopper::two_products<BN, Across, stages>;
  constexpr int bytes = hopper::two_products_bytes<BN, stages>;
  allow_shared_bytes(kernel, bytes);
  launch_kernel(a.early, kernel, blocks, hopper::two_products_threads, bytes, call);
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
         std::max({a.rows, a.columns, a.inner0, a.inner1, a.stride1}) < most && count_tiles(a, 64) < most;
}

/// f(BN, time) for each width that tiles of a product may have, BN as a constant. time: what a tile takes where one of 128
/// columns takes 128, as measured on H200s; narrower ones wait for their operands. Where B lies across it comes in boxes of
/// 64 columns.
template <bool Across, class F>
void for_tile_widths(const F& f) {
  f(std::integral_constant<int, 256>(), 250);
  if constexpr (!Across) f(std::integral_constant<int, 160>(), 160);
  f(std::integral_constant<int, 128>(), 128);
  f(std::integral_constant<int, 64>(), 100);
}

/// The width by which the multiprocessor with most tiles is done first.
template <bool Across, class T>
int tile_width(const TwoProducts<T>& a) {
  const Index processors = cuda_context().processors;
  int best = 0;
  Index least = 0;
  for_tile_widths<Across>([&](auto width, Index time) {
    const Index all = (count_tiles(a, width()) + processors - 1) / processors * time;
    if (best == 0 || all < least) best = width(), least = all;
  });
  return best;
}

/// Whether there are kernels for this device, and enough tiles for them. Few tiles leave most multiprocessors idle, among
/// which cuBLAS splits the sums; of a tile's height or more the kernel is faster for all that.
template <bool Across>
bool two_products_tiles_fit(const TwoProducts<bf16>& a) {
  const auto& context = cuda_context();
  bool fit = a.rows >= hopper::tile_rows
                 ? 8 * count_tiles(a, 64) >= context.processors
                 : (context.branches ? 1 : 3) * count_tiles(a, 128) >= context.processors;
  for_tile_widths<Across>([&](auto width, Index) { fit = fit && two_products_ready<width(), Across>(); });
  return fit;
}

/// Of Cuda::two_products_fit.
template <class T>
bool two_products_fit(const TwoProducts<T>& a) {
  if (few_rows_fit(a)) return true;
  if constexpr (std::is_same_v<T, bf16>)
    return two_products_extents_fit(a) &&
           (a.across ? two_products_tiles_fit<true>(a) : two_products_tiles_fit<false>(a));
  return false;
}

/// Of Cuda::two_products.
template <class T>
void launch_two_products(const TwoProducts<T>& a) {
  if (few_rows_fit(a)) return launch_few_rows(a);
  if constexpr (std::is_same_v<T, bf16>) {
    const auto launch = [&](auto across) {
      const int best = tile_width<across()>(a);
      for_tile_widths<across()>([&](auto width, Index) {
        if (width() == best) launch_tiles<width(), decltype(across)::value>(a);
      });
    };
    a.across ? launch(std::true_type()) : launch(std::false_type());
  }
}

}  // namespace mole::detail
