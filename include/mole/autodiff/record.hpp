#pragma once
// `record` ties the value of an op to its pullback.

#include <array>
#include <iterator>
#include <span>
#include <utility>
#include <vector>

#include <mole/autodiff/no_grad.hpp>
#include <mole/autodiff/node.hpp>
#include <mole/autodiff/tensor.hpp>

namespace mole {

namespace detail {

template <class T, class B>
std::vector<Tensor<T, B>> as_list(Tensor<T, B> gradient) {
  std::vector<Tensor<T, B>> list;
  list.push_back(std::move(gradient));
  return list;
}
template <class T, class B, std::size_t N>
std::vector<Tensor<T, B>> as_list(std::array<Tensor<T, B>, N> gradients) {
  return {std::make_move_iterator(gradients.begin()), std::make_move_iterator(gradients.end())};
}
template <class T, class B>
std::vector<Tensor<T, B>> as_list(std::vector<Tensor<T, B>> gradients) {
  return gradients;
}

}  // namespace detail

/// Ties the value y of an op to its pullback, if any input requires a gradient and recording is on.
/// pullback(y, G) gets the op's own value and its gradient G, and returns the gradients of the inputs in
/// order: a Tensor, a std::array or a std::vector of them, undefined where none is needed. It must not
/// capture y: that would be a cycle. It runs with recording off.
template <class T, class B, class F>
Tensor<T, B> record(std::span<const Tensor<T, B>> inputs, Tensor<T, B> y, F pullback) {
  bool wanted = false;
  for (const auto& input : inputs) wanted = wanted || input.requires_grad();
  if (!wanted || !detail::recording()) return y;
  auto& node = *y.node_pointer();
  node.requires_grad = true;
  node.sequence = detail::next_sequence();
  for (const auto& input : inputs)
    node.inputs.push_back(input.requires_grad() ? input.node_pointer() : nullptr);
  node.pullback = [pullback = std::move(pullback)](const Tensor<T, B>& value, const Tensor<T, B>& G) {
    return detail::as_list(pullback(value, G));
  };
  return y;
}
template <class T, class B, class F>
Tensor<T, B> record(const std::vector<Tensor<T, B>>& inputs, Tensor<T, B> y, F pullback) {
  return record(std::span(inputs), std::move(y), std::move(pullback));
}
template <class T, class B, class F>
Tensor<T, B> record(std::initializer_list<Tensor<T, B>> inputs, Tensor<T, B> y, F pullback) {
  return record(std::span(inputs.begin(), inputs.size()), std::move(y), std::move(pullback));
}

/// Where a pullback writes the gradient of input x: fresh memory with beta = 0, or, when a gradient is there
/// that nobody else holds, that very tensor with beta = 1, to be added to. Saves a pass over memory wherever
/// an op can accumulate, as gemm does.
template <class T, class B>
struct GradTarget {
  Tensor<T, B> tensor;
  int beta = 0;

  explicit GradTarget(const Tensor<T, B>& x) {
    const auto& grad = x.node_pointer()->grad;
    beta = detail::sole_owner(grad) ? 1 : 0;
    tensor = beta ? Tensor<T, B>(grad) : Tensor<T, B>::empty(x.shape());
  }
};

}  // namespace mole
