#pragma once
// Multi-head attention on projected queries, keys and values.

#include <algorithm>
#include <array>

#include <mole/autodiff/adjacent.hpp>
#include <mole/core/kernels/attention.hpp>
#include <mole/ops/softmax.hpp>

namespace mole {

/// What attention adds to the scores, and hides.
template <class T, class B>
struct AttentionOptions {
  Index heads = 1;
  Compute<T> scale = 1;        ///< factor of the scores; T5 has 1, others d^-0.5
  Tensor<T, B> bias = {};      ///< undefined or [heads, Lq, Lk], added to the scaled scores
  Tensor<T, B> key_mask = {};  ///< undefined or [S, Lk], 0 hides a key
  bool causal = false;         ///< query i sees keys up to i + Lk - Lq
  Index window = 0;            ///< with causal: only the last `window` of them, itself included; 0: all
};

namespace detail {

/// One row of scores [S, H, queries, Lk] in place: p = softmax(s + bias) over the visible keys. They are the rows of the
/// queries from `first` on, of `all_queries`.
template <class T>
struct AttentionRow {
  using C = Compute<T>;
  T* score;
  const T *bias, *key_mask;
  Index heads, queries, keys;
  bool causal;
  Index window, first, all_queries;

  template <class Row>
  MOLE_HD void operator()(const Row& row) const {
    const Index i = first + row.index() % queries, h = row.index() / queries % heads,
                s = row.index() / queries / heads;
    const Index end = causal ? i + keys - all_queries + 1 : keys;
    const Index begin = window > 0 && window < end ? end - window : 0, visible = end - begin;
    T *const all = score + row.index() * keys, *const p = all + begin;
    const T* const shift = bias ? bias + (h * all_queries + i) * keys + begin : nullptr;
    const T* const keep = key_mask ? key_mask + s * keys + begin : nullptr;
    const C lowest = detail::minus_infinity<C>();
    if (shift) row.each(visible, [=](Index j) { p[j] = p[j] + shift[j]; });
    if (keep) row.each(visible, [=](Index j) { p[j] = keep[j] != C(0) ? C(p[j]) : lowest; });
    const C top = row.max(visible, [=](Index j) { return C(p[j]); });
    const C base = top == lowest ? C(0) : top;
    row.each(visible, [=](Index j) { p[j] = exp(p[j] - base); });
    const C total = row.sum(visible, [=](Index j) { return C(p[j]); });
    const C inverse = total > C(0) ? C(1) / total : C(0);
    row.each(visible, [=](Index j) { p[j] = p[j] * inverse; });
    row.each(begin, [=](Index j) { all[j] = C(0); });
    row.each(keys - end, [=](Index j) { all[end + j] = C(0); });
  }
};

/// The gemm of one head for each sequence: a and b are read, c is written, as [S, rows, heads * width] where
/// `*_heads` is set and as [S, heads, rows, cols] otherwise. Of the queries of a sequence, `all_queries`, these are some
/// that follow one another.
struct HeadGemm {
  Index sequences, heads, queries, keys, width, all_queries;

  /// scores [S, H, Lq, Lk] = scale * q k^T
  Gemm scores(double scale) const {
    Gemm g{.transpose_b = true, .m = queries, .n = keys, .k = width, .alpha = scale};
    return with(g, {model(), all_queries * model(), width}, {model(), keys * model(), width}, grid());
  }
  /// y [S, Lq, H d] = scale * p v, p [S, H, Lq, Lk]
  Gemm rows(double scale) const {
    Gemm g{.m = queries, .n = width, .k = keys, .alpha = scale};
    return with(g, grid(), {model(), keys * model(), width}, {model(), all_queries * model(), width});
  }
  /// y [S, Lk, H d] = scale * p^T q + beta * y
  Gemm columns(double scale, double beta = 0) const {
    Gemm g{.transpose_a = true, .m = keys, .n = width, .k = queries, .alpha = scale, .beta = beta};
    return with(g, grid(), {model(), all_queries * model(), width}, {model(), keys * model(), width});
  }

