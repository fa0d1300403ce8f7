#pragma once
// Values that wait on the host: see autodiff/offload.hpp for what the backend promises.

#include <algorithm>
#include <cstddef>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include <mole/backends/cuda/context.cuh>

namespace mole::detail {

/// A stream beside a thread's own, for copies to the host and back, with the pinned memory that they use. That memory is
/// used again in the order of this stream. Made at first use and kept until the program ends.
class CopyLane {
 public:
  CopyLane() {
    MOLE_CUDA_CHECK(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
    MOLE_CUDA_CHECK(cudaEventCreateWithFlags(&reached_, cudaEventDisableTiming));
  }
  CopyLane(const CopyLane&) = delete;
  CopyLane& operator=(const CopyLane&) = delete;

  /// Copies after what `work` has got so far, and records `done`.
  void copy(cudaStream_t work, void* to, const void* from, std::size_t bytes, cudaEvent_t done) {
    const std::lock_guard lock(mutex_);
    MOLE_CUDA_CHECK(cudaEventRecord(reached_, work));
    MOLE_CUDA_CHECK(cudaStreamWaitEvent(stream_, reached_, 0));
    MOLE_CUDA_CHECK(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream_));
    MOLE_CUDA_CHECK(cudaEventRecord(done, stream_));
  }

  /// A block of just this size, kept from an earlier copy where there is one. Throws DeviceError naming the size.
  std::unique_ptr<PinnedBlock> take(std::size_t bytes) {
    const std::lock_guard lock(mutex_);
    const auto found =
        std::ranges::find_if(free_, [&](const auto& block) { return block->bytes() == bytes; });
    if (found == free_.end()) return std::make_unique<PinnedBlock>(bytes);
    auto block = std::move(*found);
    free_.erase(found);
    return block;
  }
  void give(std::unique_ptr<PinnedBlock> block) noexcept {
    const std::lock_guard lock(mutex_);
    try {
      free_.push_back(std::move(block));
    } catch (...) {  // then it is freed
    }
  }

 private:
  std::mutex mutex_;
  cudaStream_t stream_ = nullptr;
  cudaEvent_t reached_ = nullptr;
  std::vector<std::unique_ptr<PinnedBlock>> free_;
};

/// This thread's lane.
inline CopyLane& copy_lane() {
  auto& context = cuda_context();
  if (!context.lane) context.lane = new CopyLane;
  return *context.lane;
}

/// Bytes of the device that wait in pinned memory.
class CudaHostCopy {
 public:
  CudaHostCopy(const void* device, std::size_t bytes) : lane_(copy_lane()), block_(lane_.take(bytes)) {
    MOLE_CUDA_CHECK(cudaEventCreateWithFlags(&done_, cudaEventDisableTiming));
    begin(block_->data(), device);
  }
  CudaHostCopy(const CudaHostCopy&) = delete;
  CudaHostCopy& operator=(const CudaHostCopy&) = delete;
  ~CudaHostCopy() {
    if (under_way_ && cudaEventSynchronize(done_) != cudaSuccess) cudaGetLastError();
    if (cudaEventDestroy(done_) != cudaSuccess) cudaGetLastError();
    lane_.give(std::move(block_));
  }

  void begin_fetch(void* device) { begin(device, block_->data()); }

  void finish() {
    if (!under_way_) return;
    MOLE_CUDA_CHECK(cudaStreamWaitEvent(cuda_context().stream, done_, 0));
    under_way_ = false;
  }

 private:
  void begin(void* to, const void* from) {
    lane_.copy(cuda_context().stream, to, from, block_->bytes(), done_);
    under_way_ = true;
  }

  CopyLane& lane_;
  std::unique_ptr<PinnedBlock> block_;
  cudaEvent_t done_ = nullptr;
  bool under_way_ = false;
};

}  // namespace mole::detail
