#pragma once
// Matrix products: batched matmul with transposes, and the linear map of a layer.

#include <array>

#include <mole/core/gemm.hpp>
#include <mole/ops/detail/broadcast.hpp>

namespace mole {

/// Whether matmul reads an operand transposed in its last two axes.
enum class Transpose : bool { no = false, yes = true };

/// y = op(a) op(b) over the last two axes.  op(a) [.., m, k], op(b) [.., k, n], y [.., m, n]. The leading
/// axes are equal, or one operand has none and is shared by the batch. Pullback of G, untransposed: da = G
/// b^T, db = a^T G, summed over the batch for a shared operand. Throws ShapeError when inner extents or
/// batches differ.
template <class T, class B>
Tensor<T, B> matmul(const Tensor<T, B>& a, const Tensor<T, B>& b, Transpose ta = Transpose::no,
                    Transpose tb = Transpose::no) {
  MOLE_CHECK_SHAPE(a.rank() >= 2 && b.rank() >= 2, "matmul: expected matrices, got", a.shape(), "and",
                   b.shape());
  const bool at = ta == Transpose::yes, bt = tb == Transpose::yes;
  const Index m = a.size(at ? -1 : -2), k = a.size(at ? -2 : -1), n = b.size(bt ? -2 : -1);
  MOLE_CHECK_SHAPE(b.size(bt ? -1 : -2) == k, "matmul: inner extents differ:", a.shape(),
                   at ? "(transposed)" : "", "and", b.shape(), bt ? "(transposed)" : "");
  const Shape &leading = a.rank() > 2 ? a.shape() : b.shape(), &other = b.rank() > 2 ? b.shape() : a.shape();
  bool same = leading.rank() == other.rank();
  for (int i = 0; same && i < leading.rank() - 2; ++i) same = leading[i] == other[i];
  MOLE_CHECK_SHAPE(same, "matmul: batches differ:", a.shape(), "and", b.shape());
  Shape shape;
  for (int i = 0; i < leading.rank() - 2; ++i) shape.push_back(leading[i]);
  const Index batch = shape.size();
  shape.push_back(m);
  shape.push_back(n);

  const Gemm one{.transpose_a = at,
                 .transpose_b = bt,
                 .m = m,
                 .n = n,
                 .k = k,
                 .lda = a.size(-1),
                 .ldb = b.size(-1),
                 .ldc = n};
  const Gemm spec = detail::batched(one, batch, a.rank() > 2 ? m * k : 0, b.rank() > 2 ? k * n : 0, m * n);
  const auto y = Tensor<T, B>::empty(shape);
  B::gemm(spec, a.data(), b.data(), y.data());

  const auto kept_a = b.requires_grad() ? a : a.place(), kept_b = a.requires_grad() ? b : b.place();
  return record({a, b}, y, [a = kept_a, b = kept_b, ta, tb, at, bt](const auto& G) {
    auto flip = [](bool transposed) { return transposed ? Transpose::no : Transpose::yes; };
    Tensor<T, B> da, db;
    if (a.requires_grad())
      da = at ? matmul(b.detach(), G, tb, Transpose::yes) : matmul(G, b.detach(), Transpose::no, flip(bt));
    if (b.requires_grad())
      db = bt ? matmul(G, a.detach(), Transpose::yes, ta) : matmul(a.detach(), G, flip(at), Transpose::no);
    auto shared = [](const auto& g, const auto& x) { return g.defined() ? detail::sum_to(g, x.shape()) : g; };
    return std::array{shared(da, a), shared(db, b)};
  });
}

/// y = x W^T + c, the layer of eq. 1.  x [.., d_in], W [d_out, d_in], c [d_out] or undefined, y [.., d_out].
/// Pullback of G: dx = G W, dW = G^T x, dc = sum of G over all but the last axis.
/// Throws ShapeError when d_in or d_out differ.
template <class T, class B>
Tensor<T, B> linear(const Tensor<T, B>& x, const Tensor<T, B>& W, const Tensor<T, B>& c = {}) {
  MOLE_CHECK_SHAPE(x.rank() >= 1 && W.rank() == 2 && x.size(-1) == W.size(1),
                   "linear: expected x [.., d_in] and W "
                   "[d_out, d_in], got",
                   x.shape(), "and", W.shape());
  const Index d_in = W.size(1), d_out = W.size(0), tokens = x.shape().size(0, x.rank() - 1);
  MOLE_CHECK_SHAPE(!c.defined() || c.shape() == Shape{d_out}, "linear: expected a bias of shape",
                   Shape{d_out}, "got", c.defined() ? c.shape() : Shape{});
  const auto y = Tensor<T, B>::empty(x.shape().with(-1, d_out));
  if (c.defined()) B::for_rows(tokens, d_out, detail::RepeatRow<T>{y.data(), c.data(), d_out});
  B::gemm(detail::gemm_nt(tokens, d_out, d_in, c.defined() ? 1 : 0), x.data(), W.data(), y.data());
  const auto kept_x = W.requires_grad() ? x : x.place();
  return record({x, W, c}, y, [x = kept_x, W, c, tokens, d_in, d_out](const auto& G) {
    Tensor<T, B> dx, dW, dc;
    if (x.requires_grad()) {
      const GradTarget target(x);
      dx = target.tensor;
      B::gemm(detail::gemm_nn(tokens, d_in, d_out, target.beta), G.data(), W.data(), dx.data());
    }
    if (W.requires_grad()) {
      const GradTarget target(W);
      dW = target.tensor;
      B::gemm(detail::gemm_tn(d_out, d_in, tokens, target.beta), G.data(), x.data(), dW.data());
    }
    if (c.requires_grad()) dc = detail::sum_to(G, c.shape());
    return std::array{dx, dW, dc};
  });
}

}  // namespace mole
