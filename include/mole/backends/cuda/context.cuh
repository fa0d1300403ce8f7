#pragma once
// What a thread of work has on the GPU: its stream, its cuBLAS handle, its pinned staging memory; and the
// checks of every CUDA and cuBLAS status.

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include <cublas_v2.h>
#include <cuda_runtime.h>

#include <mole/core/error.hpp>

/// Throws DeviceError, with what was called and CUDA's own words, unless a call returned cudaSuccess.
#define MOLE_CUDA_CHECK(CALL)                                                                           \
  do {                                                                                                  \
    if (const cudaError_t mole_status = (CALL); mole_status != cudaSuccess) {                           \
      cudaGetLastError(); /* a refused call must not fail the next one too */                           \
      throw ::mole::DeviceError(::mole::message("cuda:", #CALL, "-", cudaGetErrorString(mole_status))); \
    }                                                                                                   \
  } while (false)

/// The same for a cuBLAS status.
#define MOLE_CUBLAS_CHECK(CALL)                                                                            \
  do {                                                                                                     \
    if (const cublasStatus_t mole_status = (CALL); mole_status != CUBLAS_STATUS_SUCCESS) {                 \
      cudaGetLastError(); /* cuBLAS may leave one behind */                                                \
      throw ::mole::DeviceError(::mole::message("cuda:", #CALL, "-", cublasGetStatusString(mole_status))); \
    }                                                                                                      \
  } while (false)

namespace mole::detail {

/// Pinned host memory that uploads pass through, so that they need not wait for the device.
class PinnedBlock {
 public:
  /// Throws DeviceError naming the size.
  explicit PinnedBlock(std::size_t bytes) : bytes_(bytes) {
    const cudaError_t status = cudaMallocHost(&data_, bytes);
    if (status != cudaSuccess) cudaGetLastError();
    MOLE_CHECK_AS(DeviceError, status == cudaSuccess, "cuda: out of pinned host memory, asked for", bytes,
                  "bytes -", cudaGetErrorString(status));
  }
  ~PinnedBlock() {
    if (cudaFreeHost(data_) != cudaSuccess) cudaGetLastError();
  }
  PinnedBlock(const PinnedBlock&) = delete;
  PinnedBlock& operator=(const PinnedBlock&) = delete;

  char* data() const { return static_cast<char*>(data_); }
  std::size_t bytes() const { return bytes_; }

 private:
  void* data_ = nullptr;
  std::size_t bytes_;
};

/// While a graph is being captured: what its replays need to stay alive.
struct CudaCapture {
  std::vector<std::unique_ptr<PinnedBlock>> staged;  ///< host values that the capture uploads
};

class CopyLane;

/// Who waits for a stream that may hang, as what is queued there waits for other devices.
struct CudaWatch {
  virtual ~CudaWatch() = default;
  /// Returns once the stream's work is done. Throws where it never will be, with the stream usable again.
  virtual void wait(cudaStream_t stream) = 0;
};

/// A thread's stream and what belongs to it, on one device. Made at first use and kept until the program ends.
class CudaContext {
 public:
  static constexpr std::size_t staging_bytes = std::size_t{8} << 20;
  static constexpr std::size_t blas_workspace_bytes = std::size_t{32} << 20;  // NVIDIA's advice for Hopper

  /// For the thread's current device.
  explicit CudaContext(int device)
      : device(device), queue(next_queue()), staging_(std::make_unique<PinnedBlock>(staging_bytes)) {
    MOLE_CUDA_CHECK(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device));
    MOLE_CUDA_CHECK(cudaDeviceGetAttribute(&shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
    MOLE_CUDA_CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    MOLE_CUDA_CHECK(cudaStreamCreateWithFlags(&other_.stream, cudaStreamNonBlocking));
    MOLE_CUDA_CHECK(cudaEventCreateWithFlags(&reached_, cudaEventDisableTiming));
  }
  CudaContext(const CudaContext&) = delete;
  CudaContext& operator=(const CudaContext&) = delete;

  /// The handle, ready for this stream; where that fails, the next call starts anew. allocate(bytes) gives
  /// device memory that is never freed.
  template <class Allocate>
  cublasHandle_t blas(Allocate allocate) {
    if (blas_) return blas_;
    // Its own workspace: the default one would be allocated in the middle of a capture.
    if (!blas_workspace_) blas_workspace_ = allocate(blas_workspace_bytes);
    struct Handle {
      cublasHandle_t value = nullptr;
      ~Handle() {
        if (value) cublasDestroy(value);
      }
    } made;
    MOLE_CUBLAS_CHECK(cublasCreate(&made.value));
    MOLE_CUBLAS_CHECK(cublasSetStream(made.value, stream));
    // Sums in float to the end, also where a product of narrow numbers is split among blocks.
    MOLE_CUBLAS_CHECK(cublasSetMathMode(
        made.value,
        static_cast<cublasMath_t>(CUBLAS_DEFAULT_MATH | CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION)));
    MOLE_CUBLAS_CHECK(cublasSetWorkspace(made.value, blas_workspace_, blas_workspace_bytes));
    return blas_ = std::exchange(made.value, nullptr);
  }

  void upload(void* device, const void* host, std::size_t bytes) {
    if (bytes == 0) return;
    char* from = nullptr;
    if (capture) {
      capture->staged.push_back(std::make_unique<PinnedBlock>(bytes));
      from = capture->staged.back()->data();
    } else if (bytes <= staging_->bytes() / 4) {
      if (staged_ + bytes > staging_->bytes()) {
        synchronize();  // the ring is full: what is on its way must arrive first
        staged_ = 0;
      }
      from = staging_->data() + staged_;
      staged_ += (bytes + 15) / 16 * 16;
    }
    if (from) std::memcpy(from, host, bytes);
    MOLE_CUDA_CHECK(cudaMemcpyAsync(device, from ? from : host, bytes, cudaMemcpyHostToDevice, stream));
    if (!from) synchronize();
  }

  void download(void* host, const void* device, std::size_t bytes) {
    MOLE_CHECK_AS(DeviceError, !capture,
                  "cuda: a step that is captured in a graph must not read values back to the host");
    if (bytes == 0) return;
    const bool small = bytes <= staging_->bytes() / 4;
    if (small && staged_ + bytes > staging_->bytes()) {
      synchronize();
      staged_ = 0;
    }
    void* to = small ? staging_->data() + staged_ : host;
    MOLE_CUDA_CHECK(cudaMemcpyAsync(to, device, bytes, cudaMemcpyDeviceToHost, stream));
    synchronize();
    if (small) std::memcpy(host, to, bytes);
    staged_ = 0;
  }

  void synchronize() {
    MOLE_CHECK_AS(DeviceError, !capture,
                  "cuda: a step that is captured in a graph must not wait for the device");
    if (watch)
      watch->wait(stream);
    else
      MOLE_CUDA_CHECK(cudaStreamSynchronize(stream));
  }

  /// Waits for the work that is queued, whatever becomes of it.
  void settle() noexcept {
    try {
      if (watch) watch->wait(stream);
    } catch (...) {
      // Whoever watches has ended the work.
    }
    if (cudaStreamSynchronize(stream) != cudaSuccess) cudaGetLastError();
  }

  /// Queues work() in the branch, which goes on beside this stream until join().
  template <class F>
  void fork(F work) {
    order(stream, other_.stream);
    struct Turned {
      CudaContext& context;
      explicit Turned(CudaContext& context) : context(context) { context.turn(); }
      ~Turned() { context.turn(); }
    } const turned(*this);
    work();
  }
  /// What is queued from now on waits for the branch.
  void join() { order(other_.stream, stream); }

  static std::uint64_t next_queue() {
    static std::atomic<std::uint64_t> counter{1};
    return counter.fetch_add(1, std::memory_order_relaxed);
  }

  const int device;
  cudaStream_t stream = nullptr;
  CudaWatch* watch = nullptr;  ///< waits in place of CUDA, where there is one
  std::uint64_t queue;         ///< names the order of work: a buffer freed in it may be reused in it at once
  CudaCapture* capture = nullptr;
  CopyLane* lane = nullptr;  ///< for values that wait on the host (host_copy.cuh); null before the first one
  bool branches = false;     ///< whether work may be forked
  int processors = 1;
  int shared_bytes = 0;  ///< shared memory that a block may ask for

 private:
  /// What `then` gets from now on waits for what `first` has got.
  void order(cudaStream_t first, cudaStream_t then) {
    MOLE_CUDA_CHECK(cudaEventRecord(reached_, first));
    MOLE_CUDA_CHECK(cudaStreamWaitEvent(then, reached_, 0));
  }
  /// Works in the branch, or no longer. Products that run at once need workspaces of their own.
  void turn() {
    std::swap(stream, other_.stream);
    std::swap(blas_, other_.blas);
    std::swap(blas_workspace_, other_.blas_workspace);
    std::swap(branches, other_.branches);
  }

  std::unique_ptr<PinnedBlock> staging_;
  std::size_t staged_ = 0;
  cublasHandle_t blas_ = nullptr;
  void* blas_workspace_ = nullptr;
  struct {
    cudaStream_t stream = nullptr;
    cublasHandle_t blas = nullptr;
    void* blas_workspace = nullptr;
    bool branches = false;  // a branch has none
  } other_;
  cudaEvent_t reached_ = nullptr;
};

/// Contexts that no thread holds at the moment. Never destroyed: buffers with static lifetime come back late.
struct IdleContexts {
  std::mutex mutex;
  std::vector<CudaContext*> list;

  static IdleContexts& instance() {
    static auto* contexts = new IdleContexts;
    return *contexts;
  }
};

/// The context that this thread holds; null before its first work. A plain pointer: it can still be read after
/// the lease has ended with its thread.
inline CudaContext*& held_cuda_context() {
  thread_local CudaContext* mine = nullptr;
  return mine;
}

/// This thread's context, on the device that is current in the thread at its first work. A thread that ends waits
/// for its work and leaves its context, with its memory, to the next one on that device.
inline CudaContext& cuda_context() {
  struct Lease {
    CudaContext* context;
    ~Lease() {
      context->settle();  // whoever joins this thread may read what it computed
      auto& idle = IdleContexts::instance();
      const std::lock_guard lock(idle.mutex);
      idle.list.push_back(context);
    }
  };
  CudaContext*& mine = held_cuda_context();
  if (mine) return *mine;
  int device = 0;
  MOLE_CUDA_CHECK(cudaGetDevice(&device));
  // As cudaGetDevice() answers before the thread has the device.
  MOLE_CUDA_CHECK(cudaSetDevice(device));
  auto& idle = IdleContexts::instance();
  {
    const std::lock_guard lock(idle.mutex);
    const auto found = std::find_if(idle.list.rbegin(), idle.list.rend(),
                                    [&](const CudaContext* context) { return context->device == device; });
    if (found != idle.list.rend()) {
      mine = *found;
      idle.list.erase(std::next(found).base());
    }
  }
  if (!mine) mine = new CudaContext(device);
  thread_local const Lease lease{mine};
  return *mine;
}

}  // namespace mole::detail
