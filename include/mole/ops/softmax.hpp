#pragma once
// Softmax and log-softmax over the last axis, with masks.

#include <mole/ops/detail/broadcast.hpp>

namespace mole {

namespace detail {

/// y = softmax(scale x) or log-softmax over the columns whose mask is not 0. A masked column gets
/// probability 0 (log: minus infinity); so does every column of a row that is masked whole.
template <class T>
struct SoftmaxRow {
  using C = Compute<T>;
  const T* x;
  const T* mask;  ///< null, or a 0/1 array shaped like x
  T* y;
  Index n;
  C scale;
  bool logarithm;

  template <class Row>
  MOLE_HD void operator()(const Row& row) const {
    const T* const from = x + row.index() * n;
    const T* const keep = mask ? mask + row.index() * n : nullptr;
    const C s = scale, lowest = detail::minus_infinity<C>();
    const C top = row.max(n, [=](Index j) { return keep && keep[j] == C(0) ? lowest : s * from[j]; });
    const C base = top == lowest ? C(0) : top;
    write(row, [=](Index j) { return keep && keep[j] == C(0) ? lowest : s * from[j] - base; });
  }

  /// The row from its logits, whose largest is 0.
  template <class Row, class Logit>
  MOLE_HD void write(const Row& row, Logit logit) const {
    T* const to = y + row.index() * n;
    if (logarithm) {
      const C total = row.sum(n, [=](Index j) { return exp(logit(j)); });
      const C log_sum = total == C(0) ? C(0) : std::log(total);
      row.each(n, [=](Index j) { to[j] = logit(j) - log_sum; });
    } else {
      // The exponentials are stored on the way: their sum is that of what is scaled next.
      row.each(n, [=](Index j) { to[j] = exp(logit(j)); });
      const C total = row.sum(n, [=](Index j) { return C(to[j]); });
      const C inverse = total == C(0) ? C(0) : C(1) / total;
      row.each(n, [=](Index j) { to[j] = to[j] * inverse; });
    }
  }
};

/// dx = scale y (G - <y, G>).
template <class T>
struct SoftmaxPullbackRow {
  using C = Compute<T>;
  const T *y, *g;
  T* dx;
  Index n;
  C scale;

  template <class Row>
  MOLE_HD void operator()(const Row& row) const {
    const T *const p = y + row.index() * n, *const G = g + row.index() * n;
    T* const to = dx + row.index() * n;
    const C s = scale, dot = row.sum(n, [=](Index j) { return p[j] * G[j]; });
    row.each(n, [=](Index j) { to[j] = s * p[j] * (G[j] - dot); });
  }
};

/// dx = G - exp(y) sum(G).
template <class T>
struct LogSoftmaxPullbackRow {
  using C = Compute<T>;
  const T *y, *g;
  T* dx;
  Index n;

  template <class Row>
  MOLE_HD void operator()(const Row& row) const {
    const T *const log_p = y + row.index() * n, *const G = g + row.index() * n;
    T* const to = dx + row.index() * n;
    const C lowest = detail::minus_infinity<C>();
    const C total = row.sum(n, [=](Index j) { return log_p[j] == lowest ? C(0) : C(G[j]); });
    row.each(n, [=](Index j) { to[j] = log_p[j] == lowest ? C(0) : G[j] - exp(C(log_p[j])) * total; });
  }
};

template <class T, class B>
Tensor<T, B> forward_softmax(const char* op, const Tensor<T, B>& x, const Tensor<T, B>& mask,
                             bool logarithm) {
  MOLE_CHECK_SHAPE(x.rank() >= 1, op, ": expected [.., n], got", x.shape());
  Tensor<T, B> keep;
  if (mask.defined()) {
    MOLE_CHECK_SHAPE(broadcast_shape(op, x.shape(), mask.shape()) == x.shape(), op, ": mask", mask.shape(),
                     "does not broadcast to", x.shape());
    keep = mask.shape() == x.shape()
               ? mask
               : map_broadcast(op, Tensor<T, B>::ones(x.shape()), mask.detach(), functor::Multiply{});
  }
  const Index n = x.size(-1), rows = x.shape().size(0, x.rank() - 1);
  const auto y = Tensor<T, B>::empty(x.shape());
  B::for_rows(rows, n,
              SoftmaxRow<T>{x.data(), keep.defined() ? keep.data() : nullptr, y.data(), n, 1, logarithm});
  return y;
}

}  // namespace detail

/// y = softmax(x) over the last axis.  x, y [.., n]; mask undefined or broadcastable to x, 0 = masked: those
/// elements get 0, and a row that is masked whole is all 0.
/// Pullback of G: dx = y (G - <y, G>).    Throws ShapeError for a scalar or a mask that does not fit.
template <class T, class B>
Tensor<T, B> softmax(const Tensor<T, B>& x, const Tensor<T, B>& mask = {}) {
  return record({x}, detail::forward_softmax("softmax", x, mask, false), [](const auto& y, const auto& G) {
    const auto dx = Tensor<T, B>::empty(y.shape());
    const Index n = y.size(-1), rows = y.shape().size(0, y.rank() - 1);
    B::for_rows(rows, n, detail::SoftmaxPullbackRow<T>{y.data(), G.data(), dx.data(), n, 1});
    return dx;
  });
}

/// y = x - ln sum exp x over the last axis.  Shapes and mask as in softmax; masked elements are -infinity.
/// Pullback of G: dx = G - e^y sum(G), 0 at masked elements.    Throws as softmax.
template <class T, class B>
Tensor<T, B> log_softmax(const Tensor<T, B>& x, const Tensor<T, B>& mask = {}) {
  return record({x}, detail::forward_softmax("log_softmax", x, mask, true), [](const auto& y, const auto& G) {
    const auto dx = Tensor<T, B>::empty(y.shape());
    const Index n = y.size(-1), rows = y.shape().size(0, y.rank() - 1);
    B::for_rows(rows, n, detail::LogSoftmaxPullbackRow<T>{y.data(), G.data(), dx.data(), n});
    return dx;
  });
}

}  // namespace mole
