#pragma once
// The experts of one layer side by side, in canonical form.

#include <algorithm>
#include <cstddef>
#include <string>
#include <utility>
#include <vector>

#include <mole/autodiff/adjacent.hpp>
#include <mole/nn/lora.hpp>
#include <mole/ops/shape.hpp>

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

/// Stacks experts for a gate over `gate_experts`: `parts` has the factors of each of `experts`, the model's numbers,
/// ascending; `names` those of all the model's adapters, for messages. Throws ShapeError when an expert's layer has
/// other extents, ArgumentError for an empty list or an expert the gate does not hold, NumericError, naming adapter and
/// slot, for factors that are not finite, or are not once scaled.
template <class T, class B>
ExpertStack<T, B> stack_experts(const std::vector<Index>& experts, const std::vector<LoraFactors>& parts,
                                const std::vector<Index>& gate_experts, const std::string& slot = "layer",
                                const std::vector<std::string>& names = {}) {
  MOLE_CHECK_ARG(!parts.empty(), "stack_experts:", slot, "has no expert");
  MOLE_CHECK_ARG(parts.size() == experts.size(), "stack_experts:", slot, "has", experts.size(),
                 "experts and the factors of", parts.size());
  const Index d_in = parts.front().d_in, d_out = parts.front().d_out;
  Index R = 0;
  for (std::size_t i = 0; i < parts.size(); ++i) {
    const auto& factors = parts[i];
    MOLE_CHECK_SHAPE(factors.d_in == d_in && factors.d_out == d_out, "stack_experts:", slot, "is", d_out, "x",
                     d_in, "for its first expert but", factors.d_out, "x", factors.d_in, "for expert",
                     experts[i]);
    detail::check_factors("canonical", factors);
    R += std::min(factors.rank, d_out);
  }
  ExpertStack<T, B> stack;
  std::vector<T> A, Q(static_cast<std::size_t>(d_out * R));
  std::vector<Index> columns;
  Index first = 0;
  for (std::size_t i = 0; i < parts.size(); ++i) {
    const auto at = std::find(gate_experts.begin(), gate_experts.end(), experts[i]);
    MOLE_CHECK_ARG(at != gate_experts.end(), "stack_experts: the gate of", slot, "does not hold expert",
                   experts[i]);
    const auto c = detail::canonical_in<T>(
        names.empty() ? std::to_string(experts[i]) : names[static_cast<std::size_t>(experts[i])], slot,
        parts[i]);
    for (const double value : c.A) A.push_back(static_cast<T>(value));
    for (Index k = 0; k < c.rank; ++k) columns.push_back(static_cast<Index>(at - gate_experts.begin()));
    for (Index o = 0; o < d_out; ++o)
      for (Index k = 0; k < c.rank; ++k)
        Q[static_cast<std::size_t>(o * R + first + k)] =
            static_cast<T>(c.Q[static_cast<std::size_t>(o * c.rank + k)]);
    stack.experts.push_back(experts[i]);
    stack.ends.push_back(first += c.rank);
  }
  stack.A = Tensor<T, B>::from({R, d_in}, A);
  stack.Q = Tensor<T, B>::from({d_out, R}, Q);
  stack.column = Tensor<Index, B>::from({R}, columns);
  return stack;
}

/// Where part k of a stack begins.
template <class T, class B>
Index begin_of(const ExpertStack<T, B>& stack, std::size_t k) {
  return k ? stack.ends[k - 1] : 0;
}

/// Part k of a stack becomes another expert, in the same memory; ranks that it lacks are zeros.
/// Throws ShapeError unless it has the extents of the layer and no more ranks than the part.
template <class T, class B>
void replace_part(const ExpertStack<T, B>& stack, std::size_t k, const CanonicalExpert& expert) {
  const Index first = begin_of(stack, k), n = stack.ends[k] - first, d_in = stack.A.size(1),
              d_out = stack.Q.size(0);
  MOLE_CHECK_SHAPE(expert.d_in == d_in && expert.d_out == d_out && expert.rank <= n, "replace_part: rank",
                   expert.rank, "of", expert.d_out, "x", expert.d_in, "does not fit into rank", n, "of",
                   d_out, "x", d_in);
  std::vector<T> A(static_cast<std::size_t>(n * d_in)), Q(static_cast<std::size_t>(d_out * n));
  for (std::size_t i = 0; i < expert.A.size(); ++i) A[i] = static_cast<T>(expert.A[i]);
  for (Index o = 0; o < d_out; ++o)
    for (Index j = 0; j < expert.rank; ++j)
      Q[static_cast<std::size_t>(o * n + j)] =
          static_cast<T>(expert.Q[static_cast<std::size_t>(o * expert.rank + j)]);
  B::upload(stack.A.data() + first * d_in, A.data(), n * d_in);
  const auto columns = Tensor<T, B>::from({d_out, n}, Q);
  B::for_rows(d_out, n, detail::CopyRow<T>{columns.data(), stack.Q.data() + first, n, n, stack.rank()});
}

/// Moves the A of some layers side by side, and their Q, so that one product can take them all.
template <class T, class B>
void make_adjacent(const std::vector<ExpertStack<T, B>*>& stacks) {
  std::vector<Tensor<T, B>> A, Q;
  for (const auto* stack : stacks) {
    A.push_back(stack->A);
    Q.push_back(stack->Q);
  }
  A = copy_adjacent(A);
  Q = copy_adjacent(Q);
  for (std::size_t i = 0; i < stacks.size(); ++i) {
    stacks[i]->A = A[i];
    stacks[i]->Q = Q[i];
  }
}

namespace detail {

/// Whether a gate holds an expert.
inline bool holds(const std::vector<Index>& experts, Index expert) {
  return std::binary_search(experts.begin(), experts.end(), expert);
}

/// The columns of h [.., R] that belong to the gate's experts, in runs as long as possible.
template <class T, class B>
void append_columns(std::vector<Tensor<T, B>>& inputs, const Tensor<T, B>& h, const ExpertStack<T, B>& stack,
                    const std::vector<Index>& experts) {
  for (std::size_t first = 0; first < stack.experts.size();) {
    std::size_t last = first;
    while (last < stack.experts.size() && holds(experts, stack.experts[last])) ++last;
    if (last == first) {
      ++first;
      continue;
    }
    const Index begin = begin_of(stack, first), end = stack.ends[last - 1];
    inputs.push_back(begin == 0 && end == stack.rank() ? h : slice(h, -1, begin, end));
    first = last;
  }
}

}  // namespace detail

}  // namespace mole
