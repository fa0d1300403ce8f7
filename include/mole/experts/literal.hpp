#pragma once
// MoLE by the letter: eq. 8-13 at full width, slow and plain. Tests and lessons compare the rank-space path
// with it.
//
//   E_i   the experts' outputs [S, L, d_out]                    eq. 8
//   v     their concatenation, (expert, token, feature)         eq. 9
//         unit(v) may be standardised: (unit(v) - mean) * factor
//   e     learnable [N d_out, N], or [N L d_out, N] for flatten eq. 10

#include <vector>

#include <mole/experts/gate.hpp>
#include <mole/nn/lora.hpp>
#include <mole/ops/norm.hpp>
#include <mole/ops/softmax.hpp>

namespace mole {

/// The mixture and the gate that made it.
template <class T, class B>
struct LiteralOutput {
  Tensor<T, B> y;     ///< [S, L, d_out]
  Tensor<T, B> gate;  ///< [S, N], or [S, L, N] for a token gate
};

/// y = x W^T + c + sum_i g_i E_i(x), g = softmax(unit(v) e / tau), everything as the paper writes it.
/// x [S, L, d_in], W [d_out, d_in], c [d_out] or undefined, tau [] (not its logarithm), mask [S, L] or
/// undefined, keep [N] or undefined (the second inference mode). With a scale, as wide as v, what it makes of unit(v)
/// takes its place.    Throws ShapeError.
template <class T, class B>
LiteralOutput<T, B> literal_mole(const Tensor<T, B>& x, const Tensor<T, B>& W, const Tensor<T, B>& c,
                                 const std::vector<LoraExpert<T, B>>& experts, const Tensor<T, B>& e,
                                 const Tensor<T, B>& tau, Pooling pooling,
                                 const std::type_identity_t<Tensor<T, B>>& mask = {},
                                 const std::type_identity_t<Tensor<T, B>>& keep = {},
                                 const std::type_identity_t<GateScale<T, B>>& scale = {}) {
  std::vector<Tensor<T, B>> E, inputs;
  for (const auto& expert : experts) {
    E.push_back(lora_output(x, expert));
    inputs.push_back(pool_tokens(E.back(), mask, pooling));
  }
  auto v = unit_rows(concat(inputs, -1));
  if (scale.defined()) v = mul(sub(v, scale.mean), scale.factor);
  const auto g = softmax(div(matmul(reshape(v, {-1, v.size(-1)}), e), tau), keep);
  const Index S = x.size(0), L = x.size(1), N = static_cast<Index>(experts.size());
  const bool per_token = pooling == Pooling::token;

  auto y = linear(x, W, c);
  for (Index i = 0; i < N; ++i) {
    const auto weight = reshape(slice(g, 1, i, i + 1), {S, per_token ? L : 1, 1});
    y = add(y, mul(weight, E[static_cast<std::size_t>(i)]));
  }
  return {y, per_token ? reshape(g, {S, L, N}) : g};
}

}  // namespace mole
