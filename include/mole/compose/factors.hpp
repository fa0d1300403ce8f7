#pragma once
// Compositions that need no more than sums of factors.
//
//   concatenate    A = [c_1 A_1; ..; c_N A_N], B = [B_1 .. B_N]: B A = sum_i c_i B_i A_i, exactly (eq. 1, 2)
//   mix_factors    A = sum_i u_i A_i, B = sum_i v_i B_i: what PEMs (Zhang et al., NeurIPS 2023, arXiv
//                  2306.14870) and LoRAHub (Huang et al., COLM 2024, arXiv 2307.13269) do with a module

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <vector>

#include <mole/compose/composition.hpp>

namespace mole {

/// The weighted sum sum_i w_i s_i B_i A_i as one LoRA whose rank is the sum of the ranks. Nothing is lost:
/// PEFT's "cat" is the same, while PEFT's "linear" weights A and B by themselves, which adds the cross terms
/// B_i A_j to the sum, and is not offered here.
/// A single expert keeps its A and B to the bit.    Throws ArgumentError for no experts.
inline LoraFactors concatenate(const SlotExperts& experts, const std::vector<double>& weights) {
  MOLE_CHECK_ARG(experts.size() > 0 && weights.size() == experts.size(),
                 "concatenate: expected one weight for each of", experts.size(), "experts, got",
                 weights.size());
  const auto& first = experts.lora.front();
  LoraFactors sum{0, first.d_in, first.d_out, first.scale * weights[0], {}, {}};
  bool alike = true;
  for (std::size_t i = 0; i < experts.size(); ++i) {
    sum.rank += experts.lora[i].rank;
    alike = alike && experts.lora[i].scale * weights[i] == sum.scale;
  }
  // One factor for all stays the scale, so that A is copied and not rounded.
  if (!alike) sum.scale = 1;
  sum.A.reserve(static_cast<std::size_t>(sum.rank * sum.d_in));
  for (std::size_t i = 0; i < experts.size(); ++i) {
    const double c = alike ? 1 : experts.lora[i].scale * weights[i];
    for (const double a : experts.lora[i].A) sum.A.push_back(c * a);
  }
  sum.B.reserve(static_cast<std::size_t>(sum.d_out * sum.rank));
  for (Index row = 0; row < sum.d_out; ++row)
    for (const auto& lora : experts.lora) {
      const auto begin = lora.B.begin() + row * lora.rank;
      sum.B.insert(sum.B.end(), begin, begin + lora.rank);
    }
  return sum;
}

/// Factors mixed by themselves: A = sum_i u_i A_i, B = sum_i v_i B_i, so that the change is s (sum v B)
/// (sum u A), cross terms included. Both methods speak of modules of one scale s, which the result keeps;
/// where scales differ, sqrt(s_i) goes into each factor of expert i, and the result's scale is 1.
/// Throws ArgumentError for differing ranks, or a negative scale where scales differ.
inline LoraFactors mix_factors(const SlotExperts& experts, const std::vector<double>& u,
                               const std::vector<double>& v) {
  MOLE_CHECK_ARG(experts.size() > 0 && u.size() == experts.size() && v.size() == experts.size(),
                 "mix_factors: expected one weight a factor for each of", experts.size(), "experts, got",
                 u.size(), "and", v.size());
  detail::check_equal_ranks("mix_factors", experts);
  const auto& first = experts.lora.front();
  const bool alike = std::all_of(experts.lora.begin(), experts.lora.end(),
                                 [&](const LoraFactors& lora) { return lora.scale == first.scale; });
  LoraFactors mixed{first.rank,
                    first.d_in,
                    first.d_out,
                    alike ? first.scale : 1.0,
                    std::vector<double>(first.A.size()),
                    std::vector<double>(first.B.size())};
  for (std::size_t i = 0; i < experts.size(); ++i) {
    const auto& lora = experts.lora[i];
    MOLE_CHECK_ARG(alike || lora.scale >= 0, "mix_factors: slot", experts.slot, "adapter", experts.names[i],
                   "has the negative scale", lora.scale, "and the scales differ");
    const double root = alike ? 1 : std::sqrt(lora.scale);
    for (std::size_t j = 0; j < mixed.A.size(); ++j) mixed.A[j] += u[i] * root * lora.A[j];
    for (std::size_t j = 0; j < mixed.B.size(); ++j) mixed.B[j] += v[i] * root * lora.B[j];
  }
  return mixed;
}

}  // namespace mole
