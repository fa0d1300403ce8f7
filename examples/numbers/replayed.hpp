#pragma once
// Steps over batches of differing lengths: on a backend that can capture a step, each shape of a batch is
// captured once and replayed from then on. A small model's step is otherwise bound by its launches.

#include <array>
#include <cstddef>
#include <functional>
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
      const std::array shape{batch.input_ids.size(0), batch.input_ids.size(1), batch.labels.size(1)};
      // Each graph keeps its memory; a shape that comes but once is not worth one.
      if (auto& seen = seen_[shape]; captured_.count(shape) == 0 && (++seen < 2 || captured_.size() >= most_))
        return run(batch);
      auto& captured = captured_[shape];
      if (!captured.graph) {
        captured.batch = batch;
        try {
          captured.graph = std::make_shared<Graph>([&] {
            captured.result = run(captured.batch);
            captured.gradients.clear();
            for (const auto& parameter : parameters_) captured.gradients.push_back(parameter.grad());
          });
        } catch (const mole::DeviceError&) {
          // Out of memory, mostly: without the graphs there is what a step needs.
          captured_.clear();
          most_ = 0;
          return run(batch);
        }
      } else {
        captured.batch.input_ids.assign(batch.input_ids);
        captured.batch.input_mask.assign(batch.input_mask);
        captured.batch.labels.assign(batch.labels);
      }
      captured.graph->replay();
      for (std::size_t i = 0; i < parameters_.size(); ++i) parameters_[i].set_grad(captured.gradients[i]);
      return captured.result;
    } else {
      return run(batch);
    }
  }

 private:
  using Graph = typename mole::GraphOf<B>::type;
  /// What a graph writes to is given back before the graph.
  struct Captured {
    std::shared_ptr<Graph> graph;
    Batch batch;
    R result;
    std::vector<Values<B>> gradients;
  };

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
  std::map<std::array<Index, 3>, Index> seen_;
  std::map<std::array<Index, 3>, Captured> captured_;
};

}  // namespace numbers
