#pragma once
// Steps over batches of differing lengths: on a backend that can capture a step, each shape of a batch is
// captured once and replayed from then on. A small model's step is otherwise bound by its launches.

#include <array>
#include <cstddef>
#include <functional>
#include <iostream>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include <mole/core/error.hpp>
#include <mole/core/graph.hpp>

#include "numbers/model.hpp"

namespace numbers {

/// A step that leaves gradients in `parameters` and returns tensors, R, of what it computed. On a GPU these
/// are overwritten by the next call with a batch of the same shape.
template <class B, class R>
class Replayed {
 public:
  /// What a step reads, and a step: it puts its gradients into the parameters.
  using Batch = mole::T5Batch<Scalar, B>;
  using Step = std::function<R(const Batch&)>;

  Replayed(std::vector<Values<B>> parameters, Step step)
      : parameters_(std::move(parameters)), step_(std::move(step)) {}
  Replayed(const Replayed&) = delete;
  Replayed& operator=(const Replayed&) = delete;
  ~Replayed() { zero_grad(); }

  /// Throws what the step throws.
  R operator()(const Batch& batch) {
    if constexpr (mole::has_graphs<B>) {
      try {
        return replay(batch);
      } catch (const mole::DeviceError& error) {
        if (captured_.empty()) throw;
        // Mostly there is no memory left: without the graphs there is what a step needs.
        std::cerr << "steps are no longer captured: " << error.what() << "\n";
        captured_.clear();
        most_ = 0;
        return run(batch);
      }
    } else {
      return run(batch);
    }
  }

 private:
  using Graph = typename mole::GraphOf<B>::type;
  using Key = std::array<Index, 4>;  ///< a batch's extents, and whether it has a mask
  /// What a graph writes to is given back before the graph.
  struct Captured {
    std::shared_ptr<Graph> graph;
    Batch batch;
    R result;
    std::vector<Values<B>> gradients;
  };

  R replay(const Batch& batch) {
    const std::array shape{batch.input_ids.size(0), batch.input_ids.size(1), batch.labels.size(1),
                           Index{batch.input_mask.defined()}};
    // Each graph keeps its memory; a shape that comes but once is not worth one.
    if (auto& seen = seen_[shape]; captured_.count(shape) == 0 && (++seen < 2 || captured_.size() >= most_))
      return run(batch);
    auto& captured = captured_[shape];
    if (!captured.graph) {
      captured.batch = {own(batch.input_ids), own(batch.input_mask), own(batch.labels)};
      captured.graph = std::make_shared<Graph>([&] {
        captured.result = run(captured.batch);
        captured.gradients.clear();
        for (const auto& parameter : parameters_) captured.gradients.push_back(parameter.grad());
      });
    } else {
      captured.batch.input_ids.assign(batch.input_ids);
      if (batch.input_mask.defined()) captured.batch.input_mask.assign(batch.input_mask);
      captured.batch.labels.assign(batch.labels);
    }
    captured.graph->replay();
    for (std::size_t i = 0; i < parameters_.size(); ++i) parameters_[i].set_grad(captured.gradients[i]);
    return captured.result;
  }

  /// A copy that later batches may overwrite; of indices one whose values are known to the host.
  template <class T>
  static mole::Tensor<T, B> own(const mole::Tensor<T, B>& x) {
    return x.defined() ? mole::Tensor<T, B>::from(x.shape(), x.to_host()) : x;
  }

  void zero_grad() const {
    for (const auto& parameter : parameters_) parameter.zero_grad();
  }

  R run(const Batch& batch) const {
    zero_grad();
    return step_(batch);
  }

  std::vector<Values<B>> parameters_;
  Step step_;
  std::size_t most_ = 24;  ///< graphs
  std::map<Key, Index> seen_;
  std::map<Key, Captured> captured_;
};

}  // namespace numbers