 private:
  struct Strides {
    Index row, sequence, head;
  };
  Index model() const { return heads * width; }
  Strides grid() const { return {keys, heads * queries * keys, queries * keys}; }
  Gemm with(Gemm g, Strides a, Strides b, Strides c) const {
    g.lda = a.row, g.ldb = b.row, g.ldc = c.row;
    g.batch[0] = sequences, g.batch[1] = heads;
    g.a_stride[0] = a.sequence, g.a_stride[1] = a.head;
    g.b_stride[0] = b.sequence, g.b_stride[1] = b.head;
    g.c_stride[0] = c.sequence, g.c_stride[1] = c.head;
    return g;
  }
};

/// The gradients of q, k, v and bias by the backend's kernel. The first three are adjacent, as those of the
/// layers that made q, k and v can use.
template <class T, class B>
std::array<Tensor<T, B>, 4> attention_pullback(const Tensor<T, B>& q, const Tensor<T, B>& k,
                                               const Tensor<T, B>& v, const Tensor<T, B>& bias,
                                               const AttentionForward<T>& forward, const Tensor<T, B>& G) {
  AttentionBackward<T> backward{forward, G.data(), nullptr, nullptr, nullptr, nullptr};
  std::array<Tensor<T, B>, 4> gradients;
  const auto qkv = empty_adjacent<T, B>({q.shape(), k.shape(), v.shape()});
  auto wanted = [&](std::size_t i, const Tensor<T, B>& x, T*& pointer) {
    if (!x.requires_grad()) return;
    gradients[i] = i < qkv.size() ? qkv[i] : Tensor<T, B>::empty(x.shape());
    pointer = gradients[i].data();
  };
  wanted(0, q, backward.dq);
  wanted(1, k, backward.dk);
  wanted(2, v, backward.dv);
  wanted(3, bias, backward.dbias);
  B::attention_backward(backward);
  return gradients;
}

/// Scores above which attention goes by blocks of queries, and those of a block.
inline constexpr Index most_scores = Index{1} << 24, scores_of_block = Index{1} << 22;

/// attention() without the scores of all queries in memory, here or on the tape: those of a block at a time, which the
/// pullback computes again. The bias has no gradient.
template <class T, class B>
class BlockedAttention {
 public:
  /// `block` queries at a time, at least 1.
  BlockedAttention(const Tensor<T, B>& q, const Tensor<T, B>& k, const Tensor<T, B>& v,
                   const AttentionOptions<T, B>& options, Index window, Index block)
      : q_(q.detach()), k_(k.detach()), v_(v.detach()), options_(options), window_(window), block_(block) {
    if (options_.bias.defined()) options_.bias = options_.bias.detach();
    H_ = options.heads, S_ = q.size(0), Lq_ = q.size(1), Lk_ = k.size(1), d_ = q.size(2) / H_;
  }

  Tensor<T, B> forward() const {
    const auto y = Tensor<T, B>::empty(q_.shape());
    each_block([&](const HeadGemm& head, const Tensor<T, B>& p, Index at) {
      B::gemm(head.rows(1), p.data(), v_.data(), y.data() + at);
    });
    return y;
  }

