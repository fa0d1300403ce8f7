#pragma once
// One linear layer with N canonical experts and one gate: MoLE, or another router, at its smallest.

#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include <mole/experts/chosen_experts.hpp>
#include <mole/experts/expert_stack.hpp>
#include <mole/experts/gate.hpp>
#include <mole/experts/ops/gated_mixture.hpp>
#include <mole/experts/routers/arrow.hpp>
#include <mole/experts/routers/registry.hpp>
#include <mole/experts/routers/xlora.hpp>

namespace mole {

/// The mixture and the gate that made it.
template <class T, class B>
struct MoleOutput {
  Tensor<T, B> y;        ///< [S, L, d_out]
  GateValue<T, B> gate;  ///< [S, N], or [S, L, N] for a token gate
};

/// y = x W^T + c + sum_i g_i E_i(x) (eq. 8-13) in rank space. W, c and the experts are frozen; the router
/// trains, if it has anything to train.
template <class T, class B>
class MoleLinear {
 public:
  /// W [d_out, d_in], c [d_out] or undefined. A scope does not matter here: the layer is the scope.
  /// Throws ShapeError when an expert does not fit W, ArgumentError for an empty list or as check_router
  /// does.
  MoleLinear(Tensor<T, B> W, Tensor<T, B> c, const std::vector<LoraFactors>& experts,
             const GateOptions& options = {})
      : MoleLinear(std::move(W), std::move(c), experts, RouterOptions(options)) {}

  /// The same with any router. For X-LoRA the layer is the whole model: its classifier reads the layer's
  /// output in the first pass.
  template <RouterChoice R>
  MoleLinear(Tensor<T, B> W, Tensor<T, B> c, const std::vector<LoraFactors>& experts, const R& router)
      : W_(std::move(W)), c_(std::move(c)), router_(router) {
    std::vector<std::pair<Index, LoraFactors>> parts;
    std::vector<Index> all;
    for (const auto& expert : experts) {
      MOLE_CHECK_SHAPE(expert.d_in == W_.size(1) && expert.d_out == W_.size(0), "MoleLinear: W is",
                       W_.shape(), "but expert", all.size(), "is for", Shape({expert.d_out, expert.d_in}));
      all.push_back(static_cast<Index>(all.size()));
      parts.emplace_back(all.back(), expert);
    }
    stack_ = stack_experts<T, B>(parts, all);
    gate_.experts = all;
    check_router(router_, gate_.n_experts());
    std::visit([this](const auto& options) { this->make_gate_for(options); }, router_);
    const auto policies = policies_of(router_);
    if (policies.pooling != Pooling::token && leaves_few(stack_, policies.top_k))
      blocks_ = make_blocks(stack_, gate_.n_experts(), policies.top_k);
  }

  /// x [S, L, d_in]; mask [S, L] of 0 and 1, or undefined; keep [N] of 0 and 1, or undefined: the second
  /// inference mode.    Throws ShapeError.
  MoleOutput<T, B> operator()(const Tensor<T, B>& x, const Tensor<T, B>& mask = {},
                              const Tensor<T, B>& keep = {}) const {
    if (const auto* options = std::get_if<GateOptions>(&router_); options && reads_own_tokens(*options)) {
      const auto fused =
          gated_mixture(x, {W_, c_, stack_.A, stack_.Q, stack_.column, gate_.weight, gate_.log_tau, keep});
      return {fused.y, {fused.g, fused.g}};
    }
    Tensor<T, B> h;
    auto gate = std::visit([&](const auto& options) { return weigh(options, x, h, mask, keep); }, router_);
    if (blocks_.pay(x.size(0), x.size(1)))
      return {mix_chosen(x, W_, c_, blocks_, choose_experts(gate.weights, policies_of(router_).top_k)), gate};
    return {mixture(x, W_, c_, outputs(x, h), gate.weights, stack_.Q, stack_.column), gate};
  }

  const RouterOptions& router() const { return router_; }
  /// MoLE's gate; with Arrow, `weight` holds the prototypes; with X-LoRA it is undefined.
  Gate<T, B>& gate() { return gate_; }
  const ExpertStack<T, B>& experts() const { return stack_; }
  /// What trains: F and log_tau; X-LoRA's classifier; nothing of Arrow's.
  std::vector<Tensor<T, B>> parameters() const {
    if (classifier_) return classifier_->parameters();
    if (std::holds_alternative<ArrowOptions>(router_)) return {};
    return {gate_.weight, gate_.log_tau};
  }

 private:
  void make_gate_for(const GateOptions& options) {
    const Index width = options.input == GateInput::experts ? stack_.rank() : W_.size(1);
    gate_ = make_gate<T, B>(options.pooling == Pooling::flatten ? width * options.length : width,
                            gate_.experts, options.temperature);
  }
  void make_gate_for(const ArrowOptions&) { gate_.weight = arrow_prototypes(stack_, gate_.n_experts()); }
  void make_gate_for(const XLoraOptions& options) {
    classifier_.emplace(options, W_.size(0), std::vector<Index>{gate_.n_experts()});
  }

  /// h = x A'^T, made where it is first needed.
  const Tensor<T, B>& outputs(const Tensor<T, B>& x, Tensor<T, B>& h) const {
    if (!h.defined()) h = linear(x, stack_.A);
    return h;
  }

  GateValue<T, B> weigh(const GateOptions& options, const Tensor<T, B>& x, Tensor<T, B>& h,
                        const Tensor<T, B>& mask, const Tensor<T, B>& keep) const {
    const bool by_experts = options.input == GateInput::experts, mean = options.pooling == Pooling::mean;
    // The mean of h is the h of the mean.
    auto v = pool_tokens(by_experts && !mean ? outputs(x, h) : x, mask, options.pooling, options.length);
    if (by_experts && mean) v = linear(v, stack_.A);
    return gate_weights(gate_, v, keep, options.top_k);
  }
  GateValue<T, B> weigh(const ArrowOptions& options, const Tensor<T, B>& x, Tensor<T, B>& h,
                        const Tensor<T, B>&, const Tensor<T, B>& keep) const {
    return arrow_weights(outputs(x, h), gate_.weight, options, keep);
  }
  GateValue<T, B> weigh(const XLoraOptions& options, const Tensor<T, B>& x, Tensor<T, B>& h,
                        const Tensor<T, B>& mask, const Tensor<T, B>& keep) const {
    const auto all = Tensor<T, B>::full({x.size(0), gate_.n_experts()},
                                        static_cast<T>(options.first_pass * options.weight));
    const auto z = mixture(x, W_, c_, outputs(x, h), all, stack_.Q, stack_.column).detach();
    return classifier_->gate(classifier_->logits(pool_tokens(z, mask, options.pooling)), 0, keep);
  }

  Tensor<T, B> W_, c_;
  RouterOptions router_;
  ExpertStack<T, B> stack_;
  ExpertBlocks<T, B> blocks_;  // where top-k leaves few
  Gate<T, B> gate_;
  std::optional<XLora<T, B>> classifier_;
};

}  // namespace mole
