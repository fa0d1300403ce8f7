#pragma once
// GPUs as ranks, through NCCL: sums of tensors on the devices, in the order of each device's stream, that a CudaGraph
// can hold. For nvcc; needs NCCL (CMake's mole::nccl, by -DMOLE_NCCL=ON), so cuda.cuh does not include it.

#include <array>
#include <chrono>
#include <concepts>
#include <cstddef>
#include <cstring>
#include <exception>
#include <future>
#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include <nccl.h>

#include <mole/backends/cuda/backend.cuh>
#include <mole/dist/any_group.hpp>
#include <mole/dist/thread_group.hpp>

/// Throws DeviceError, with what was called and NCCL's own words, unless a call succeeded.
#define MOLE_NCCL_CHECK(CALL)                                                                              \
  do {                                                                                                     \
    if (const ncclResult_t mole_status = (CALL); mole_status != ncclSuccess) {                             \
      cudaGetLastError();                                                                                  \
      throw ::mole::DeviceError(::mole::message("nccl:", #CALL, "-", ncclGetErrorString(mole_status), "-", \
                                                ncclGetLastError(nullptr)));                               \
    }                                                                                                      \
  } while (false)

namespace mole::dist {

/// A rank with a GPU of its own: a thread of one process, or a process. It wraps the group that started it
/// (ThreadGroup, MpiGroup), which carries what lies in the processor's memory; NCCL sums what is on the devices.
/// A rank's thread makes it, uses it and destroys it, after the graphs that hold its sums.
class NcclGroup {
 public:
  /// Every rank of `host` makes it at once, in a thread that works on a device of its own: Cuda::select(). While it
  /// lives, its thread waits for the device for `timeout` at most: then it ends the group by PeerFailed, as it does
  /// where `host` has ended. Throws ArgumentError where two ranks have one device, or the thread has a group already.
  template <class H>
  requires(!std::same_as<H, NcclGroup> &&
           Communicator<H>) explicit NcclGroup(H host,
                                               std::chrono::milliseconds timeout = std::chrono::seconds(120))
      : shared_(std::make_shared<Shared>(std::move(host), timeout)) {}

  /// f(NcclGroup) on a thread for each of the GPUs 0..gpus-1; see ThreadGroup::run(). Throws ArgumentError where
  /// there are fewer.
  template <class F>
  static void run(int gpus, F f, std::chrono::milliseconds timeout = std::chrono::seconds(120)) {
    MOLE_CHECK_ARG(gpus >= 1 && gpus <= Cuda::devices(), "NcclGroup: asked for", gpus,
                   "GPUs, and this process may use", Cuda::devices(), "(see CUDA_VISIBLE_DEVICES)");
    ThreadGroup::run(
        gpus,
        [&](const ThreadGroup& host) {
          Cuda::select(host.rank());
          f(NcclGroup(host, timeout));
        },
        timeout);
  }

  int rank() const { return shared_->host.rank(); }
  int size() const { return shared_->host.size(); }

  template <std::floating_point T>
  void all_reduce_sum(T* x, Index n) const {
    shared_->host.all_reduce_sum(x, n);
  }
  template <class T>
  void all_gather(const T* mine, Index n, T* all) const {
    shared_->host.all_gather(mine, n, all);
  }
  template <class T>
  void broadcast(T* x, Index n, int root) const {
    shared_->host.broadcast(x, n, root);
  }
  void barrier() const { shared_->host.barrier(); }
  void check() const { shared_->host.check(); }

  bool sums_on(std::string_view backend) const { return backend == Cuda::name; }

  /// As one launch, however many pieces there are.
  template <class T>
  void device_sums(const std::vector<Piece<T>>& pieces) const {
    shared_->together([&](ncclComm_t comm, cudaStream_t stream) {
      for (const auto& [x, n] : pieces)
        MOLE_NCCL_CHECK(
            ncclAllReduce(x, x, static_cast<std::size_t>(n), type_of<T>(), ncclSum, comm, stream));
    });
  }
  template <class T>
  void device_gather(const T* mine, Index n, T* all) const {
    shared_->together([&](ncclComm_t comm, cudaStream_t stream) {
      MOLE_NCCL_CHECK(ncclAllGather(mine, all, static_cast<std::size_t>(n), type_of<T>(), comm, stream));
    });
  }

 private:
  template <class T>
  static ncclDataType_t type_of() {
    static_assert(std::same_as<T, float> || std::same_as<T, double>);
    return std::same_as<T, float> ? ncclFloat : ncclDouble;
  }

  /// What the copies of a rank's handle share.
  struct Shared final : mole::detail::CudaWatch {
    AnyGroup host;
    std::chrono::milliseconds timeout;
    mole::detail::CudaContext& context = mole::detail::cuda_context();
    ncclComm_t comm = nullptr;
    std::string ended;  ///< why the group has ended; empty while it has not
    int exceptions = std::uncaught_exceptions();
    std::future<void> aborted;
    static constexpr std::chrono::seconds grace{10};  ///< for NCCL to stop

