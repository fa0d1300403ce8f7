#pragma once
// One linear layer with N canonical experts and one gate: MoLE, or another router, at its smallest. It is a
// model of a single slot.

#include <string>
#include <utility>
#include <vector>

#include <mole/experts/adapted_layers.hpp>
#include <mole/experts/routers/mole.hpp>

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
  /// W [d_out, d_in], a tensor or in any other format; c [d_out] or undefined. A scope does not matter here: the
  /// layer is the scope.
  /// Throws ShapeError when an expert does not fit W, ArgumentError for an empty list or as check_router
  /// does.
  MoleLinear(FrozenWeight<T, B> W, Tensor<T, B> c, const std::vector<LoraFactors>& experts,
             const GateOptions& options = {}) {
    auto own = options;
    own.scope = Scope::matrix;
    attach(std::move(W), std::move(c), experts, own);
  }

  /// The same with any router, or a RouterOptions of one. For X-LoRA the layer is the whole model: its classifier
  /// reads the layer's output in the first pass.
  template <class O>
  MoleLinear(FrozenWeight<T, B> W, Tensor<T, B> c, const std::vector<LoraFactors>& experts, const O& router) {
    detail::with_options(router, [&](auto options) {
      if constexpr (requires { options.scope; }) options.scope = Scope::matrix;
      this->attach(std::move(W), std::move(c), experts, options);
    });
  }

  /// x [S, L, d_in]; mask [S, L] of 0 and 1, or undefined; keep [N] of 0 and 1, or undefined: the second
  /// inference mode.    Throws ShapeError.
  MoleOutput<T, B> operator()(const Tensor<T, B>& x, const Tensor<T, B>& mask = {},
                              const Tensor<T, B>& keep = {}) const {
    MolePass<T, B> pass;
    pass.keep = keep;
    const auto y = output(x, mask, pass);
    return {y, *pass.gates.front()};
  }

  /// Measures the scale of what the gate reads, on inputs as operator() takes them, before it is used; for
  /// an input scale other than unit. `masks` is empty or has one for each.    Throws as Mixer::standardise does;
  /// ArgumentError for masks of another number.
  void standardise_gates(const std::vector<Tensor<T, B>>& inputs,
                         const std::vector<Tensor<T, B>>& masks = {}) {
    MOLE_CHECK_ARG(masks.empty() || masks.size() == inputs.size(),
                   "standardise_gates: expected a mask for each of", inputs.size(), "inputs, got",
                   masks.size());
    std::vector<std::size_t> batches;
    for (std::size_t i = 0; i < inputs.size(); ++i) batches.push_back(i);
    layers_.mixer->standardise(batches, [&](std::size_t i, MolePass<T, B>& pass) {
      output(inputs[i], masks.empty() ? Tensor<T, B>() : masks[i], pass);
    });
  }

  /// MoLE's gate; with Arrow, `weight` holds the prototypes; with X-LoRA it is undefined.
  const Gate<T, B>& gate() const { return layers_.mixer->gates().front().gate; }
  Gate<T, B>& gate() { return layers_.mixer->gates().front().gate; }
  const ExpertStack<T, B>& experts() const { return layers_.mixer->experts_at(0); }
  /// What trains: F and log_tau; X-LoRA's classifier; nothing of Arrow's.
  std::vector<Tensor<T, B>> parameters() const { return layers_.mixer->parameters(); }

 private:
  Tensor<T, B> output(const Tensor<T, B>& x, const Tensor<T, B>& mask, MolePass<T, B>& pass) const {
    pass.set_mask(0, {mask, {}});
    if (before_) (this->*before_)(x, pass);
    return layers_(0, x, pass).front();
  }

  /// The first pass of a router of two.
  void first_pass(const Tensor<T, B>& x, MolePass<T, B>& pass) const {
    const auto& mixer = *layers_.mixer;
    auto first = mixer.first_pass(x.size(0), pass);
    Tensor<T, B> z;
    {
      const NoGrad off;
      z = layers_(0, x, first).front();
    }
    mixer.classify(z, 0, pass);
  }

  template <class O>
  void attach(FrozenWeight<T, B> W, Tensor<T, B> c, const std::vector<LoraFactors>& experts,
              const O& options) {
    auto& table = layers_.table;
    table.hidden = W.d_out();
    const SlotShape shape{slot_name, W.d_out(), W.d_in()};
    table.add_linear_group({.layer = slot_name, .block = slot_name}, {&shape, 1});
    table.slots[0].weight = W.dense();
    if (!W.dense().defined()) table.slots[0].stored = std::move(W);
    table.slots[0].bias = std::move(c);
    std::vector<LoraSet> sets;
    for (const auto& expert : experts) {
      MOLE_CHECK_SHAPE((table.slots[0].shape == Shape{expert.d_out, expert.d_in}), "MoleLinear: W is",
                       table.slots[0].shape, "but expert", sets.size(), "is for",
                       Shape({expert.d_out, expert.d_in}));
      sets.push_back(
          {std::to_string(sets.size()), "", {slot_name}, [&expert](const std::string&) { return expert; }});
    }
    layers_.mixer.emplace(table, sets, options);
    if constexpr (detail::has_two_passes<typename O::template Router<T, B>>)
      before_ = &MoleLinear::first_pass;
  }

  static constexpr const char* slot_name = "layer";

  AdaptedLayers<T, B> layers_;
  /// first_pass() for a router that has one, so that it is compiled for those alone.
  void (MoleLinear::*before_)(const Tensor<T, B>& x, MolePass<T, B>& pass) const = nullptr;
};

}  // namespace mole
