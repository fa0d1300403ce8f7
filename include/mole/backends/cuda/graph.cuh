#pragma once
// A training step as one CUDA graph: recorded once, replayed with a single launch.

#include <utility>

#include <mole/backends/cuda/backend.cuh>
#include <mole/core/graph.hpp>

namespace mole {

/// A step with fixed shapes, captured on this thread's stream. Values that the step reads from tensors are
/// read anew by each replay, so inputs change by Tensor::assign; numbers the host puts in (a learning rate
/// as an argument) are those of the capture. The step must not read values back to the host. What it leaves
/// behind (gradients, a loss kept by the caller) is rewritten by each replay, and holds nothing before the
/// first; its memory belongs to the graph. A graph is used and destroyed by the thread that made it.
class CudaGraph {
 public:
  /// Runs `step` twice: once as it is, so that what is made at first use exists, and once to be captured,
  /// which executes nothing. Throws what the step throws, DeviceError if it reads back or waits.
  template <class F>
  explicit CudaGraph(F step) : context_(&detail::cuda_context()), queue_(detail::CudaContext::next_queue()) {
    auto& context = *context_;
    auto& pool = BufferPool<Cuda>::instance();
    const Borrowed borrowed(context, queue_);
    pool.reserve(queue_);
    try {
      step();
      context.synchronize();
      MOLE_CUDA_CHECK(cudaStreamBeginCapture(context.stream, cudaStreamCaptureModeRelaxed));
      context.capture = &capture_;
      cudaGraph_t graph = nullptr;
      try {
        step();
      } catch (...) {
        context.capture = nullptr;
        cudaStreamEndCapture(context.stream, &graph);
        if (graph) cudaGraphDestroy(graph);
        cudaGetLastError();
        throw;
      }
      context.capture = nullptr;
      MOLE_CUDA_CHECK(cudaStreamEndCapture(context.stream, &graph));
      const cudaError_t status = cudaGraphInstantiate(&graph_, graph, 0);
      cudaGraphDestroy(graph);
      MOLE_CUDA_CHECK(status);
    } catch (...) {
      pool.release(queue_);
      throw;
    }
  }
  CudaGraph(const CudaGraph&) = delete;
  CudaGraph& operator=(const CudaGraph&) = delete;
  ~CudaGraph() {
    context_->settle();
    if (cudaGraphExecDestroy(graph_) != cudaSuccess) cudaGetLastError();
    BufferPool<Cuda>::instance().release(queue_);
  }

  /// Queues the step once more; returns before it is done. Throws DeviceError, also in another thread than
  /// the one that made the graph: its matrix products share that thread's workspace.
  void replay() {
    MOLE_CHECK_AS(DeviceError, &detail::cuda_context() == context_,
                  "cuda: a graph must be replayed by the thread that captured it");
    MOLE_CUDA_CHECK(cudaGraphLaunch(graph_, context_->stream));
  }

 private:
  /// While the graph is made, this thread's memory comes from the graph's own queue. Work is forked in graphs
  /// alone: there a branch costs no launches.
  struct Borrowed {
    Borrowed(detail::CudaContext& context, std::uint64_t queue)
        : context(context), before(std::exchange(context.queue, queue)) {
      context.branches = true;
    }
    ~Borrowed() {
      context.branches = false;
      context.queue = before;
    }
    detail::CudaContext& context;
    std::uint64_t before;
  };

  detail::CudaContext* context_;
  std::uint64_t queue_;
  detail::CudaCapture capture_;
  cudaGraphExec_t graph_ = nullptr;
};

template <>
struct GraphOf<Cuda> {
  using type = CudaGraph;
};

}  // namespace mole
