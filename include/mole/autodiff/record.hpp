#pragma once
// `record` ties what an op has made, one tensor or several, to the op's pullback.

#include <array>
#include <concepts>
#include <cstddef>
#include <initializer_list>
#include <iterator>
#include <memory>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

#include <mole/autodiff/no_grad.hpp>
#include <mole/autodiff/node.hpp>
#include <mole/autodiff/tensor.hpp>
#include <mole/core/error.hpp>

namespace mole {

/// The inputs of an op: tensors in braces, or a vector or span of them, which must outlive the call.
template <class T, class B>
struct OpInputs : std::span<const Tensor<T, B>> {
  using std::span<const Tensor<T, B>>::span;
  OpInputs(std::initializer_list<Tensor<T, B>> list)
      : std::span<const Tensor<T, B>>(list.begin(), list.size()) {}
};

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

/// Whether f(G) is the pullback of an op with one output, which does not read that output's value.
template <class F, class T, class B>
constexpr bool is_pullback = requires(const F& f, const Tensor<T, B>& G) {
  { detail::as_list(f(G)) } -> std::same_as<std::vector<Tensor<T, B>>>;
};

/// Whether f(y, G) is the pullback of an op with one output.
template <class F, class T, class B>
constexpr bool is_pullback_of_value = requires(const F& f, const Tensor<T, B>& y, const Tensor<T, B>& G) {
  { detail::as_list(f(y, G)) } -> std::same_as<std::vector<Tensor<T, B>>>;
};

/// Whether f(G, last) is the pullback of an op with several outputs.
template <class F, class T, class B>
constexpr bool is_pullback_of_several = requires(const F& f, std::vector<Tensor<T, B>> G, bool last) {
  { detail::as_list(f(std::move(G), last)) } -> std::same_as<std::vector<Tensor<T, B>>>;
};

/// The Pullback::Call of f(G), an F.
template <class T, class B, class F>
std::vector<Tensor<T, B>> of_gradient(const void* f, const std::shared_ptr<Node<T, B>>& node) {
  const Tensor<T, B> G = std::exchange(node->grad, {});
  return as_list((*static_cast<const F*>(f))(G));
}

/// Whether an op of these inputs is wanted on the tape.
template <class T, class B>
bool is_recorded(std::span<const Tensor<T, B>> inputs) {
  bool wanted = false;
  for (const auto& input : inputs) wanted = wanted || input.requires_grad();
  return wanted && recording();
}

/// Throws ArgumentError unless y is a new value, of which the tape knows nothing.
template <class T, class B>
void check_new(const Tensor<T, B>& y) {
  MOLE_CHECK_ARG(
      y.defined() && !y.requires_grad(), "record: an output must be a new tensor, and this one is",
      y.defined() ? "on the tape already; give its detach() where an op returns an input" : "undefined");
}

/// Puts the node of an op behind those of its inputs.
template <class T, class B>
void put_on_tape(Node<T, B>& node, std::span<const Tensor<T, B>> inputs, Pullback<T, B> pullback) {
  node.requires_grad = true;
  node.sequence = next_sequence();
  node.inputs.reserve(inputs.size());
  for (const auto& input : inputs)
    node.inputs.push_back(input.requires_grad() ? input.node_pointer() : nullptr);
  node.pullback = std::move(pullback);
}

/// The outputs wait for each other in a node of their op.
template <class T, class B, class F>
void record_several(std::span<const Tensor<T, B>> inputs, std::span<const Tensor<T, B>> outputs, F pullback) {
  constexpr bool fits = is_pullback_of_several<F, T, B>;
  static_assert(
      fits,
      "mole::record: a pullback of several outputs takes the vector G of their gradients and whether "
      "this is its last call, [..](const auto& G, bool last), is not mutable, and returns the "
      "gradients of the inputs: a Tensor, a std::array or a std::vector of them");
  MOLE_CHECK_ARG(!outputs.empty(), "record: expected an output, got none");
  for (const auto& y : outputs) check_new(y);
  if (!is_recorded(inputs)) return;
  const auto op = std::make_shared<Node<T, B>>();
  if constexpr (fits)
    put_on_tape<T, B>(*op, inputs, [pullback = std::move(pullback)](const std::shared_ptr<Node<T, B>>& node) {
      std::vector<Tensor<T, B>> G;
      for (auto& gradient : *node->gathered) G.push_back(std::exchange(gradient, {}));
      // An output that can still be read back holds the node.
      const bool last = node.use_count() == 1;
      return as_list(pullback(std::move(G), last));
    });
  op->gathered = std::make_unique<std::vector<Tensor<T, B>>>(outputs.size());
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    check_new(outputs[i]);  // the same tensor twice
    auto& node = *outputs[i].node_pointer();
    node.requires_grad = true;
    node.sequence = next_sequence();
    node.inputs.push_back(op);
    node.output = static_cast<std::uint32_t>(i);
  }
}

}  // namespace detail

