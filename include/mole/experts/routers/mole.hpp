#pragma once
// MoLE's own router: one gate a scope, which reads the experts' outputs and mixes them by a softmax.
//
//   v     gate input [rows, features]                        eq. 9
//         unit(v) may be standardised: see gate_scale.hpp
//   F     learnable weight [features, N] (Q^T e of eq. 10)
//   tau   exp(log_tau), learnable
//   g     softmax(unit(v) F / tau)                           eq. 10-11

#include <array>
#include <cmath>
#include <limits>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <mole/experts/ops/gate_softmax.hpp>
#include <mole/experts/routers/router.hpp>

namespace mole {

template <class T, class B>
class MoleRouter;

/// The policies of MoLE's gates.
struct GateOptions {
  Scope scope = Scope::block;
  GateInput input = GateInput::experts;
  Pooling pooling = Pooling::mean;
  Index length = 0;  ///< tokens of a sequence, for Pooling::flatten alone
  Index top_k = 0;   ///< keep the k largest gates; 0 keeps all. 1 trains straight through: see gate_weights
  double temperature = 1;  ///< tau at the start
  /// unit: the paper's. Else the model must measure it before it is used: standardise_gates(batches).
  InputScale input_scale = InputScale::unit;
  OutsideWeight outside = OutsideWeight::mean;  ///< of experts at slots outside every scope

  static constexpr const char* name = "mole";
  /// "hidden" is the released code's gate, which reads its scope's input.
  static constexpr std::array names{"mole", "hidden"};
  template <class T, class B>
  using Router = MoleRouter<T, B>;

  static GateOptions with(std::string_view called, const GatePlacement& placement, double temperature) {
    return {placement.scope,       called == "hidden" ? GateInput::hidden : placement.input,
            placement.pooling,     placement.length,
            placement.top_k,       temperature,
            placement.input_scale, placement.outside};
  }
  GatePlacement placement() const { return {scope, input, pooling, length, top_k, input_scale, outside}; }
  void check() const {
    detail::check_temperature(temperature);
    MOLE_CHECK_ARG(pooling != Pooling::flatten || length > 0,
                   "attach: flatten pooling needs the number of tokens (GateOptions::length)");
  }
  /// The start's temperature is not kept: each gate has its own by then.
  template <class Self, class F>
  static void fields(Self& self, F f) {
    f("scope", self.scope);
    f("input", self.input);
    f("pooling", self.pooling);
    f("top_k", self.top_k);
    f("length", self.length, 2);
    f("input_scale", self.input_scale, 3);
    f("outside", self.outside, 3);
  }
};

/// Whether a gate of one layer reads, token by token, just what its mixture mixes, so that both may be one
/// kernel (gated_mixture).
inline bool reads_own_tokens(const GateOptions& options) {
  return options.input == GateInput::experts && options.pooling == Pooling::token && options.top_k == 0;
}

/// A gate of zeros. Throws ArgumentError without features or experts, or for a temperature not above 0.
template <class T, class B>
Gate<T, B> make_gate(Index features, std::vector<Index> experts, double temperature = 1) {
  MOLE_CHECK_ARG(features > 0 && !experts.empty(), "make_gate: a gate needs features and experts, got",
                 features, "and", experts.size());
  MOLE_CHECK_ARG(temperature > 0, "make_gate: expected a temperature above 0, got", temperature);
  Gate<T, B> gate{Tensor<T, B>::zeros({features, static_cast<Index>(experts.size())}),
                  Tensor<T, B>::scalar(static_cast<T>(std::log(temperature))),
                  {},
                  std::move(experts)};
  gate.weight.set_requires_grad();
  gate.log_tau.set_requires_grad();
  return gate;
}

/// g = softmax(unit(v) F / tau) (eq. 10-11), with the gate's scale softmax((unit(v) - mean) * factor F / tau).
/// v [.., features], result [.., N].
/// `keep` [N] or undefined: experts of 0 get no weight and the rest are renormalised, the second inference
/// mode; a gate whose experts are all masked gives no weight at all. top_k > 0 keeps the k largest and
/// renormalises. With top_k = 1 the weight that is left is 1 whatever the gate says: it gets the gradient that it
/// would have without renormalising (straight through), so that the gate can be trained.    Throws ShapeError.
template <class T, class B>
GateValue<T, B> gate_weights(const Gate<T, B>& gate, const Tensor<T, B>& v,
                             const std::type_identity_t<Tensor<T, B>>& keep = {}, Index top_k = 0) {
  GateValue<T, B> value;
  value.dense = gate_softmax(v, gate.weight, gate.log_tau, keep, Compute<T>(detail::gate_eps), gate.scale);
  value.weights = value.dense;
  if (top_k > 0 && top_k < gate.n_experts()) {
    const auto kept = mul(value.dense, top_k_mask(value.dense.detach(), top_k));
    // The largest of N weights is at least 1 / N, so the shift, which half can just hold, is lost in rounding
    // there; where all are masked it keeps 0 / 0 away.
    const Compute<T> least = Narrow<T> ? Compute<T>(1e-7) : std::numeric_limits<Compute<T>>::min();
    value.weights = div(kept, shift(sum(kept, {-1}, true), least));
    if (top_k == 1) value.weights = straight_through(value.weights, kept);
  }
  return value;
}

/// MoLE's gates over a model, with F and log_tau of each.
template <class T, class B>
class MoleRouter {
 public:
  MoleRouter(const GateOptions& options, const RouterSite<T, B>& site) : options_(options) {
    for (std::size_t i = 0; i < site.gates.size(); ++i) {
      auto& gate = site.gates[i].gate;
      const Index features = features_of(options, site, site.gates[i]);
      gate = make_gate<T, B>(features, gate.experts, options.temperature);
      gate.scale = unmeasured_scale<T, B>(options.input_scale, features);
      tensors_.push_back(gate.weight);
      tensors_.push_back(gate.log_tau);
      if (!gate.scale.defined()) continue;
      tensors_.push_back(gate.scale.mean);
      tensors_.push_back(gate.scale.factor);
      scales_.push_back(gate.scale);
    }
  }

