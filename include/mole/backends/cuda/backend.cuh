#pragma once
// The CUDA backend: cuBLAS for matrix products, cuDNN (if there) for convolutions, Thrust for sorting, own kernels for the rest. Each thread
// that works on the GPU has one stream, and in a graph a branch of it; its memory comes from a pool in the
// order of that stream.

#include <type_traits>

#include <thrust/system/cuda/execution_policy.h>
#include <thrust/system_error.h>

#include <mole/backends/cuda/attention.cuh>
#include <mole/backends/cuda/context.cuh>
#ifdef MOLE_CUDNN
#  include <mole/backends/cuda/cudnn.cuh>
#endif
#include <mole/backends/cuda/few_rows.cuh>
#include <mole/backends/cuda/gate.cuh>
#include <mole/backends/cuda/gate_product.cuh>
#include <mole/backends/cuda/gemm_call.hpp>
#include <mole/backends/cuda/group_norm.cuh>
#include <mole/backends/cuda/host_copy.cuh>
#include <mole/backends/cuda/packed_few_rows.cuh>
#include <mole/backends/cuda/packed_rows.cuh>
#include <mole/backends/cuda/reduce.cuh>
#include <mole/backends/cuda/rms_norm.cuh>
#include <mole/backends/cuda/rows.cuh>
#include <mole/backends/cuda/thrust_scatter.cuh>
#include <mole/backends/cuda/two_products.cuh>
#include <mole/core/backend.hpp>
#include <mole/core/buffer.hpp>
#include <mole/core/transform.hpp>

namespace mole {

struct Cuda;

namespace detail {

template <class T>
inline constexpr cudaDataType_t cublas_type = CUDA_R_32F;
template <>
inline constexpr cudaDataType_t cublas_type<double> = CUDA_R_64F;
template <>
inline constexpr cudaDataType_t cublas_type<bf16> = CUDA_R_16BF;
template <>
inline constexpr cudaDataType_t cublas_type<half> = CUDA_R_16F;

inline std::atomic<bool>& tf32_allowed() {
  static std::atomic<bool> allowed{false};
  return allowed;
}

template <class T>
cublasComputeType_t cublas_compute() {
  if constexpr (std::is_same_v<T, double>) return CUBLAS_COMPUTE_64F;
  if constexpr (std::is_same_v<T, float>)
    if (tf32_allowed().load(std::memory_order_relaxed)) return CUBLAS_COMPUTE_32F_FAST_TF32;
  return CUBLAS_COMPUTE_32F;
}

/// Thrust's scratch memory, from the pool.
template <class B>
struct ThrustMemory {
  using value_type = char;
  char* allocate(std::ptrdiff_t bytes) {
    return static_cast<char*>(BufferPool<B>::instance().take(static_cast<std::size_t>(bytes)));
  }
  void deallocate(char* p, std::size_t bytes) { BufferPool<B>::instance().give(p, bytes); }
};

/// Of Cuda::scatter_add; nothing of it is empty.
template <class B, class T>
void launch_scatter_add(Index rows, Index n, Index width, const Index* index, const T* x, T* y) {
  const Buffer<Index, B> keys(rows), positions(rows), starts(n + 1);
  B::copy(keys.data(), index, rows);
  ThrustMemory<B> memory;
  try {
    thrust_scatter_add(thrust::cuda::par_nosync(memory).on(B::stream()), rows, n, width, keys.data(),
                       positions.data(), starts.data(), x, y);
  } catch (const thrust::system_error& error) {
    cudaGetLastError();
    throw DeviceError(message("cuda: scatter_add of", rows, "rows -", error.what()));
  }
  MOLE_CUDA_CHECK(cudaGetLastError());
}

}  // namespace detail

/// NVIDIA GPUs of compute capability 8.0 or more. A thread works on one of them: the device that is current in it at
/// its first work, CUDA's first one unless select() or cudaSetDevice() has chosen another. A tensor that is used in a
/// thread of another device is a DeviceError. See Backend for what each primitive does; all of them return before
/// the device is done, except download and synchronize. Each thread's work is in the order of its own stream. What
/// one thread has made or still reads, another one of the same device may read or change once the first has called
/// synchronize() or has ended and been joined; then any thread may free it.
struct Cuda {
  static constexpr const char* name = "cuda";