  std::array<Tensor<T, B>, 4> pullback(const Tensor<T, B>& G, bool of_q, bool of_k, bool of_v) const {
    Tensor<T, B> dq, dk, dv;
    if (of_q) dq = Tensor<T, B>::empty(q_.shape());
    if (of_k) dk = Tensor<T, B>::empty(k_.shape());
    if (of_v) dv = Tensor<T, B>::empty(v_.shape());
    const auto scale = static_cast<double>(options_.scale);
    each_block([&](const HeadGemm& head, const Tensor<T, B>& p, Index at) {
      const double beta = at == 0 ? 0 : 1;
      if (of_v) B::gemm(head.columns(1, beta), p.data(), G.data() + at, dv.data());
      if (!of_q && !of_k) return;
      const auto ds = Tensor<T, B>::empty(p.shape());
      B::gemm(head.scores(1), G.data() + at, v_.data(), ds.data());
      B::for_rows(p.size() / Lk_, Lk_, SoftmaxPullbackRow<T>{p.data(), ds.data(), ds.data(), Lk_, 1});
      if (of_q) B::gemm(head.rows(scale), ds.data(), k_.data(), dq.data() + at);
      if (of_k) B::gemm(head.columns(scale, beta), ds.data(), q_.data() + at, dk.data());
    });
    return {dq, dk, dv, {}};
  }

 private:
  /// f(head, p, at) for each block: its products, its softmax, and where its first query lies in q.
  template <class F>
  void each_block(F f) const {
    const T* const mask = options_.key_mask.defined() ? options_.key_mask.data() : nullptr;
    const T* const bias = options_.bias.defined() ? options_.bias.data() : nullptr;
    for (Index first = 0; first < Lq_; first += block_) {
      const Index count = std::min(block_, Lq_ - first), at = first * H_ * d_;
      const HeadGemm head{S_, H_, count, Lk_, d_, Lq_};
      const auto p = Tensor<T, B>::empty({S_, H_, count, Lk_});
      B::gemm(head.scores(static_cast<double>(options_.scale)), q_.data() + at, k_.data(), p.data());
      B::for_rows(
          p.size() / Lk_, Lk_,
          AttentionRow<T>{p.data(), bias, mask, H_, count, Lk_, options_.causal, window_, first, Lq_});
      f(head, p, at);
    }
  }

