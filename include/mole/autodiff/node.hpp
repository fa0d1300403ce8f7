#pragma once
// The tape: a node knows the nodes it was made of and how its gradient becomes theirs. It holds no value: tensors do, and
// of those the pullbacks capture what they read.

#include <atomic>
#include <concepts>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include <mole/core/shape.hpp>
#include <mole/fwd.hpp>

namespace mole {

namespace detail {

template <class T, class B>
struct Node;

/// Takes the gradients that a node has and returns those of its inputs: any function f(node), moved into memory
/// of its own. Each op makes one, and std::function would compile some twenty functions for it.
template <class T, class B>
class Pullback {
 public:
  /// Calls the function at `state` for the node.
  using Call = std::vector<Tensor<T, B>>(const void* state, const std::shared_ptr<Node<T, B>>& node);

  Pullback() = default;
  template <class F>
  requires(!std::same_as<F, Pullback>) Pullback(F f) : Pullback(std::move(f), &of_node<F>) {}
  template <class F>
  Pullback(F f, Call* call) : state_(new F(std::move(f))), call_(call), free_(&free<F>) {}
  Pullback(Pullback&& from) noexcept { swap(from); }
  Pullback& operator=(Pullback&& from) noexcept {
    swap(from);
    return *this;
  }
  ~Pullback() { reset(); }

  explicit operator bool() const { return state_ != nullptr; }
  std::vector<Tensor<T, B>> operator()(const std::shared_ptr<Node<T, B>>& node) const {
    return call_(state_, node);
  }
  /// Frees what it captured.
  void reset() {
    if (void* const state = std::exchange(state_, nullptr)) free_(state);
  }

 private:
  template <class F>
  static std::vector<Tensor<T, B>> of_node(const void* state, const std::shared_ptr<Node<T, B>>& node) {
    return (*static_cast<const F*>(state))(node);
  }
  template <class F>
  static void free(void* state) {
    delete static_cast<F*>(state);
  }
  void swap(Pullback& other) {
    std::swap(state_, other.state_);
    std::swap(call_, other.call_);
    std::swap(free_, other.free_);
  }

  void* state_ = nullptr;
  Call* call_ = nullptr;
  void (*free_)(void*) = nullptr;
};

inline std::uint64_t next_sequence() {
  static std::atomic<std::uint64_t> counter{0};
  return counter.fetch_add(1, std::memory_order_relaxed) + 1;
}

/// A tensor's place on the tape. `sequence` grows with creation, so it orders a graph topologically.
/// An op with several outputs has a node of its own between its inputs and its outputs: it is the only input of each
/// output and gathers what comes back to them.
template <class T, class B>
struct Node {
  Shape shape;
  bool requires_grad = false;
  bool released = false;
  std::uint32_t output = 0;  ///< of one of several outputs: its place among them
  std::uint64_t sequence = 0;
  Tensor<T, B> grad;
  std::vector<std::shared_ptr<Node>> inputs;            ///< none: a leaf; null where no gradient is wanted
  Pullback<T, B> pullback;                              ///< empty for a leaf, and for one of several outputs
  std::unique_ptr<std::vector<Tensor<T, B>>> gathered;  ///< the gradients of an op's several outputs

  Node() = default;
  Node(const Node&) = delete;
  Node& operator=(const Node&) = delete;
  ~Node() { release(); }

  /// Leaves the tape. Iterative: a chain of a million nodes must not recurse through its destructors. The
  /// pullback goes first, while `inputs` still holds what it captured.
  void release() {
    if (inputs.empty()) return;
    pullback.reset();
    released = true;
    std::vector<std::shared_ptr<Node>> pending = std::move(inputs);
    while (!pending.empty()) {
      const std::shared_ptr<Node> node = std::move(pending.back());
      pending.pop_back();
      if (node && node.use_count() == 1 && !node->inputs.empty()) {
        node->pullback.reset();
        for (auto& input : node->inputs) pending.push_back(std::move(input));
        node->inputs.clear();
      }
    }
  }
};

/// What is known of a tensor of indices without asking the device.
struct KnownIndices {
  std::shared_ptr<const std::vector<Index>> host;  ///< the values, where they came from the host
  Index bound = 0;                                 ///< all are known to be in [0, bound); 0: nothing is known
  Index besides = 0;                               ///< or equal to this, where it is negative
};

/// Indices have no gradients and stay off the tape.
template <class B>
struct Node<Index, B> {
  Shape shape;
  KnownIndices indices;
};

}  // namespace detail

}  // namespace mole
