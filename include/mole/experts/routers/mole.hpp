#pragma once
// MoLE's own router: one gate a scope, which reads the experts' outputs and mixes them by a softmax.
//
//   v     gate input [rows, features]                        eq. 9
//         unit(v) may be standardised: see gate_scale.hpp
//   F     learnable weight [features, N] (Q^T e of eq. 10); of a rank m, F = U V with U [features, m], V [m, N]
//   tau   exp(log_tau), learnable
//   g     softmax(unit(v) F / tau)                           eq. 10-11

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <mole/experts/ops/gate_softmax.hpp>
#include <mole/experts/routers/mole_sets.hpp>
#include <mole/experts/routers/router.hpp>
#include <mole/ops/norm.hpp>
#include <mole/ops/softmax.hpp>

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
  /// m of F = U V, at most: with many experts F is larger than they are, as it grows with the square of their number.
  /// 0: F is whole.
  Index gate_rank = 0;

  static constexpr const char* name = "mole";
  /// "hidden" is the released code's gate, which reads its scope's input.
  static constexpr std::array names{"mole", "hidden"};
  template <class T, class B>
  using Router = MoleRouter<T, B>;

  static GateOptions with(std::string_view called, const GatePlacement& placement, double temperature) {
    return {placement.scope,
            called == "hidden" ? GateInput::hidden : placement.input,
            placement.pooling,
            placement.length,
            placement.top_k,
            temperature,
            placement.input_scale,
            placement.outside,
            0};
  }
  GatePlacement placement() const { return {scope, input, pooling, length, top_k, input_scale, outside}; }
  void check() const {
    detail::check_temperature(temperature);
    MOLE_CHECK_ARG(pooling != Pooling::flatten || length > 0,
                   "attach: flatten pooling needs the number of tokens (GateOptions::length)");
    MOLE_CHECK_ARG(gate_rank >= 0, "attach: expected a rank of the gates of 0 or more, got", gate_rank);
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
    f("gate_rank", self.gate_rank, 4);
  }
};

/// Whether a gate of one layer reads, token by token, just what its mixture mixes, so that both may be one
/// kernel (gated_mixture).
inline bool reads_own_tokens(const GateOptions& options) {
  return options.input == GateInput::experts && options.pooling == Pooling::token && options.top_k == 0 &&
         options.gate_rank == 0;
}

namespace detail {

/// A gate without F. Throws as make_gate() does.
template <class T, class B>
Gate<T, B> gate_without_weight(Index features, std::vector<Index> experts, double temperature) {
  MOLE_CHECK_ARG(features > 0 && !experts.empty(), "make_gate: a gate needs features and experts, got",
                 features, "and", experts.size());
  MOLE_CHECK_ARG(temperature > 0, "make_gate: expected a temperature above 0, got", temperature);
  Gate<T, B> gate;
  gate.log_tau = Tensor<T, B>::scalar(static_cast<T>(std::log(temperature))).set_requires_grad();
  gate.experts = std::move(experts);
  return gate;
}

}  // namespace detail

/// A gate of zeros. Throws ArgumentError without features or experts, or for a temperature not above 0.
template <class T, class B>
Gate<T, B> make_gate(Index features, std::vector<Index> experts, double temperature = 1) {
  auto gate = detail::gate_without_weight<T, B>(features, std::move(experts), temperature);
  gate.weight = Tensor<T, B>::zeros({features, gate.n_experts()}).set_requires_grad();
  return gate;
}

/// The same with F = U V of rank m, or less where F has fewer rows or columns. U [features, m] is random and V [m, N]
/// zero: the gate starts even, and V learns at once.    Throws as make_gate() does; ArgumentError unless m >= 1.
template <class T, class B>
Gate<T, B> make_gate_of_rank(Index features, std::vector<Index> experts, Index m, RandomStream random,
                             double temperature = 1) {
  MOLE_CHECK_ARG(m >= 1, "make_gate_of_rank: expected a rank of 1 or more, got", m);
  auto gate = detail::gate_without_weight<T, B>(features, std::move(experts), temperature);
  m = std::min({m, features, gate.n_experts()});
  // So that U U^T is near one: then a step of V is a step of F.
  gate.U = Tensor<T, B>::randn({features, m}, random,
                               static_cast<Compute<T>>(1 / std::sqrt(static_cast<double>(m))))
               .set_requires_grad();
  gate.V = Tensor<T, B>::zeros({m, gate.n_experts()}).set_requires_grad();
  return gate;
}

