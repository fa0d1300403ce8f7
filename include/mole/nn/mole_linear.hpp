#pragma once
// One linear layer with N canonical experts and one gate: MoLE at its smallest (matrix scope).

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include <mole/nn/gate.hpp>
#include <mole/nn/lora.hpp>

namespace mole {

/// Canonical experts of one layer side by side, R = sum of their ranks.
template <class T, class B>
struct ExpertStack {
  Tensor<T, B> A;              ///< [R, d_in], scales folded in
  Tensor<T, B> Q;              ///< [d_out, R], orthonormal columns expert by expert
  Tensor<Index, B> column;     ///< [R], the gate's column of each rank
  std::vector<Index> experts;  ///< the model's expert of each part, ascending
  std::vector<Index> ends;     ///< where each part ends, in [0, R]

  Index rank() const { return A.size(0); }
};

/// Stacks experts for a gate over `gate_experts`. `parts` pairs the model's expert with its factors,
/// ascending. Throws ShapeError when an expert's layer has other extents, ArgumentError for an empty list or
/// an expert the gate does not hold.
template <class T, class B>
ExpertStack<T, B> stack_experts(const std::vector<std::pair<Index, LoraFactors>>& parts,
                                const std::vector<Index>& gate_experts, const std::string& slot = "layer") {
  MOLE_CHECK_ARG(!parts.empty(), "stack_experts:", slot, "has no expert");
  const Index d_in = parts.front().second.d_in, d_out = parts.front().second.d_out;
  ExpertStack<T, B> stack;
  std::vector<CanonicalExpert> experts;
  std::vector<T> A;
  std::vector<Index> columns;
  Index R = 0;
  for (const auto& [expert, factors] : parts) {
    MOLE_CHECK_SHAPE(factors.d_in == d_in && factors.d_out == d_out, "stack_experts:", slot, "is", d_out, "x",
                     d_in, "for its first expert but", factors.d_out, "x", factors.d_in, "for expert",
                     expert);
    const auto at = std::find(gate_experts.begin(), gate_experts.end(), expert);
    MOLE_CHECK_ARG(at != gate_experts.end(), "stack_experts: the gate of", slot, "does not hold expert",
                   expert);
    experts.push_back(canonical(factors));
    const auto& c = experts.back();
    for (const double value : c.A) A.push_back(static_cast<T>(value));
    columns.insert(columns.end(), static_cast<std::size_t>(c.rank),
                   static_cast<Index>(at - gate_experts.begin()));
    stack.experts.push_back(expert);
    stack.ends.push_back(R += c.rank);
  }
  std::vector<T> Q(static_cast<std::size_t>(d_out * R));
  for (std::size_t i = 0; i < experts.size(); ++i) {
    const auto& c = experts[i];
    for (Index o = 0; o < d_out; ++o)
      for (Index k = 0; k < c.rank; ++k)
        Q[static_cast<std::size_t>(o * R + stack.ends[i] - c.rank + k)] =
            static_cast<T>(c.Q[static_cast<std::size_t>(o * c.rank + k)]);
  }
  stack.A = Tensor<T, B>::from({R, d_in}, A);
  stack.Q = Tensor<T, B>::from({d_out, R}, Q);
  stack.column = Tensor<Index, B>::from({R}, columns);
  return stack;
}

/// The mixture and the gate that made it.
template <class T, class B>
struct MoleOutput {
  Tensor<T, B> y;        ///< [S, L, d_out]
  GateValue<T, B> gate;  ///< [S, N], or [S, L, N] for a token gate
};

/// y = x W^T + c + sum_i g_i E_i(x) (eq. 8-13) in rank space. W, c and the experts are frozen; the gate
/// trains.
template <class T, class B>
class MoleLinear {
 public:
  /// W [d_out, d_in], c [d_out] or undefined. options.scope does not matter here: the layer is the scope.
  /// Throws ShapeError when an expert does not fit W, ArgumentError for an empty list or flatten pooling
  /// without a length.
  MoleLinear(Tensor<T, B> W, Tensor<T, B> c, const std::vector<LoraFactors>& experts,
             GateOptions options = {})
      : W_(std::move(W)), c_(std::move(c)), options_(options) {
    std::vector<std::pair<Index, LoraFactors>> parts;
    std::vector<Index> all;
    for (const auto& expert : experts) {
      MOLE_CHECK_SHAPE(expert.d_in == W_.size(1) && expert.d_out == W_.size(0), "MoleLinear: W is",
                       W_.shape(), "but expert", all.size(), "is for", Shape({expert.d_out, expert.d_in}));
      all.push_back(static_cast<Index>(all.size()));
      parts.emplace_back(all.back(), expert);
    }
    MOLE_CHECK_ARG(options.pooling != Pooling::flatten || options.length > 0,
                   "MoleLinear: flatten pooling needs options.length, the number of tokens");
    stack_ = stack_experts<T, B>(parts, all);
    const Index width = options.input == GateInput::experts ? stack_.rank() : W_.size(1);
    gate_ = make_gate<T, B>(options.pooling == Pooling::flatten ? width * options.length : width, all,
                            options.temperature);
  }

  /// x [S, L, d_in]; mask [S, L] of 0 and 1, or undefined; keep [N] of 0 and 1, or undefined: the second
  /// inference mode.    Throws ShapeError.
  MoleOutput<T, B> operator()(const Tensor<T, B>& x, const Tensor<T, B>& mask = {},
                              const Tensor<T, B>& keep = {}) const {
    const auto h = linear(x, stack_.A);
    const auto v =
        pool_tokens(options_.input == GateInput::experts ? h : x, mask, options_.pooling, options_.length);
    auto gate = gate_weights(gate_, v, keep, options_.top_k);
    return {mixture(x, W_, c_, h, gate.weights, stack_.Q, stack_.column), gate};
  }

  Gate<T, B>& gate() { return gate_; }
  const ExpertStack<T, B>& experts() const { return stack_; }
  /// What trains: F and log_tau.
  std::vector<Tensor<T, B>> parameters() const { return {gate_.weight, gate_.log_tau}; }

 private:
  Tensor<T, B> W_, c_;
  GateOptions options_;
  ExpertStack<T, B> stack_;
  Gate<T, B> gate_;
};

}  // namespace mole
