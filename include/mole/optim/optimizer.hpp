#pragma once
// What optimisers share: the parameters, their state and their step counts, so that a run can be saved and
// resumed bit for bit.

#include <cmath>
#include <utility>
#include <vector>

#include <mole/autodiff/tensor.hpp>

namespace mole {

/// Base of Sgd and AdamW, which add step(rate). A checkpoint saves state() and steps(); to resume, assign()
/// the saved values to state() and give the counts to set_steps().
template <class T, class B>
class Optimizer {
 public:
  /// Sgd and AdamW update exactly these, in place.
  const std::vector<Tensor<T, B>>& parameters() const { return parameters_; }

  /// The state tensors, in a fixed order; they exist from the start, as zeros.
  const std::vector<Tensor<T, B>>& state() const { return state_; }

  /// How often each parameter was updated: a parameter without a gradient sits a step out.
  const std::vector<Index>& steps() const { return steps_; }

  /// Throws ArgumentError unless there is one count >= 0 a parameter.
  void set_steps(std::vector<Index> steps) {
    MOLE_CHECK_ARG(steps.size() == parameters_.size(), "set_steps: expected", parameters_.size(),
                   "counts, got", steps.size(), "; was the checkpoint made with other parameters?");
    for (const Index count : steps) MOLE_CHECK_ARG(count >= 0, "set_steps: negative count", count);
    steps_ = std::move(steps);
  }

  /// Forgets the gradients of all parameters.
  void zero_grad() const {
    for (const auto& parameter : parameters_) parameter.zero_grad();
  }

 protected:
  /// Throws ArgumentError for no parameters, one that is undefined or needs no gradient, or one given twice.
  Optimizer(const char* name, std::vector<Tensor<T, B>> parameters, std::size_t states_each)
      : parameters_(std::move(parameters)), steps_(parameters_.size()), name_(name) {
    MOLE_CHECK_ARG(!parameters_.empty(), name, ": no parameters to train");
    for (std::size_t i = 0; i < parameters_.size(); ++i) {
      MOLE_CHECK_ARG(parameters_[i].requires_grad(), name, ": parameter", i,
                     "requires no gradient; mark it with set_requires_grad()");
      for (std::size_t j = 0; j < i; ++j)
        MOLE_CHECK_ARG(parameters_[i].buffer() != parameters_[j].buffer(), name, ": parameters", j, "and", i,
                       "are the same tensor; give it once");
      for (std::size_t s = 0; s < states_each; ++s)
        state_.push_back(Tensor<T, B>::zeros(parameters_[i].shape()));
    }
  }
  ~Optimizer() = default;
  Optimizer(const Optimizer&) = default;
  Optimizer& operator=(const Optimizer&) = default;
  Optimizer(Optimizer&&) noexcept = default;
  Optimizer& operator=(Optimizer&&) noexcept = default;

  /// update(i, gradient) for each parameter that has one, its count already raised.
  template <class F>
  void for_each_gradient(double rate, F update) {
    MOLE_CHECK_ARG(std::isfinite(rate) && rate >= 0, name_, ": expected a learning rate >= 0, got", rate);
    for (std::size_t i = 0; i < parameters_.size(); ++i) {
      const auto gradient = parameters_[i].grad();
      if (!gradient.defined()) continue;
      ++steps_[i];
      update(i, gradient);
    }
  }

 private:
  std::vector<Tensor<T, B>> parameters_, state_;
  std::vector<Index> steps_;
  const char* name_;
};

}  // namespace mole