  /// Of a convolution's patches at once: whole images of Stable Diffusion's levels, in few launches.
  static constexpr Index patch_bytes = Index{1} << 28;

  /// Whether float matrix products and convolutions may round their factors to TF32 (10 bits), several times as
  /// fast. Off at the start; for all threads.
  static void allow_tf32(bool on) { detail::tf32_allowed().store(on, std::memory_order_relaxed); }

  /// How many GPUs this process may use; 0 where there is no driver.
  static int devices() {
    int count = 0;
    if (cudaGetDeviceCount(&count) == cudaSuccess) return count;
    cudaGetLastError();
    return 0;
  }

  /// This thread works on `device` from now on. Throws DeviceError unless there is one of this number, and in a
  /// thread that has worked on another one.
  static void select(int device) {
    MOLE_CHECK_AS(DeviceError, device >= 0 && device < devices(), "cuda: there is no device", device,
                  "; this process may use", devices(), "(CUDA_VISIBLE_DEVICES can leave some out)");
    const auto* const held = detail::held_cuda_context();
    MOLE_CHECK_AS(DeviceError, !held || held->device == device, "cuda: this thread works on device",
                  held ? held->device : 0, "and keeps to it; start another thread for device", device);
    MOLE_CUDA_CHECK(cudaSetDevice(device));
  }

  /// The device that this thread works on, or will.
  static int device() {
    if (const auto* const held = detail::held_cuda_context()) return held->device;
    int current = 0;
    MOLE_CUDA_CHECK(cudaGetDevice(&current));
    return current;
  }

  /// Throws DeviceError naming the size, and where cudaSetDevice() has turned the thread to another device than it
  /// works on; the device is usable afterwards.
  static void* allocate(std::size_t bytes) {
    const auto& context = detail::cuda_context();  // so that a machine without a GPU fails here, by name
    int current = 0;
    MOLE_CUDA_CHECK(cudaGetDevice(&current));
    MOLE_CHECK_AS(DeviceError, current == context.device, "cuda: this thread works on device", context.device,
                  ", and device", current,
                  "has been made its current one; a thread keeps to one device: start",
                  "another thread for the other");
    void* p = nullptr;
    const cudaError_t status = cudaMalloc(&p, bytes);
    if (status != cudaSuccess) cudaGetLastError();
    MOLE_CHECK_AS(DeviceError, status == cudaSuccess, "cuda: out of memory, asked for", bytes, "bytes -",
                  cudaGetErrorString(status));
    return p;
  }
  static void deallocate(void* p, std::size_t) noexcept {
    if (cudaFree(p) != cudaSuccess) cudaGetLastError();
  }
  /// Every byte becomes 0xff.
  static void poison(void* p, std::size_t bytes) {
    MOLE_CUDA_CHECK(cudaMemsetAsync(p, 0xff, bytes, stream()));
  }

  /// Names this thread's order of work: what was freed in it may be reused in it without waiting.
  static std::uint64_t queue() { return detail::cuda_context().queue; }

  /// Whether this thread's work is being captured in a graph: it is recorded and not done.
  static bool capturing() { return detail::cuda_context().capture != nullptr; }

  /// See Branch: in the steps of a CudaGraph, work() runs beside what follows.
  template <class F>
  static bool fork(const F& work) {
    auto& context = detail::cuda_context();
    if (context.branches) context.fork(work);
    return context.branches;
  }
  static void join() { detail::cuda_context().join(); }

  static void synchronize() { detail::cuda_context().synchronize(); }
  static cudaStream_t stream() { return detail::cuda_context().stream; }