    Shared(AnyGroup over, std::chrono::milliseconds within) : host(std::move(over)), timeout(within) {
      MOLE_CHECK_ARG(!context.watch, "NcclGroup: this thread has one already; a rank is one thread");
      check_devices();
      ncclUniqueId id{};
      if (host.rank() == 0) MOLE_NCCL_CHECK(ncclGetUniqueId(&id));
      host.broadcast(id.internal, static_cast<Index>(sizeof id.internal), 0);
      MOLE_NCCL_CHECK(ncclCommInitRank(&comm, host.size(), id, host.rank()));
      context.watch = this;
    }
    Shared(const Shared&) = delete;
    Shared& operator=(const Shared&) = delete;
    ~Shared() override {
      try {
        // After an error the others may never do their part of what is queued.
        if (std::uncaught_exceptions() > exceptions) abort("a rank failed");
        if (comm) wait(context.stream);
      } catch (...) {
        // The group has ended, or there is no memory for a thread.
      }
      context.watch = nullptr;
      if (comm) ncclCommDestroy(comm);
      if (aborted.valid()) aborted.wait_for(grace);
    }

    /// Queues sums by call(comm, stream). All ranks come here before any goes on: who fails elsewhere is noticed, and
    /// none asks the driver for memory, which may wait for all devices, before every rank has queued its part.
    template <class F>
    void together(F call) {
      if (!ended.empty()) throw PeerFailed(ended);
      host.barrier();
      MOLE_NCCL_CHECK(ncclGroupStart());
      try {
        call(comm, context.stream);
      } catch (...) {
        ncclGroupEnd();
        throw;
      }
      MOLE_NCCL_CHECK(ncclGroupEnd());
      host.barrier();
    }

    void wait(cudaStream_t stream) override {
      const auto start = std::chrono::steady_clock::now();
      for (Index looks = 0;; ++looks) {
        const cudaError_t status = cudaStreamQuery(stream);
        if (status == cudaSuccess) return;
        cudaGetLastError();
        MOLE_CHECK_AS(DeviceError, status == cudaErrorNotReady, "cuda: waiting for the device -",
                      cudaGetErrorString(status));
        // Often at first: mostly the device is nearly done.
        if (looks < 1000) continue;
        const auto waited = std::chrono::steady_clock::now() - start;
        if (waited < std::chrono::milliseconds(5)) {
          std::this_thread::yield();
          continue;
        }
        look(waited);
        std::this_thread::sleep_for(std::chrono::microseconds(50));
      }
    }

    /// Ends the group where it cannot go on.
    void look(std::chrono::steady_clock::duration waited) {
      if (waited > timeout)
        end(message("rank", host.rank(), "of", host.size(), "has waited",
                    std::chrono::duration<double>(waited).count(), "s for its GPU and the others"));
      if (!comm) return;
      ncclResult_t status = ncclSuccess;
      if (ncclCommGetAsyncError(comm, &status) != ncclSuccess || status != ncclSuccess)
        end(message("nccl: rank", host.rank(), "of", host.size(), "-", ncclGetErrorString(status)));
      try {
        host.check();
      } catch (const PeerFailed& error) {
        end(error.what());
      }
    }
    [[noreturn]] void end(const std::string& why) {
      abort(why);
      throw PeerFailed(why);
    }

    /// What NCCL has queued on the device ends, whatever the others do.
    void abort(const std::string& why) {
      if (ended.empty()) ended = why;
      if (!comm) return;
      // NCCL stops its kernels at once, but returns only when no graph holds its sums any more: graphs that this thread
      // still has. So another thread waits for that.
      std::packaged_task<void()> task([own = std::exchange(comm, nullptr), device = context.device] {
        if (cudaSetDevice(device) == cudaSuccess) ncclCommAbort(own);
      });
      aborted = task.get_future();
      std::thread(std::move(task)).detach();
      const auto until = std::chrono::steady_clock::now() + grace;
      while (cudaStreamQuery(context.stream) == cudaErrorNotReady && std::chrono::steady_clock::now() < until)
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
      cudaGetLastError();
    }

    /// NCCL would only say that its usage is invalid.
    void check_devices() {
      cudaDeviceProp properties{};
      MOLE_CUDA_CHECK(cudaGetDeviceProperties(&properties, context.device));
      constexpr std::size_t length = sizeof properties.uuid.bytes;
      std::vector<char> all(length * static_cast<std::size_t>(host.size()));
      host.all_gather(properties.uuid.bytes, static_cast<Index>(length), all.data());
      for (int second = 1; second < host.size(); ++second)
        for (int first = 0; first < second; ++first)
          MOLE_CHECK_ARG(std::memcmp(&all[length * static_cast<std::size_t>(first)],
                                     &all[length * static_cast<std::size_t>(second)], length) != 0,
                         "NcclGroup: ranks", first, "and", second,
                         "work on one GPU, and each needs its own: start fewer ranks, or choose by "
                         "Cuda::select() or CUDA_VISIBLE_DEVICES");
    }
  };

  std::shared_ptr<Shared> shared_;
};

static_assert(DeviceCommunicator<NcclGroup>);

}  // namespace mole::dist
