#pragma once
// Convolutions by cuDNN, in builds that have it (MOLE_CUDNN). Only algorithms whose bits do not change from run to run
// are taken.

#include <array>
#include <atomic>
#include <map>
#include <tuple>
#include <type_traits>

#include <cudnn.h>

#include <mole/backends/cuda/context.cuh>
#include <mole/backends/cuda/rows.cuh>
#include <mole/core/buffer.hpp>
#include <mole/core/kernels/conv.hpp>

/// Throws DeviceError, with what was called and cuDNN's own words, unless a call succeeded.
#define MOLE_CUDNN_CHECK(CALL)                                                                           \
  do {                                                                                                   \
    if (const cudnnStatus_t mole_status = (CALL); mole_status != CUDNN_STATUS_SUCCESS) {                 \
      cudaGetLastError();                                                                                \
      throw ::mole::DeviceError(::mole::message("cuda:", #CALL, "-", cudnnGetErrorString(mole_status))); \
    }                                                                                                    \
  } while (false)

namespace mole::detail {

template <class T>
inline constexpr cudnnDataType_t cudnn_type = CUDNN_DATA_FLOAT;
template <>
inline constexpr cudnnDataType_t cudnn_type<bf16> = CUDNN_DATA_BFLOAT16;
template <>
inline constexpr cudnnDataType_t cudnn_type<half> = CUDNN_DATA_HALF;

/// A descriptor of cuDNN's, destroyed with its holder.
template <class D, cudnnStatus_t (*make)(D*), cudnnStatus_t (*destroy)(D)>
class CudnnDescriptor {
 public:
  CudnnDescriptor() { MOLE_CUDNN_CHECK(make(&value_)); }
  ~CudnnDescriptor() { destroy(value_); }
  CudnnDescriptor(const CudnnDescriptor&) = delete;
  CudnnDescriptor& operator=(const CudnnDescriptor&) = delete;
  operator D() const { return value_; }

 private:
  D value_ = nullptr;
};
using CudnnHandle = CudnnDescriptor<cudnnHandle_t, cudnnCreate, cudnnDestroy>;
using CudnnImages =
    CudnnDescriptor<cudnnTensorDescriptor_t, cudnnCreateTensorDescriptor, cudnnDestroyTensorDescriptor>;
using CudnnKernel =
    CudnnDescriptor<cudnnFilterDescriptor_t, cudnnCreateFilterDescriptor, cudnnDestroyFilterDescriptor>;
using CudnnConvolution = CudnnDescriptor<cudnnConvolutionDescriptor_t, cudnnCreateConvolutionDescriptor,
                                         cudnnDestroyConvolutionDescriptor>;

/// A convolution in cuDNN's terms.
template <class T>
struct CudnnProblem {
  CudnnImages x, y;
  CudnnKernel W;
  CudnnConvolution convolution;

  CudnnProblem(const ConvExtents& e, bool tf32) {
    const auto n = [](Index i) { return static_cast<int>(i); };
    constexpr auto type = cudnn_type<T>;
    MOLE_CUDNN_CHECK(cudnnSetTensor4dDescriptor(x, CUDNN_TENSOR_NHWC, type, n(e.images), n(e.channels),
                                                n(e.height), n(e.width)));
    MOLE_CUDNN_CHECK(cudnnSetTensor4dDescriptor(y, CUDNN_TENSOR_NHWC, type, n(e.images), n(e.outputs),
                                                n(e.out_height), n(e.out_width)));
    MOLE_CUDNN_CHECK(cudnnSetFilter4dDescriptor(W, type, CUDNN_TENSOR_NHWC, n(e.outputs), n(e.channels),
                                                n(e.kernel_h), n(e.kernel_w)));
    MOLE_CUDNN_CHECK(cudnnSetConvolution2dDescriptor(convolution, n(e.top), n(e.left), n(e.stride),
                                                     n(e.stride), 1, 1, CUDNN_CROSS_CORRELATION,
                                                     CUDNN_DATA_FLOAT));
    // The default rounds floats to TF32.
    MOLE_CUDNN_CHECK(cudnnSetConvolutionMathType(
        convolution, std::is_same_v<T, float> && !tf32 ? CUDNN_FMA_MATH : CUDNN_TENSOR_OP_MATH));
  }
};

/// The algorithm of a product, by its number, and the bytes that it works in; -1 where there is none.
struct CudnnPlan {
  int algorithm = -1;
  std::size_t workspace = 0;
};

/// The first of cuDNN's candidates that will do.
template <class Candidates>
CudnnPlan first_plan(const Candidates& candidates, int count) {
  constexpr std::size_t most = std::size_t{1} << 30;
  for (int i = 0; i < count; ++i) {
    const auto& candidate = candidates[static_cast<std::size_t>(i)];
    if (candidate.status == CUDNN_STATUS_SUCCESS && candidate.determinism == CUDNN_DETERMINISTIC &&
        candidate.memory <= most)
      return {static_cast<int>(candidate.algo), candidate.memory};
  }
  return {};
}

template <class T>
CudnnPlan make_plan(cudnnHandle_t handle, ConvProduct product, const CudnnProblem<T>& p) {
  int count = 0;
  if (product == ConvProduct::forward) {
    std::array<cudnnConvolutionFwdAlgoPerf_t, CUDNN_CONVOLUTION_FWD_ALGO_COUNT> list{};
    if (cudnnGetConvolutionForwardAlgorithm_v7(handle, p.x, p.W, p.convolution, p.y, int(list.size()), &count,
                                               list.data()) != CUDNN_STATUS_SUCCESS)
      return {};
    return first_plan(list, count);
  }
  if (product == ConvProduct::data) {
    std::array<cudnnConvolutionBwdDataAlgoPerf_t, CUDNN_CONVOLUTION_BWD_DATA_ALGO_COUNT> list{};
    if (cudnnGetConvolutionBackwardDataAlgorithm_v7(handle, p.W, p.y, p.convolution, p.x, int(list.size()),
                                                    &count, list.data()) != CUDNN_STATUS_SUCCESS)
      return {};
    return first_plan(list, count);
  }
  std::array<cudnnConvolutionBwdFilterAlgoPerf_t, CUDNN_CONVOLUTION_BWD_FILTER_ALGO_COUNT> list{};
  if (cudnnGetConvolutionBackwardFilterAlgorithm_v7(handle, p.x, p.y, p.convolution, p.W, int(list.size()),
                                                    &count, list.data()) != CUDNN_STATUS_SUCCESS)
    return {};
  return first_plan(list, count);
}

/// Whether cuDNN counts a convolution as the op does: it knows only the same padding on both sides.
inline bool cudnn_agrees(const ConvExtents& e) {
  const auto out = [&](Index size, Index kernel, Index padding) {
    return (size + 2 * padding - kernel) / e.stride + 1;
  };
  return e.images > 0 && e.channels > 0 && e.outputs > 0 && e.top < e.kernel_h && e.left < e.kernel_w &&
         out(e.height, e.kernel_h, e.top) == e.out_height &&
         out(e.width, e.kernel_w, e.left) == e.out_width &&
         std::max(e.in_rows() * e.channels, e.out_rows() * e.outputs) < Index{1} << 31;
}

/// Every row of y becomes c.
template <class T>
struct CudnnBiasRow {
  T* y;
  const T* c;
  Index n;

  template <class Row>
  MOLE_HD void operator()(const Row& row) const {
    T* const to = y + row.index() * n;
    const T* const from = c;
    row.each(n, [=](Index o) { to[o] = from[o]; });
  }
};

/// See core/kernels/conv.hpp. `tf32`: whether floats may be rounded to it.
template <class B, class T>
bool cudnn_convolve(const Convolution<T>& c, bool tf32) {
  if constexpr (std::is_same_v<T, double>) {
    return false;
  } else {
    if (!cudnn_agrees(c.extents)) return false;
    thread_local const CudnnHandle handle;
    thread_local std::map<std::tuple<ConvProduct, ConvExtents, bool>, CudnnPlan> plans;
    const CudnnProblem<T> p(c.extents, tf32);
    const auto [place, made] = plans.try_emplace({c.product, c.extents, tf32});
    if (made) place->second = make_plan(handle, c.product, p);
    const CudnnPlan plan = place->second;
    if (plan.algorithm < 0) return false;
    MOLE_CUDNN_CHECK(cudnnSetStream(handle, cuda_context().stream));
    const Buffer<char, B> workspace(static_cast<Index>(plan.workspace));
    if (c.c)
      launch_rows(c.extents.out_rows(), c.extents.outputs, CudnnBiasRow<T>{c.y, c.c, c.extents.outputs});
    const float alpha = 1, beta = c.add || c.c ? 1 : 0;
    cudnnStatus_t status;
    if (c.product == ConvProduct::forward)
      status = cudnnConvolutionForward(handle, &alpha, p.x, c.x, p.W, c.W, p.convolution,
                                       static_cast<cudnnConvolutionFwdAlgo_t>(plan.algorithm),
                                       workspace.data(), plan.workspace, &beta, p.y, c.y);
    else if (c.product == ConvProduct::data)
      status = cudnnConvolutionBackwardData(handle, &alpha, p.W, c.W, p.y, c.y, p.convolution,
                                            static_cast<cudnnConvolutionBwdDataAlgo_t>(plan.algorithm),
                                            workspace.data(), plan.workspace, &beta, p.x, c.x);
    else
      status = cudnnConvolutionBackwardFilter(handle, &alpha, p.x, c.x, p.y, c.y, p.convolution,
                                              static_cast<cudnnConvolutionBwdFilterAlgo_t>(plan.algorithm),
                                              workspace.data(), plan.workspace, &beta, p.W, c.W);
    if (status == CUDNN_STATUS_NOT_SUPPORTED) {
      place->second = {};
      return false;
    }
    MOLE_CHECK_AS(DeviceError, status == CUDNN_STATUS_SUCCESS, "cuda: a convolution by cuDNN -",
                  cudnnGetErrorString(status));
    return true;
  }
}

}  // namespace mole::detail