  template <class T>
  static void upload(T* device, const T* host, Index n) {
    detail::cuda_context().upload(device, host, bytes<T>(n));
  }
  template <class T>
  static void download(T* host, const T* device, Index n) {
    detail::cuda_context().download(host, device, bytes<T>(n));
  }
  template <class T>
  static void copy(T* to, const T* from, Index n) {
    // A copy node would do in a graph, but initcheck judges its source before the graph has written it.
    if (capturing()) return transform<Cuda>(n, functor::Identity{}, to, from);
    if (n > 0) MOLE_CUDA_CHECK(cudaMemcpyAsync(to, from, bytes<T>(n), cudaMemcpyDeviceToDevice, stream()));
  }

  /// Values that wait on the host, see autodiff/offload.hpp.
  using HostCopy = detail::CudaHostCopy;

  template <class F>
  static void for_each(Index n, const F& f) {
    detail::launch_each(n, f);
  }
  template <class F>
  static void for_rows(Index rows, Index n, const F& f) {
    detail::launch_rows(rows, n, f);
  }

  template <class T>
  static void reduce(Reduction op, Index outer, Index n, Index inner, const T* x, T* y) {
    if (op == Reduction::sum)
      detail::launch_reduce<Cuda, detail::ReduceSum>(outer, n, inner, x, y);
    else
      detail::launch_reduce<Cuda, detail::ReduceMax>(outer, n, inner, x, y);
  }

  template <class T>
  static void gemm(const Gemm& g, const T* a, const T* b, T* c) {
    if (use_two_products().load(std::memory_order_relaxed) && detail::product_of_a_row(g, a, b, c)) return;
    const auto alpha = static_cast<Compute<T>>(g.alpha), beta = static_cast<Compute<T>>(g.beta);
    constexpr auto type = detail::cublas_type<T>;
    const auto blas = detail::cuda_context().blas(allocate_or_release);
    detail::for_each_gemm_call(g, [&](const detail::GemmCall& call, Index at_a, Index at_b, Index at_c) {
      const auto first = call.transpose_first ? CUBLAS_OP_T : CUBLAS_OP_N;
      const auto second = call.transpose_second ? CUBLAS_OP_T : CUBLAS_OP_N;
      MOLE_CUBLAS_CHECK(cublasGemmStridedBatchedEx(
          blas, first, second, call.m, call.n, call.k, &alpha, b + at_b, type, call.ld_first,
          call.first_stride, a + at_a, type, call.ld_second, call.second_stride, &beta, c + at_c, type,
          call.ld_result, call.result_stride, call.batch, detail::cublas_compute<T>(), CUBLAS_GEMM_DEFAULT));
    });
  }

  template <class T>
  static void scatter_add(Index rows, Index n, Index width, const Index* index, const T* x, T* y) {
    if (rows > 0 && n > 0 && width > 0) detail::launch_scatter_add<Cuda>(rows, n, width, index, x, y);
  }

