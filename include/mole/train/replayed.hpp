#pragma once
// Steps over batches of differing shapes: on a backend that can capture a step, each shape of a batch is
// captured once and replayed from then on. A small model's step is otherwise bound by its launches.

#include <any>
#include <concepts>
#include <cstddef>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <mole/autodiff/tensor.hpp>
#include <mole/core/error.hpp>
#include <mole/core/graph.hpp>

namespace mole {

namespace detail {

/// Stands for any function of a tensor.
struct AnyTensorFunction {
  template <class T, class B>
  void operator()(Tensor<T, B>&) const {}
};

}  // namespace detail

/// What a step reads: a value whose each_tensor(f) calls f(tensor) for every tensor in it, in a fixed order,
/// undefined ones included. Tensors are all that may differ between two batches of the same shapes: a
/// captured step sees the other members as they were when it was captured.
///     template <class F> void each_tensor(F f) { f(ids), f(mask), f(labels); }
template <class Batch>
concept TensorBatch = std::copyable<Batch> && requires(Batch& batch) {
  batch.each_tensor(detail::AnyTensorFunction());
};

/// How steps are replayed.
struct ReplayOptions {
  std::size_t graphs = 24;  ///< shapes that are captured, at most: each keeps its memory
  /// Told, once, why steps are no longer captured; empty: nobody is.
  std::function<void(const std::string& why)> notice = {};
};

/// A step that leaves gradients in `parameters` and returns R, tensors of what it computed. Where the backend
/// captures, these are overwritten by the next call with a batch of the same shapes.
template <class T, class B, TensorBatch Batch, class R>
class Replayed {
 public:
  /// Puts its gradients into the parameters.
  using Step = std::function<R(const Batch&)>;

  Replayed(std::vector<Tensor<T, B>> parameters, Step step, ReplayOptions options = {})
      : parameters_(std::move(parameters)), step_(std::move(step)), options_(std::move(options)) {}
  Replayed(const Replayed&) = delete;
  Replayed& operator=(const Replayed&) = delete;
  ~Replayed() { zero_grad(); }

  /// Throws what the step throws.
  R operator()(const Batch& batch) {
    if constexpr (has_graphs<B>) {
      try {
        return replay(batch);
      } catch (const DeviceError& error) {
        if (captured_.empty()) throw;
        // Mostly there is no memory left: without the graphs there is what a step needs.
        captured_.clear();
        options_.graphs = 0;
        if (options_.notice) options_.notice(error.what());
        return run(batch);
      }
    } else {
      return run(batch);
    }
  }

 private:
  using Graph = typename GraphOf<B>::type;
  using Key = std::vector<Index>;  ///< of each tensor its rank and extents, -1 where it is undefined
  /// What a graph writes to is given back before the graph.
  struct Captured {
    std::shared_ptr<Graph> graph;
    Batch batch;
    R result;
    std::vector<Tensor<T, B>> gradients;
  };

  static Key key_of(Batch& batch) {
    Key key;
    batch.each_tensor([&](const auto& tensor) {
      key.push_back(tensor.defined() ? tensor.rank() : -1);
      if (tensor.defined()) key.insert(key.end(), tensor.shape().begin(), tensor.shape().end());
    });
    return key;
  }

  R replay(const Batch& batch) {
    Batch given = batch;  // handles alone
    const auto key = key_of(given);
    // A shape that comes but once is not worth a graph.
    if (auto& seen = seen_[key];
        captured_.count(key) == 0 && (++seen < 2 || captured_.size() >= options_.graphs))
      return run(batch);
    auto& captured = captured_.try_emplace(key, Captured{nullptr, given, {}, {}}).first->second;
    if (!captured.graph) {
      // Not only at first: a step that threw left its batch here, and no graph.
      captured.batch = given;
      captured.batch.each_tensor([](auto& tensor) { tensor = own(tensor); });
      captured.graph = std::make_shared<Graph>([&] {
        captured.result = run(captured.batch);
        captured.gradients.clear();
        for (const auto& parameter : parameters_) captured.gradients.push_back(parameter.grad());
      });
    } else {
      overwrite(captured.batch, given);
    }
    captured.graph->replay();
    for (std::size_t i = 0; i < parameters_.size(); ++i) parameters_[i].set_grad(captured.gradients[i]);
    return captured.result;
  }

  /// The tensors of `batch` get the values of those of `given`, which has the same key.
  static void overwrite(Batch& batch, Batch& given) {
    std::vector<std::any> values;
    given.each_tensor([&](const auto& tensor) { values.emplace_back(&tensor); });
    std::size_t at = 0;
    batch.each_tensor([&](const auto& tensor) {
      const auto& from = *std::any_cast<decltype(&tensor)>(values[at++]);
      if (tensor.defined()) tensor.assign(from);
    });
  }

  /// A copy that later batches may overwrite; of indices one whose values are known to the host.
  template <class U>
  static Tensor<U, B> own(const Tensor<U, B>& x) {
    return x.defined() ? Tensor<U, B>::from(x.shape(), x.to_host()) : x;
  }

  void zero_grad() const {
    for (const auto& parameter : parameters_) parameter.zero_grad();
  }

  R run(const Batch& batch) const {
    zero_grad();
    return step_(batch);
  }

  std::vector<Tensor<T, B>> parameters_;
  Step step_;
  ReplayOptions options_;
  std::map<Key, Index> seen_;
  std::map<Key, Captured> captured_;
};

}  // namespace mole
