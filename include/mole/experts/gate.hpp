#pragma once
// The gate of MoLE: what it reads, its two parameters, and its weights over the experts.
//
//   v     gate input [rows, features]                        eq. 9
//   F     learnable weight [features, N] (Q^T e of eq. 10)
//   tau   exp(log_tau), learnable
//   g     softmax(unit(v) F / tau)                            eq. 10-11

#include <limits>
#include <string>
#include <type_traits>
#include <vector>

#include <mole/experts/ops/gate_softmax.hpp>
#include <mole/experts/ops/mixture.hpp>
#include <mole/nn/scope.hpp>
#include <mole/ops/activation.hpp>
#include <mole/ops/shape.hpp>
#include <mole/ops/top_k.hpp>

namespace mole {

/// What the gate reads: the experts' outputs (the paper) or the scope's own input (the released code).
enum class GateInput { experts, hidden };
/// Over which tokens: all of a fixed length (the paper), their mean, or each for itself.
enum class Pooling { flatten, mean, token };

/// The policies of a model's gates.
struct GateOptions {
  Scope scope = Scope::block;
  GateInput input = GateInput::experts;
  Pooling pooling = Pooling::mean;
  Index length = 0;        ///< tokens of a sequence, for Pooling::flatten alone
  Index top_k = 0;         ///< keep the k largest gates; 0 keeps all
  double temperature = 1;  ///< tau at the start
};

/// Whether a gate of one layer reads, token by token, just what its mixture mixes, so that both may be one
/// kernel (gated_mixture).
inline bool reads_own_tokens(const GateOptions& options) {
  return options.input == GateInput::experts && options.pooling == Pooling::token && options.top_k == 0;
}

/// Their names, as parse_gate_input() and parse_pooling() read them.
inline const char* to_string(GateInput input) { return input == GateInput::experts ? "experts" : "hidden"; }
inline const char* to_string(Pooling pooling) {
  constexpr const char* names[] = {"flatten", "mean", "token"};
  return names[static_cast<int>(pooling)];
}

/// Throw ArgumentError naming the choices.
inline GateInput parse_gate_input(const std::string& text) {
  for (const GateInput input : {GateInput::experts, GateInput::hidden})
    if (text == to_string(input)) return input;
  throw ArgumentError("unknown gate input \"" + text + "\": choose experts or hidden");
}
inline Pooling parse_pooling(const std::string& text) {
  for (const Pooling pooling : {Pooling::flatten, Pooling::mean, Pooling::token})
    if (text == to_string(pooling)) return pooling;
  throw ArgumentError("unknown pooling \"" + text + "\": choose flatten, mean or token");
}

/// The parameters of one gate and the experts it chooses among.
template <class T, class B>
struct Gate {
  Tensor<T, B> weight;         ///< F [features, N], zero at the start: a uniform gate, eq. 2
  Tensor<T, B> log_tau;        ///< []
  std::vector<Index> experts;  ///< the model's expert of each column, ascending

  Index n_experts() const { return static_cast<Index>(experts.size()); }
};

/// A gate of zeros. Throws ArgumentError without features or experts, or for a temperature not above 0.
template <class T, class B>
Gate<T, B> make_gate(Index features, std::vector<Index> experts, double temperature = 1) {
  MOLE_CHECK_ARG(features > 0 && !experts.empty(), "make_gate: a gate needs features and experts, got",
                 features, "and", experts.size());
  MOLE_CHECK_ARG(temperature > 0, "make_gate: expected a temperature above 0, got", temperature);
  Gate<T, B> gate{Tensor<T, B>::zeros({features, static_cast<Index>(experts.size())}),
                  Tensor<T, B>::scalar(static_cast<T>(std::log(temperature))), std::move(experts)};
  gate.weight.set_requires_grad();
  gate.log_tau.set_requires_grad();
  return gate;
}

/// What a gate decided for a batch.
template <class T, class B>
struct GateValue {
  Tensor<T, B> weights;  ///< [S, N] or [S, L, N]: what the mixture uses; 0 for masked and dropped experts
  Tensor<T, B> dense;    ///< the same before top-k, which the balance loss reads: q_i never is 0
};

/// The tokens of x as one gate input a row (eq. 9 before the norm).  x [S, L, n], mask [S, L] or undefined;
/// result [S, L n] (flatten), [S, n] (mean) or [S, L, n] (token). Padded tokens are zero in it, except for
/// token gates: a padded token's gate touches nothing but that token, and the balance loss leaves it out.
/// Throws ShapeError; flatten with a length other than `length` names both.
template <class T, class B>
Tensor<T, B> pool_tokens(const Tensor<T, B>& x, const Tensor<T, B>& mask, Pooling pooling, Index length = 0) {
  MOLE_CHECK_SHAPE(x.rank() == 3, "pool_tokens: expected [S, L, n], got", x.shape());
  const Index S = x.size(0), L = x.size(1), n = x.size(2);
  if (pooling == Pooling::token) return x;
  if (pooling == Pooling::mean) return masked_mean(x, mask.defined() ? mask : Tensor<T, B>::ones({S, L}));
  MOLE_CHECK_SHAPE(length == 0 || L == length, "flatten pooling was set up for", length, "tokens, got", L,
                   "; pad to that length, or use mean or token pooling");
  const auto real = mask.defined() ? mul(x, reshape(mask, {S, L, 1})) : x;
  return reshape(real, {S, L * n});
}

/// g = softmax(unit(v) F / tau) (eq. 10-11).  v [.., features], result [.., N].
/// `keep` [N] or undefined: experts of 0 get no weight and the rest are renormalised, the second inference
/// mode; a gate whose experts are all masked gives no weight at all. top_k > 0 keeps the k largest and
/// renormalises.    Throws ShapeError.
template <class T, class B>
GateValue<T, B> gate_weights(const Gate<T, B>& gate, const Tensor<T, B>& v,
                             const std::type_identity_t<Tensor<T, B>>& keep = {}, Index top_k = 0) {
  GateValue<T, B> value;
  value.dense = gate_softmax(v, gate.weight, gate.log_tau, keep);
  value.weights = value.dense;
  if (top_k > 0 && top_k < gate.n_experts()) {
    const auto kept = mul(value.dense, top_k_mask(value.dense.detach(), top_k));
    // The largest of N weights is at least 1 / N, so the shift, which half can just hold, is lost in rounding
    // there; where all are masked it keeps 0 / 0 away.
    const Compute<T> least = Narrow<T> ? Compute<T>(1e-7) : std::numeric_limits<Compute<T>>::min();
    value.weights = div(kept, shift(sum(kept, {-1}, true), least));
  }
  return value;
}

}  // namespace mole
