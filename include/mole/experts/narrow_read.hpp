#pragma once
// What a gate of a rank reads of so many experts that it is far wider than the input that they make it of: in that
// input's width, and without it.
//
//   v     [x A_1^T, .., x A_n^T], what a gate reads of the mean input x [S, d] of n layers
//   K     sum of A_i^T A_i = L L^T [d, d], so that |x L| = |v|
//   P     sum of A_i^T U_i [d, m], so that x L (L^-1 P) = v U
//
// So softmax(unit(v) U V / tau) is the gate of x L with L^-1 P in the place of U.

#include <algorithm>
#include <cstddef>
#include <limits>
#include <utility>
#include <vector>

#include <mole/autodiff/record.hpp>
#include <mole/core/gemm.hpp>
#include <mole/experts/expert_stack.hpp>
#include <mole/experts/plan.hpp>
#include <mole/nn/host_matrix.hpp>
#include <mole/ops/matmul.hpp>

namespace mole {

namespace detail {

/// P = sum of A_i^T U_i.  A_i [R_i, d], frozen, U [sum of R_i, m], P [d, m]. Pullback of G: dU_i = A_i G.
template <class T, class B>
Tensor<T, B> product_over_layers(std::vector<Tensor<T, B>> A, const Tensor<T, B>& U) {
  const Index d = A.front().size(1), m = U.size(1);
  const auto P = Tensor<T, B>::empty({d, m});
  Index first = 0;
  for (const auto& own : A) {
    B::gemm(gemm_tn(d, m, own.size(0), first > 0 ? 1 : 0), own.data(), U.data() + first * m, P.data());
    first += own.size(0);
  }
  return record({U}, P, [A = std::move(A), U = U.place()](const auto& G) {
    const GradTarget target(U);
    const Index width = G.size(1);
    Index from = 0;
    for (const auto& own : A) {
      B::gemm(gemm_nn(own.size(0), width, own.size(1), target.beta), own.data(), G.data(),
              target.tensor.data() + from * width);
      from += own.size(0);
    }
    return target.tensor;
  });
}

/// The A of what a gate reads, in the order of its features; none where some of the experts are not the gate's.
template <class T, class B>
std::vector<Tensor<T, B>> read_layers(const SlotTable<T, B>& table, const PlacedGate<T, B>& placed,
                                      const std::vector<ExpertStack<T, B>>& stacks) {
  std::vector<Tensor<T, B>> A;
  for (const std::size_t slot : table.groups[placed.source].slots) {
    if (std::find(placed.reads.begin(), placed.reads.end(), slot) == placed.reads.end()) continue;
    for (const Index expert : stacks[slot].experts)
      if (!holds(placed.gate.experts, expert)) return {};
    A.push_back(stacks[slot].A);
  }
  return A;
}

/// Makes L and its inverse of the layers' A as they are now, in the memory that a gate has for them already. Returns what
/// is left of K's diagonal at least (cholesky()).
template <class T, class B>
double measure_layers(const std::vector<Tensor<T, B>>& A, PlacedGate<T, B>& placed) {
  const Index d = A.front().size(1);
  const auto K = Tensor<T, B>::empty({d, d});
  int add = 0;
  for (const auto& own : A) {
    B::gemm(gemm_tn(d, d, own.size(0), add), own.data(), own.data(), K.data());
    add = 1;
  }
  std::vector<double> L, inverse;
  for (const T value : K.to_host()) L.push_back(static_cast<double>(value));
  constexpr double rounding = std::numeric_limits<T>::epsilon();
  const double left = cholesky(L, d, static_cast<double>(d) * rounding, inverse);
  const auto put = [d](const std::vector<double>& values, Tensor<T, B>& to) {
    std::vector<T> narrow;
    for (const double value : values) narrow.push_back(static_cast<T>(value));
    if (!to.defined()) to = Tensor<T, B>::empty({d, d});
    B::upload(to.data(), narrow.data(), d * d);
  };
  put(L, placed.L);
  put(inverse, placed.inverse);
  return left;
}

/// Makes them where all experts that a gate of a rank reads are its own and have far more ranks than the input is wide.
/// K has the squares of A's numbers, and their roundings: where the experts are too much alike, v is read itself.
template <class T, class B>
void make_narrow(const SlotTable<T, B>& table, const std::vector<ExpertStack<T, B>>& stacks,
                 PlacedGate<T, B>& placed) {
  constexpr Index far = 4;
  constexpr double alike = 1e-4;
  if (!placed.gate.U.defined() || placed.gate.scale.defined() || placed.reads.empty() ||
      table.slots[placed.reads.front()].is_spatial())
    return;
  const auto A = read_layers(table, placed, stacks);
  if (A.empty() || placed.gate.U.size(0) < far * A.front().size(1)) return;
  if (measure_layers(A, placed) < alike) placed.L = placed.inverse = {};
}

/// Whether S rows take less work so than by v.
template <class T, class B>
bool narrow_pays(const PlacedGate<T, B>& placed, Index S) {
  if (!placed.L.defined()) return false;
  const Index d = placed.L.size(0), R = placed.gate.U.size(0), m = placed.gate.U.size(1);
  const double ranks = static_cast<double>(R), rows = static_cast<double>(S);
  const double by_v = rows * ranks * static_cast<double>(2 * d + 3 * m);
  const double here =
      2 * static_cast<double>(d) * (ranks * static_cast<double>(m) + rows * static_cast<double>(d + m));
  return 4 * here <= 3 * by_v;
}

/// The gate of x L.
template <class T, class B>
PlacedGate<T, B> narrow_gate(const SlotTable<T, B>& table, const std::vector<ExpertStack<T, B>>& stacks,
                             const PlacedGate<T, B>& placed) {
  PlacedGate<T, B> narrow;
  narrow.gate.U =
      matmul(placed.inverse, product_over_layers(read_layers(table, placed, stacks), placed.gate.U));
  narrow.gate.V = placed.gate.V;
  narrow.gate.log_tau = placed.gate.log_tau;
  narrow.gate.experts = std::vector<Index>(placed.gate.experts);
  return narrow;
}

}  // namespace detail

}  // namespace mole