namespace detail {

/// The gate before top-k, F = U V, without F itself.
template <class T, class B>
Tensor<T, B> softmax_of_rank(const Gate<T, B>& gate, const Tensor<T, B>& v, const Tensor<T, B>& keep) {
  auto read = unit_rows(v);
  if (gate.scale.defined()) read = mul(sub(read, gate.scale.mean), gate.scale.factor);
  const auto logits = matmul(matmul(read, gate.U), gate.V);
  return softmax(mul(logits, exp(scale(gate.log_tau, T(-1)))), keep);
}

/// The weights of a gate of N experts whose softmax is `dense`, see gate_weights().
template <class T, class B>
GateValue<T, B> with_top_k(const Tensor<T, B>& dense, Index top_k) {
  GateValue<T, B> value{dense, dense};
  if (top_k > 0 && top_k < dense.size(-1)) {
    const auto kept = mul(dense, top_k_mask(dense.detach(), top_k));
    // The largest of N weights is at least 1 / N, so the shift, which half can just hold, is lost in rounding
    // there; where all are masked it keeps 0 / 0 away.
    const Compute<T> least = Narrow<T> ? Compute<T>(1e-7) : std::numeric_limits<Compute<T>>::min();
    value.weights = div(kept, shift(sum(kept, {-1}, true), least));
    if (top_k == 1) value.weights = straight_through(value.weights, kept);
  }
  return value;
}

}  // namespace detail

/// g = softmax(unit(v) F / tau) (eq. 10-11), with the gate's scale softmax((unit(v) - mean) * factor F / tau).
/// v [.., features], result [.., N].
/// `keep` [N] or undefined: experts of 0 get no weight and the rest are renormalised, the second inference
/// mode; a gate whose experts are all masked gives no weight at all. top_k > 0 keeps the k largest and
/// renormalises. With top_k = 1 the weight that is left is 1 whatever the gate says: it gets the gradient that it
/// would have without renormalising (straight through), so that the gate can be trained.    Throws ShapeError.
template <class T, class B>
GateValue<T, B> gate_weights(const Gate<T, B>& gate, const Tensor<T, B>& v,
                             const std::type_identity_t<Tensor<T, B>>& keep = {}, Index top_k = 0) {
  return detail::with_top_k(gate.U.defined() ? detail::softmax_of_rank(gate, v, keep)
                                             : gate_softmax(v, gate.weight, gate.log_tau, keep,
                                                            Compute<T>(detail::gate_eps), gate.scale),
                            top_k);
}

/// MoLE's gates over a model, with F and log_tau of each.
template <class T, class B>
class MoleRouter {
 public:
  MoleRouter(const GateOptions& options, const RouterSite<T, B>& site) : options_(options) {
    for (std::size_t i = 0; i < site.gates.size(); ++i) {
      auto& gate = site.gates[i].gate;
      const Index features = features_of(options, site, site.gates[i]);
      // Each gate has a U of its own, the same in every run.
      constexpr std::uint64_t seed = 1;
      gate = options.gate_rank == 0 ? make_gate<T, B>(features, gate.experts, options.temperature)
                                    : make_gate_of_rank<T, B>(features, gate.experts, options.gate_rank,
                                                              {seed, i}, options.temperature);
      gate.scale = unmeasured_scale<T, B>(options.input_scale, features);
      const std::array kept{gate.weight, gate.U, gate.V, gate.log_tau};
      for (const auto& tensor : kept)
        if (tensor.defined()) tensors_.push_back(tensor);
      if (!gate.scale.defined()) continue;
      tensors_.push_back(gate.scale.mean);
      tensors_.push_back(gate.scale.factor);
      scales_.push_back(gate.scale);
    }
  }

  /// F of each gate, zero at the start, or its U and V, and its log_tau; with an input scale, that.
  static std::vector<NamedShape> shapes(const GateOptions& options, const RouterSite<T, B>& site) {
    std::vector<NamedShape> list;
    for (const auto& placed : site.gates) {
      const Index features = features_of(options, site, placed);
      const Index N = placed.gate.n_experts();
      if (options.gate_rank == 0) {
        list.push_back({placed.name + ".gate.weight", Shape{features, N}});
      } else {
        const Index m = std::min({options.gate_rank, features, N});
        list.push_back({placed.name + ".gate.weight.u", Shape{features, m}});
        list.push_back({placed.name + ".gate.weight.v", Shape{m, N}});
      }
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
  /// See softmax_of_sets().
  GateValue<T, B> weigh_sets(const std::vector<const Gate<T, B>*>& gates, const std::vector<Index>& sets,
                             const Tensor<T, B>& v, const Tensor<T, B>& keep) const {
    return detail::with_top_k(softmax_of_sets(gates, sets, v, keep), options_.top_k);
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
