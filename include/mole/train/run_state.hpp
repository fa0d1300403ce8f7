#pragma once
// What a checkpoint holds of a training run, as plain data on the host: the same on any backend, and of no
// file format.

#include <cstddef>
#include <string>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include <mole/autodiff/tensor.hpp>
#include <mole/core/error.hpp>
#include <mole/core/scalar.hpp>
#include <mole/core/shape.hpp>
#include <mole/train/curves.hpp>

namespace mole {

/// The values of a tensor in row-major order, in the scalar that the tensor has.
using HostValues =
    std::variant<std::vector<float>, std::vector<double>, std::vector<bf16>, std::vector<half>>;

/// A tensor on the host, under its name in the checkpoint.
struct HostTensor {
  std::string name;
  Shape shape;
  HostValues values;
};

/// All that a run needs to go on. The number of points of the curves is the number of steps done.
struct RunState {
  /// Parameters ("parameter.0", "parameter.1", ..), then the optimiser's tensors ("state.0", ..).
  std::vector<HostTensor> tensors;
  std::vector<Index> steps;  ///< updates of each parameter
  Curves curves;
};

/// An optimiser whose checkpoints hold further tensors of the run, such as pictures that are in flight. The step function
/// keeps in them what it reads at the beginning of a step, so that a resumed run can begin with that step.
template <class O>
class KeepingMore {
 public:
  using Tensors = std::remove_cvref_t<decltype(std::declval<const O&>().state())>;

  /// `optimizer` must outlive this; `more` share their values with the caller's.
  KeepingMore(O& optimizer, Tensors more) : optimizer_(optimizer), more_(std::move(more)) {}

  decltype(auto) parameters() const { return optimizer_.parameters(); }
  Tensors state() const {
    auto all = optimizer_.state();
    all.insert(all.end(), more_.begin(), more_.end());
    return all;
  }
  const std::vector<Index>& steps() const { return optimizer_.steps(); }
  void set_steps(std::vector<Index> steps) { optimizer_.set_steps(std::move(steps)); }
  void zero_grad() const { optimizer_.zero_grad(); }
  void step(double rate) { optimizer_.step(rate); }

 private:
  O& optimizer_;
  Tensors more_;
};

/// The state of a run whose steps `optimizer` takes: an Sgd, an AdamW, or what has their members
/// parameters(), state() and steps(). Waits for the device.
template <class O>
RunState run_state(const O& optimizer, Curves curves) {
  RunState state{{}, optimizer.steps(), std::move(curves)};
  const auto add = [&](const std::string& kind, const auto& tensors) {
    for (std::size_t i = 0; i < tensors.size(); ++i)
      state.tensors.push_back({kind + std::to_string(i), tensors[i].shape(), tensors[i].to_host()});
  };
  add("parameter.", optimizer.parameters());
  add("state.", optimizer.state());
  return state;
}

namespace detail {

/// The values that go into `tensor`. Throws ArgumentError unless they have its scalar, ShapeError unless
/// they have its shape.
template <class T, class B>
const std::vector<T>& values_for(const Tensor<T, B>& tensor, const HostTensor& stored) {
  const auto* values = std::get_if<std::vector<T>>(&stored.values);
  MOLE_CHECK_ARG(values, "restore: tensor", stored.name, "is of another scalar than the run's");
  MOLE_CHECK_SHAPE(stored.shape == tensor.shape() && static_cast<Index>(values->size()) == tensor.size(),
                   "restore: tensor", stored.name, "is", stored.shape, "with", values->size(),
                   "values, where the run has", tensor.shape());
  return *values;
}

}  // namespace detail

/// Sets parameters, optimiser and step counts to those of `state`. Throws ArgumentError or ShapeError, and
/// changes nothing, unless it has the run's tensors, one for one, and a count >= 0 for each parameter.
template <class O>
void restore(O& optimizer, const RunState& state) {
  const auto each = [&](auto f) {
    std::size_t at = 0;
    for (const auto& tensor : optimizer.parameters()) f(tensor, state.tensors[at++]);
    for (const auto& tensor : optimizer.state()) f(tensor, state.tensors[at++]);
  };
  const auto count = optimizer.parameters().size() + optimizer.state().size();
  MOLE_CHECK_ARG(state.tensors.size() == count, "restore: expected", count, "tensors, got",
                 state.tensors.size());
  each([](const auto& tensor, const HostTensor& stored) { detail::values_for(tensor, stored); });
  optimizer.set_steps(state.steps);
  each([](const auto& tensor, const HostTensor& stored) {
    tensor.assign(tensor.from(tensor.shape(), detail::values_for(tensor, stored)));
  });
}

}  // namespace mole