  /// F of each gate, zero at the start, and its log_tau; with an input scale, that.
  static std::vector<NamedShape> shapes(const GateOptions& options, const RouterSite<T, B>& site) {
    std::vector<NamedShape> list;
    for (const auto& placed : site.gates) {
      const Index features = features_of(options, site, placed);
      list.push_back({placed.name + ".gate.weight", Shape{features, placed.gate.n_experts()}});
      list.push_back({placed.name + ".gate.log_temperature", Shape{}});
      if (options.input_scale == InputScale::unit) continue;
      list.push_back({placed.name + ".gate.input_mean", Shape{features}});
      list.push_back({placed.name + ".gate.input_factor", factor_shape(options.input_scale, features)});
    }
    return list;
  }

  static constexpr bool reads_unit_rows = true;
  std::vector<Tensor<T, B>> tensors() const { return tensors_; }
  std::vector<GateScale<T, B>> scales() const { return scales_; }

  GateValue<T, B> weigh(const PlacedGate<T, B>& placed, const Tensor<T, B>& v,
                        const Tensor<T, B>& keep) const {
    return gate_weights(placed.gate, v, keep, options_.top_k);
  }

  /// Whether each gate belongs to one slot and is made together with that slot's mixture (gated_mixture).
  bool comes_with_mixture() const { return options_.scope == Scope::matrix && reads_own_tokens(options_); }

 private:
  static Index features_of(const GateOptions& options, const RouterSite<T, B>& site,
                           const PlacedGate<T, B>& placed) {
    return site.features(placed) * (options.pooling == Pooling::flatten ? options.length : 1);
  }

  GateOptions options_;
  std::vector<Tensor<T, B>> tensors_;
  std::vector<GateScale<T, B>> scales_;
};

}  // namespace mole
