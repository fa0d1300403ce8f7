#pragma once
// The reverse sweep: from a scalar back to every leaf that asked for a gradient.

#include <memory>
#include <queue>
#include <utility>
#include <vector>

#include <mole/autodiff/no_grad.hpp>
#include <mole/autodiff/tensor.hpp>

namespace mole {

namespace detail {

/// node.grad += G. The first gradient of a result is kept as it is, possibly shared; a leaf's is its own,
/// since optimisers change it in place. A sum goes in place only into a buffer that nobody else holds.
template <class T, class B>
void accumulate(Node<T, B>& node, const Tensor<T, B>& G) {
  MOLE_CHECK_SHAPE(G.shape() == node.shape, "backward: a pullback returned", G.shape(),
                   "for an input of shape", node.shape);
  if (!node.grad.defined()) {
    node.grad = !node.inputs.empty() || sole_owner(G) ? G : G.clone();
    return;
  }
  const Tensor<T, B> sum = sole_owner(node.grad) ? node.grad : Tensor<T, B>::empty(node.shape);
  transform<B>(G.size(), functor::Add{}, sum.data(), node.grad.data(), G.data());
  node.grad = sum;
}

/// Results that wait for their turn, the youngest first. Those that are left when a pullback throws lose their
/// gradients, which a later sweep would take for its own.
template <class T, class B>
class Pending {
 public:
  using NodePtr = std::shared_ptr<Node<T, B>>;

  Pending() = default;
  Pending(const Pending&) = delete;
  Pending& operator=(const Pending&) = delete;
  ~Pending() {
    while (!empty()) {
      const NodePtr node = pop();
      if (node->inputs.empty()) continue;
      node->grad = {};
      if (!node->gathered) continue;
      for (auto& gradient : *node->gathered) gradient = {};
    }
  }

  bool empty() const { return queue_.empty(); }
  void push(const NodePtr& node) { queue_.push(node); }
  NodePtr pop() {
    NodePtr node = queue_.top();
    queue_.pop();
    return node;
  }

 private:
  struct Older {
    bool operator()(const NodePtr& a, const NodePtr& b) const { return a->sequence < b->sequence; }
  };
  std::priority_queue<NodePtr, std::vector<NodePtr>, Older> queue_;
};

}  // namespace detail

/// Runs the pullbacks from y back, in reverse order of creation, and adds to the grad() of each leaf. The
/// graph is consumed as the sweep passes. `seed` is the gradient of y, 1 by default.
/// Throws ShapeError if y is no scalar and no seed is given, ArgumentError if y depends on nothing that
/// requires a gradient or if its graph was consumed before.
template <class T, class B>
void backward(const Tensor<T, B>& y, Tensor<T, B> seed = {}) {
  using NodePtr = std::shared_ptr<detail::Node<T, B>>;
  constexpr const char* consumed = "backward: this graph was consumed by an earlier backward()";
  MOLE_CHECK_ARG(y.requires_grad(), "backward: this value depends on nothing that requires a gradient");
  if (!seed.defined()) {
    MOLE_CHECK_SHAPE(y.size() == 1, "backward: expected one element or a seed of shape", y.shape());
    seed = Tensor<T, B>::ones(y.shape());
  }
  MOLE_CHECK_ARG(!y.node_pointer()->released, consumed);
  const NoGrad off;
  detail::accumulate(*y.node_pointer(), seed);
  seed = {};

  detail::Pending<T, B> pending;
  pending.push(y.node_pointer());
  std::vector<void*> targets;
  while (!pending.empty()) {
    const NodePtr node = pending.pop();
    if (node->inputs.empty()) continue;  // y is a leaf
    if (!node->pullback) {
      // One of several outputs. Their op was made before them: its turn comes when all of them have had theirs.
      const NodePtr op = node->inputs.front();
      bool waits = false;
      for (const auto& gradient : *op->gathered) waits = waits || gradient.defined();
      if (!waits) pending.push(op);
      (*op->gathered)[node->output] = std::exchange(node->grad, {});
      node->release();
      continue;
    }
    // What a GradTarget may add to; only these come back with the sum already in them. Any other tensor may
    // be an input's gradient and its next contribution at once: x + x passes G on twice.
    targets.clear();
    for (const NodePtr& input : node->inputs)
      targets.push_back(input && detail::sole_owner(input->grad) ? input->grad.node_pointer().get()
                                                                 : nullptr);
    auto gradients = node->pullback(node);
    MOLE_CHECK_ARG(gradients.size() == node->inputs.size(), "backward: a pullback returned", gradients.size(),
                   "gradients for", node->inputs.size(), "inputs");
    for (std::size_t i = 0; i < gradients.size(); ++i) {
      const NodePtr& input = node->inputs[i];
      if (!input || !gradients[i].defined()) continue;
      MOLE_CHECK_ARG(!input->released, consumed);
      if (targets[i] && gradients[i].node_pointer().get() == targets[i]) {
        gradients[i] = {};
        continue;
      }
      // A result is queued with its first gradient; until it is processed, more only add up.
      if (!input->grad.defined() && !input->inputs.empty()) pending.push(input);
      detail::accumulate(*input, std::exchange(gradients[i], {}));
    }
    // An op with several outputs stays for those that a later sweep may start from: they hold its node.
    if (!node->gathered || node.use_count() == 1) node->release();
  }
}

}  // namespace mole