/// Ties the value y of an op to its pullback, if any input requires a gradient and recording is on.
/// pullback(G) gets the gradient G of y and returns the gradients of the inputs in order: a Tensor, a std::array or a
/// std::vector of them, undefined where none is needed. It runs with recording off.
/// The tape keeps no value but those that pullbacks ask for. A pullback that reads an input captures it; of one that it
/// does not read it captures the place(). One that reads y takes it first, pullback(y, G); it must not capture y itself:
/// that would be a cycle.
/// Indices have no gradients: of an op that moves them nothing is kept.
/// Throws ArgumentError if y is undefined or on the tape already.
template <class T, class B, class F>
Tensor<T, B> record(const std::type_identity_t<OpInputs<T, B>>& inputs, Tensor<T, B> y, F pullback) {
  if constexpr (!std::same_as<T, Index>) {
    constexpr bool fits = detail::is_pullback<F, T, B>, reads_y = detail::is_pullback_of_value<F, T, B>;
    static_assert(
        fits || reads_y,
        "mole::record: a pullback takes the gradient G of the op's value y, [..](const auto& G), or that value too, "
        "[..](const auto& y, const auto& G), is not mutable, and returns the gradients of the inputs: a "
        "Tensor, a std::array or a std::vector of them");
    if constexpr (fits || reads_y) {
      detail::check_new(y);
      if (!detail::is_recorded<T, B>(inputs)) return y;
      if constexpr (fits)
        detail::put_on_tape<T, B>(*y.node_pointer(), inputs,
                                  {std::move(pullback), &detail::of_gradient<T, B, F>});
      else
        detail::put_on_tape<T, B>(*y.node_pointer(), inputs,
                                  [pullback = std::move(pullback),
                                   value = y.buffer()](const std::shared_ptr<detail::Node<T, B>>& node) {
                                    const Tensor<T, B> G = std::exchange(node->grad, {});
                                    return detail::as_list(pullback(Tensor<T, B>::of_node(node, value), G));
                                  });
    }
  }
  return y;
}

/// The same for an op with several outputs, which have one pullback: pullback(G, last) gets the gradients of
/// the outputs, a vector in their order, undefined where none has come, and returns those of the inputs. It
/// runs once in a backward(), when no more can come. `last` says that no other output is left that a later
/// backward() could start from, so that what the op has kept may be freed before its end. The pullback must
/// not capture an output; one that reads its value captures its detach(). Returns the outputs.
/// Throws ArgumentError if there is no output, or if one is undefined, on the tape already or there twice.
template <class T, class B, class F>
std::vector<Tensor<T, B>> record(const std::type_identity_t<OpInputs<T, B>>& inputs,
                                 std::vector<Tensor<T, B>> outputs, F pullback) {
  detail::record_several<T, B>(inputs, outputs, std::move(pullback));
  return outputs;
}
template <class T, class B, std::size_t N, class F>
std::array<Tensor<T, B>, N> record(const std::type_identity_t<OpInputs<T, B>>& inputs,
                                   std::array<Tensor<T, B>, N> outputs, F pullback) {
  detail::record_several<T, B>(inputs, outputs, std::move(pullback));
  return outputs;
}

/// Where a pullback writes the gradient of input x: fresh memory with beta = 0, or, when a gradient is there
/// that nobody else holds, that very tensor with beta = 1, to be added to. Saves a pass over memory wherever
/// an op can accumulate, as gemm does. The place() of x is enough for it.
template <class T, class B>
struct GradTarget {
  Tensor<T, B> tensor;
  int beta = 0;

  explicit GradTarget(const Tensor<T, B>& x) {
    const auto& grad = x.node_pointer()->grad;
    beta = detail::sole_owner(grad) ? 1 : 0;
    tensor = beta ? grad : Tensor<T, B>::empty(x.shape());
  }
};

}  // namespace mole