  Tensor<T, B> q_, k_, v_;
  AttentionOptions<T, B> options_;
  Index window_, block_, S_, H_, Lq_, Lk_, d_;
};

}  // namespace detail

/// y = softmax(scale q k^T + bias, hidden keys left out) v, head by head.
/// q [S, Lq, H d], k and v [S, Lk, H d], y [S, Lq, H d]; options say bias [H, Lq, Lk], masks and a window. A
/// query that sees no key gets 0. Where there are very many scores, they are not kept: the pullback computes them again.
/// Pullback of G, p the softmax: dv = p^T G, dp = G v^T, ds = p (dp - <p, dp>), dq = scale ds k,
/// dk = scale ds^T q, dbias = sum of ds over S.    Throws ShapeError.
template <class T, class B>
Tensor<T, B> attention(const Tensor<T, B>& q, const Tensor<T, B>& k, const Tensor<T, B>& v,
                       const AttentionOptions<T, B>& options) {
  MOLE_CHECK_SHAPE(q.rank() == 3 && k.rank() == 3 && k.shape() == v.shape() && q.size(0) == k.size(0) &&
                       q.size(2) == k.size(2) && options.heads > 0 && q.size(2) % options.heads == 0,
                   "attention: expected q [S, Lq, H d], k and v [S, Lk, H d] with H =", options.heads, "got",
                   q.shape(), k.shape(), v.shape());
  const Index S = q.size(0), Lq = q.size(1), Lk = k.size(1), H = options.heads, d = q.size(2) / H;
  const auto& bias = options.bias;
  MOLE_CHECK_SHAPE(!bias.defined() || bias.shape() == Shape({H, Lq, Lk}),
                   "attention: expected a bias of shape", Shape({H, Lq, Lk}), "got",
                   bias.defined() ? bias.shape() : Shape{});
  MOLE_CHECK_SHAPE(!options.key_mask.defined() || options.key_mask.shape() == Shape({S, Lk}),
                   "attention: expected a key mask of shape", Shape({S, Lk}));
  MOLE_CHECK_SHAPE(!options.causal || Lk >= Lq,
                   "attention: causal needs at least as many keys as queries, got", Lk, "and", Lq);
  MOLE_CHECK_ARG(options.window == 0 || (options.window > 0 && options.causal),
                 "attention: a window is a number of tokens in causal attention, got", options.window);
  // The kernels know no window; one that hides nothing is none.
  const Index window = options.window < Lk ? options.window : 0;
  const T* const mask = options.key_mask.defined() ? options.key_mask.data() : nullptr;
  const T* const shift = bias.defined() ? bias.data() : nullptr;
  if constexpr (detail::has_attention_kernels<T, B>) {
    const auto y = Tensor<T, B>::empty(q.shape());
    const auto log_sum = Tensor<Compute<T>, B>::empty({S, H, Lq});
    const AttentionForward<T> forward{
        q.data(), k.data(), v.data(), shift, mask, y.data(),      log_sum.data(),
        S,        H,        Lq,       Lk,    d,    options.scale, options.causal};
    if (window == 0 && B::attention_forward(forward))
      return record({q, k, v, bias}, y,
                    // Its own value, log_sum and the mask are captured for the pointers to them in `forward`.
                    [q, k, v, bias, key_mask = options.key_mask, value = y.detach(), log_sum, forward](
                        const auto& G) { return detail::attention_pullback(q, k, v, bias, forward, G); });
  }
  if (S * H * Lq * Lk >= detail::most_scores && !bias.requires_grad()) {
    const detail::BlockedAttention<T, B> blocks(
        q, k, v, options, window, std::clamp<Index>(detail::scores_of_block / (S * H * Lk), 1, Lq));
    const bool of_q = q.requires_grad(), of_k = k.requires_grad(), of_v = v.requires_grad();
    return record({q, k, v, bias}, blocks.forward(),
                  [=](const auto& G) { return blocks.pullback(G, of_q, of_k, of_v); });
  }
  const detail::HeadGemm head{S, H, Lq, Lk, d, Lq};
  const auto p = Tensor<T, B>::empty({S, H, Lq, Lk});
  B::gemm(head.scores(static_cast<double>(options.scale)), q.data(), k.data(), p.data());
  B::for_rows(S * H * Lq, Lk,
              detail::AttentionRow<T>{p.data(), shift, mask, H, Lq, Lk, options.causal, window, 0, Lq});
  const auto y = Tensor<T, B>::empty(q.shape());
  B::gemm(head.rows(1), p.data(), v.data(), y.data());

  return record({q, k, v, bias}, y,
                [q, k, v, bias = bias.place(), p, head, scale = options.scale](const auto& G) {
                  Tensor<T, B> dq, dk, dv, dbias;
                  if (v.requires_grad()) {
                    dv = Tensor<T, B>::empty(v.shape());
                    B::gemm(head.columns(1), p.data(), G.data(), dv.data());
                  }
                  if (!q.requires_grad() && !k.requires_grad() && !bias.requires_grad())
                    return std::array{dq, dk, dv, dbias};
                  const auto ds = Tensor<T, B>::empty(p.shape());
                  B::gemm(head.scores(1), G.data(), v.data(), ds.data());
                  B::for_rows(head.sequences * head.heads * head.queries, head.keys,
                              detail::SoftmaxPullbackRow<T>{p.data(), ds.data(), ds.data(), head.keys, 1});
                  if (q.requires_grad()) {
                    dq = Tensor<T, B>::empty(q.shape());
                    B::gemm(head.rows(static_cast<double>(scale)), ds.data(), k.data(), dq.data());
                  }
                  if (k.requires_grad()) {
                    dk = Tensor<T, B>::empty(k.shape());
                    B::gemm(head.columns(static_cast<double>(scale)), ds.data(), q.data(), dk.data());
                  }
                  if (bias.requires_grad()) {
                    dbias = Tensor<T, B>::empty(bias.shape());
                    B::reduce(Reduction::sum, 1, head.sequences, bias.size(), ds.data(), dbias.data());
                  }
                  return std::array{dq, dk, dv, dbias};
                });
}

}  // namespace mole
