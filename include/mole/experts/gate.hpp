#pragma once
// The vocabulary that every router shares: what its gates read, where they stand, and what they decide.
//
//   v     gate input [rows, features]                        eq. 9
//   g     weights over the N experts of a gate               eq. 11

#include <string>
#include <vector>

#include <mole/experts/gate_scale.hpp>
#include <mole/nn/scope.hpp>
#include <mole/ops/activation.hpp>
#include <mole/ops/masked_mean.hpp>
#include <mole/ops/shape.hpp>
#include <mole/ops/softmax.hpp>
#include <mole/ops/top_k.hpp>

namespace mole {

/// What the gate reads: the experts' outputs (the paper) or the scope's own input (the released code).
enum class GateInput { experts, hidden };
/// Over which tokens: all of a fixed length (the paper), their mean, or each for itself.
enum class Pooling { flatten, mean, token };

/// The weights of experts at slots outside every scope (GroupPlace::outside): each the same share of one, eq.
/// 2's weight, so that uniform gates are the mean of whole adapters; none; or each in full.
enum class OutsideWeight { mean, off, full };

/// Where a router's gates stand in a model, and how many experts they keep. Every router says it of itself.
struct GatePlacement {
  Scope scope = Scope::block;
  GateInput input = GateInput::experts;
  Pooling pooling = Pooling::mean;
  Index length = 0;  ///< tokens of a sequence, for Pooling::flatten alone
  Index top_k = 0;   ///< keep the k largest gates; 0 keeps all
  InputScale input_scale = InputScale::unit;
  OutsideWeight outside = OutsideWeight::mean;
};

/// Their names, as parse_gate_input() and parse_pooling() read them.
inline const char* to_string(GateInput input) { return input == GateInput::experts ? "experts" : "hidden"; }
inline const char* to_string(Pooling pooling) {
  constexpr const char* names[] = {"flatten", "mean", "token"};
  return names[static_cast<int>(pooling)];
}

inline const char* to_string(OutsideWeight outside) {
  constexpr const char* names[] = {"mean", "off", "full"};
  return names[static_cast<int>(outside)];
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

inline OutsideWeight parse_outside_weight(const std::string& text) {
  for (const OutsideWeight outside : {OutsideWeight::mean, OutsideWeight::off, OutsideWeight::full})
    if (text == to_string(outside)) return outside;
  throw ArgumentError("unknown weight outside the scopes \"" + text + "\": choose mean, off or full");
}

/// The same into a field, as files of options are read.
inline void from_text(const std::string& text, OutsideWeight& outside) {
  outside = parse_outside_weight(text);
}
inline void from_text(const std::string& text, GateInput& input) { input = parse_gate_input(text); }
inline void from_text(const std::string& text, Pooling& pooling) { pooling = parse_pooling(text); }

/// One gate: the experts it chooses among, and what its router keeps for it.
template <class T, class B>
struct Gate {
  Tensor<T, B>
      weight;         ///< MoLE: F [features, N], zero at the start: a uniform gate, eq. 2. Arrow: prototypes
  Tensor<T, B> U, V;  ///< MoLE of a rank m: F = U V, [features, m] and [m, N]; weight is undefined then
  Tensor<T, B> log_tau;        ///< MoLE: []
  GateScale<T, B> scale;       ///< MoLE: of what it reads; frozen
  std::vector<Index> experts;  ///< the model's expert of each column, ascending

  Index n_experts() const { return static_cast<Index>(experts.size()); }
};

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

/// The value of x with the pullback of y, of x's shape: what is recorded of x gets no gradient.
template <class T, class B>
Tensor<T, B> straight_through(const Tensor<T, B>& x, const Tensor<T, B>& y) {
  MOLE_CHECK_SHAPE(x.shape() == y.shape(), "straight_through: expected two of a shape, got", x.shape(), "and",
                   y.shape());
  return record({y}, x.detach().clone(), [](const auto& G) { return G; });
}

namespace detail {

/// 1 for the experts that count in each row of logits [.., N]: those of keep [N], and of them the top_k
/// largest. Undefined: all count.
template <class T, class B>
Tensor<T, B> counted_experts(const Tensor<T, B>& logits, const Tensor<T, B>& keep, Index top_k) {
  if (top_k <= 0 || top_k >= logits.size(-1)) return keep;
  // The logarithm of the softmax is ordered as the logits and is -infinity where an expert is masked.
  const auto largest = top_k_mask(log_softmax(logits.detach(), keep), top_k);
  return keep.defined() ? mul(largest, keep) : largest;
}

/// What a temperature is at least, and its inverse at most: beyond, a float gate would be NaN.
inline constexpr double least_temperature = 1e-30;

/// Throws ArgumentError for a temperature that is not above 0, or beyond least_temperature.
inline void check_temperature(double temperature) {
  MOLE_CHECK_ARG(temperature >= least_temperature && temperature <= 1 / least_temperature,
                 "attach: expected a temperature above 0, from", least_temperature, "to",
                 1 / least_temperature, ", got", temperature);
}

}  // namespace detail

}  // namespace mole
