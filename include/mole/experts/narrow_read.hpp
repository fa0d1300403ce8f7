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
#include <vector>

#include <mole/core/gemm.hpp>
#include <mole/experts/expert_stack.hpp>
#include <mole/experts/plan.hpp>
#include <mole/nn/host_matrix.hpp>
#include <mole/ops/arithmetic.hpp>
#include <mole/ops/matmul.hpp>
#include <mole/ops/shape.hpp>

namespace mole {

namespace detail {

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
  Tensor<T, B> P;
  Index first = 0;
  for (const auto& A : read_layers(table, placed, stacks)) {
    const auto part = matmul(A, slice(placed.gate.U, 0, first, first + A.size(0)), Transpose::yes);
    P = P.defined() ? P + part : part;
    first += A.size(0);
  }
  auto narrow = placed;
  narrow.gate.U = matmul(placed.inverse, P);
  return narrow;
}

}  // namespace detail

}  // namespace mole
