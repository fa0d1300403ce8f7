#pragma once
// Mixing only the experts that top-k left to each sequence. Which they are is known to the device alone:
// their factors are gathered there, into one stack a sequence.
//
//   A_s, Q_s^T   the blocks of the k experts of sequence s, k r rows each
//   y_s = x_s W^T + c + (g_s * (x_s A_s^T)) Q_s^T          eq. 12-13 over k experts

#include <algorithm>
#include <type_traits>
#include <vector>

#include <mole/experts/expert_stack.hpp>
#include <mole/experts/ops/chosen_mixture.hpp>
#include <mole/ops/activation.hpp>
#include <mole/ops/gather.hpp>
#include <mole/ops/top_k.hpp>

namespace mole {

namespace detail {

/// Row r of y [.., n] is column r of x, whose rows are `stride` long.
template <class T>
struct ColumnRow {
  const T* x;
  T* y;
  Index stride, n;

  template <class Row>
  MOLE_HD void operator()(const Row& row) const {
    const T* const from = x + row.index();
    T* const to = y + row.index() * n;
    const Index step = stride;
    row.each(n, [=](Index j) { to[j] = from[j * step]; });
  }
};

}  // namespace detail

/// A layer's experts as blocks of one size, one for each of the gate's columns, for a choice of k.
template <class T, class B>
struct ExpertBlocks {
  Tensor<T, B> A;          ///< [N, r d_in]: A' of each, with rows of zeros up to the largest rank r
  Tensor<T, B> Q;          ///< [N, r d_out]: Q^T likewise; zeros where the layer lacks the expert
  Tensor<Index, B> place;  ///< [k r]: which of the chosen each rank belongs to
  Index all_ranks = 0;     ///< R, those of all experts of the layer

  bool defined() const { return A.defined(); }

  /// Whether to mix the chosen alone for S sequences of L tokens. Gathering the factors of each sequence pays
  /// if many tokens read them, or if they are few: a quarter of the layer's, or all together no more than it
  /// has. Measured on a CPU, 128 experts of rank 8: 0.06 of the time of mixing all for k = 2, 0.4 for 32, 0.9
  /// for 64; for 64 with 16 tokens or fewer it would be 1.6 and more.
  bool pay(Index S, Index L) const {
    constexpr Index many_tokens = 32;
    return defined() && (L >= many_tokens || std::min<Index>(S, 4) * place.size() <= all_ranks);
  }
};

/// The k experts of each sequence.
template <class T, class B>
struct ChosenExperts {
  Tensor<T, B> all;          ///< [S, N]: the weights of all, which they were chosen by
  Tensor<Index, B> columns;  ///< [S, k]: theirs among the gate's
  Tensor<T, B> weights;      ///< [S, k]: their weights
  std::vector<Index>
      listed;  ///< [S, k]: the columns on the host, where experts are pages; see listed_columns()

  /// k
  Index size() const { return columns.size(-1); }
};

/// The largest rank of a layer's experts.
template <class T, class B>
Index largest_rank(const ExpertStack<T, B>& stack) {
  Index largest = 0, first = 0;
  for (const Index end : stack.ends) {
    largest = std::max(largest, end - first);
    first = end;
  }
  return largest;
}

/// Whether k experts, at the largest rank, have at most half of the layer's ranks.
template <class T, class B>
bool leaves_few(const ExpertStack<T, B>& stack, Index k) {
  return k > 0 && 2 * k * largest_rank(stack) <= stack.rank();
}

/// Copies part k of a stack, of the gate's column `column`, into its block: once again after replace_part().
template <class T, class B>
void copy_block(const ExpertStack<T, B>& stack, std::size_t k, Index column,
                const ExpertBlocks<T, B>& blocks) {
  const Index first = begin_of(stack, k), n = stack.ends[k] - first, d_in = stack.A.size(1),
              d_out = stack.Q.size(0), r = blocks.A.size(1) / std::max<Index>(d_in, 1);
  const Index block = column * r;
  if (blocks.A.buffer() != stack.A.buffer())
    B::copy(blocks.A.data() + block * d_in, stack.A.data() + first * d_in, n * d_in);
  B::for_rows(
      n, d_out,
      detail::ColumnRow<T>{stack.Q.data() + first, blocks.Q.data() + block * d_out, stack.rank(), d_out});
}

/// The blocks of a stack for a gate of n_experts columns of which k are chosen.    Shares the stack's memory
/// where its experts have one rank and none is absent; Q is a copy.
template <class T, class B>
ExpertBlocks<T, B> make_blocks(const ExpertStack<T, B>& stack, Index n_experts, Index k) {
  const Index r = largest_rank(stack), R = stack.rank(), d_in = stack.A.size(1), d_out = stack.Q.size(0);
  const bool alike = n_experts * r == R;
  std::vector<Index> place;
  for (Index j = 0; j < k * r; ++j) place.push_back(j / r);
  const ExpertBlocks<T, B> blocks{alike ? Tensor<T, B>(Shape{n_experts, r * d_in}, stack.A.buffer())
                                        : Tensor<T, B>::zeros({n_experts, r * d_in}),
                                  Tensor<T, B>::zeros({n_experts, r * d_out}),
                                  Tensor<Index, B>::from({k * r}, place), R};
  const auto columns = stack.column.to_host();
  for (std::size_t part = 0; part < stack.ends.size(); ++part)
    copy_block(stack, part, columns[static_cast<std::size_t>(begin_of(stack, part))], blocks);
  return blocks;
}

/// The k experts of the largest weights of each sequence.  g [S, N], of which no more than k a row are not 0.
/// Pullback of the chosen weights: that of take(); the choice is a constant.
/// Throws ArgumentError unless 1 <= k <= N.
template <class T, class B>
ChosenExperts<T, B> choose_experts(const Tensor<T, B>& g, Index k) {
  // X-LoRA's scalings may be negative; those left out are 0.
  const auto columns = top_k_indices(map(g.detach(), functor::Magnitude{}), k);
  return {g, columns, take(g, columns), {}};
}

/// The mixture over the chosen experts alone: y [S, L, d_out] of x [S, L, d_in], W [d_out, d_in] and c
/// [d_out] or undefined. Equal to mixture() with the weights of all, if the chosen are all that are not 0.
/// Pullback: that of chosen_mixture.    Throws ShapeError.
template <class T, class B>
Tensor<T, B> mix_chosen(const Tensor<T, B>& x, const std::type_identity_t<FrozenWeight<T, B>>& W,
                        const Tensor<T, B>& c, const ExpertBlocks<T, B>& blocks,
                        const ChosenExperts<T, B>& chosen) {
  return chosen_mixture(x, W, c, blocks.A, blocks.Q, chosen.columns, chosen.weights, blocks.place);
}

}  // namespace mole