  /// Fused kernels, see core/kernels/.
  template <class T>
  static bool gate_forward(const GateForward<T>& arguments) {
    return detail::launch_gate<Cuda>(arguments);
  }
  template <class T, class F>
  static bool gate_backward(const GateBackward<T>& arguments, const F& beside) {
    return detail::launch_gate<Cuda>(arguments, beside);
  }
  /// Whether the two will take a gate of these extents.
  template <class T>
  static bool gate_fits(Index features, Index experts) {
    return detail::gate_fits<T>(features, experts);
  }
  /// On Hopper, in bf16, where this was compiled for sm_90a.
  template <class T>
  static bool gate_product_fits(const GateProduct<T>& arguments) {
    return use_gate_products().load(std::memory_order_relaxed) && detail::gate_product_fits(arguments);
  }
  template <class T>
  static void gate_product_forward(const GateForward<T>& gates, const GateProduct<T>& product) {
    detail::launch_gate_product(gates, product);
  }
  template <class T, class F>
  static void gate_product_backward(const GateBackward<T>& gates, const GateProduct<T>& product,
                                    const F& beside) {
    detail::launch_gate_product<Cuda>(gates, product, beside);
  }
  /// Whether a gate and the product that it reads are one launch where that can be. On at the start; for all threads.
  static std::atomic<bool>& use_gate_products() {
    static std::atomic<bool> use{true};
    return use;
  }
  template <class T>
  static bool gated_ranks(const GatedRanks<T>& arguments) {
    const bool fit = use_two_products().load(std::memory_order_relaxed) && detail::few_rows_fit(arguments);
    if (fit) detail::launch_few_rows(arguments);
    return fit;
  }
  template <class T>
  static bool row_products_fit(const RowProducts<T>& arguments) {
    return use_two_products().load(std::memory_order_relaxed) && detail::few_rows_fit(arguments) &&
           detail::few_rows_pay(arguments);
  }
  template <class T>
  static void row_products(const RowProducts<T>& arguments) {
    detail::launch_few_rows(arguments);
  }
  /// Of a few rows; of more on Hopper, in bf16, where this was compiled for sm_90a.
  template <class T>
  static bool two_products_fit(const TwoProducts<T>& arguments) {
    return use_two_products().load(std::memory_order_relaxed) && detail::two_products_fit(arguments);
  }
  template <class T>
  static void two_products(const TwoProducts<T>& arguments) {
    detail::launch_two_products(arguments);
  }
  /// Whether one kernel does a mixture's two products where it can, and products of a row; else cuBLAS does one after
  /// the other. On at the start; for all threads.
  static std::atomic<bool>& use_two_products() {
    static std::atomic<bool> use{true};
    return use;
  }
  template <class T>
  static bool attention_forward(const AttentionForward<T>& arguments) {
    return detail::launch_attention<T>(arguments.width, arguments);
  }
  template <class T>
  static bool attention_backward(const AttentionBackward<T>& arguments) {
    return detail::launch_attention<T>(arguments.forward.width, arguments);
  }
  template <class T>
  static bool rms_norm_forward(const RmsNormForward<T>& arguments) {
    return detail::launch_rms_norm(arguments);
  }
  template <class T>
  static bool group_norm_forward(const GroupNormForward<T>& arguments) {
    return detail::launch_group_norm<Cuda>(arguments);
  }
  template <class T>
  static bool group_norm_backward(const GroupNormBackward<T>& arguments) {
    return detail::launch_group_norm<Cuda>(arguments);
  }
  template <class T>
  static void unpack_numbers(const UnpackNumbers<T>& arguments) {
    detail::launch_unpack(arguments);
  }
  template <class T>
  static bool packed_product(const PackedProduct<T>& arguments) {
    return detail::launch_packed_product(arguments);
  }
#ifdef MOLE_CUDNN
  template <class T>
  static bool convolve(const Convolution<T>& arguments) {
    return use_cudnn().load(std::memory_order_relaxed) &&
           detail::cudnn_convolve<Cuda>(arguments, detail::tf32_allowed().load(std::memory_order_relaxed));
  }
  /// Whether cuDNN convolves; else cuBLAS multiplies patches. On at the start; for all threads.
  static std::atomic<bool>& use_cudnn() {
    static std::atomic<bool> use{true};
    return use;
  }
#endif

 private:
  /// Device memory that no pool owns, for which the pool gives up what it caches.
  static void* allocate_or_release(std::size_t bytes) {
    try {
      return allocate(bytes);
    } catch (const DeviceError&) {
      BufferPool<Cuda>::instance().release_cached();
      return allocate(bytes);
    }
  }

  template <class T>
  static std::size_t bytes(Index n) {
    return static_cast<std::size_t>(n) * sizeof(T);
  }
};

static_assert(Backend<Cuda, float> && Backend<Cuda, double> && Backend<Cuda, bf16> && Backend<Cuda, half>);

}  // namespace mole
