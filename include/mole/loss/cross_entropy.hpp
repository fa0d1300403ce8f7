#pragma once
// Cross entropy on rows of logits.

#include <algorithm>
#include <cmath>

#include <mole/ops/arithmetic.hpp>
#include <mole/ops/reduce.hpp>

namespace mole {

/// How cross_entropy counts.
struct CrossEntropyOptions {
  Index ignore_index = -100;   ///< rows with this label do not count; negative, so that it is no class
  double label_smoothing = 0;  ///< share of the target spread evenly over all classes, in [0, 1)
};

namespace detail {

/// loss[row] = ln sum exp x - (1 - s) x[label] - s mean(x) and counted[row] = 1, both 0 for ignored rows.
template <class T>
struct CrossEntropyRow {
  using C = Compute<T>;
  const T* x;
  const Index* label;
  C *loss, *counted;
  Index n, ignore;
  C smoothing;

  template <class Row>
  MOLE_HD void operator()(const Row& row) const {
    const T* const from = x + row.index() * n;
    const Index at = label[row.index()];
    C *const to = loss + row.index(), *const count = counted + row.index();
    if (at == ignore) {
      row.each(1, [=](Index) { *to = *count = C(0); });
      return;
    }
    const C top = row.max(n, [=](Index j) { return C(from[j]); });
    const C sum = row.sum(n, [=](Index j) { return exp(from[j] - top); });
    const C s = smoothing;
    const C spread =
        s == C(0) ? C(0) : s * row.sum(n, [=](Index j) { return from[j] - top; }) / static_cast<C>(n);
    const C value = std::log(sum) - (C(1) - s) * (from[at] - top) - spread;
    row.each(1, [=](Index) {
      *to = value;
      *count = C(1);
    });
  }
};

/// y = sum / count; 0 where nothing counts. totals = {sum, count}.
template <class T>
struct CountedMean {
  const Compute<T>* totals;
  T* y;
  MOLE_HD void operator()(Index) const {
    y[0] = totals[1] > Compute<T>(0) ? totals[0] / totals[1] : Compute<T>(0);
  }
};

/// dx = seed / count (p - (1 - s) 1[label] - s / n), 0 for ignored rows.
template <class T>
struct CrossEntropyPullbackRow {
  using C = Compute<T>;
  const T* x;
  const Index* label;
  const C* totals;
  const T* seed;
  T* dx;
  Index n, ignore;
  C smoothing;

  template <class Row>
  MOLE_HD void operator()(const Row& row) const {
    const T* const from = x + row.index() * n;
    T* const to = dx + row.index() * n;
    const Index at = label[row.index()];
    if (at == ignore) {
      row.each(n, [=](Index j) { to[j] = C(0); });
      return;
    }
    const C top = row.max(n, [=](Index j) { return C(from[j]); });
    const C sum = row.sum(n, [=](Index j) { return exp(from[j] - top); });
    const C s = smoothing, w = *seed / totals[1], even = s / static_cast<C>(n), inverse = C(1) / sum;
    row.each(
        n, [=](Index j) { to[j] = w * (exp(from[j] - top) * inverse - even - (j == at ? C(1) - s : C(0))); });
  }
};

}  // namespace detail

/// Token cross entropy, the mean over rows whose label is not ignored (0 if there is none):
///   loss = mean of ln sum exp x - (1 - s) x[label] - s mean(x),   s the label smoothing
/// x [.., n], labels [..], the result a scalar. The domain loss L_D of eq. 16 for FLAN-T5.
/// Pullback of G: dx = G (softmax(x) - (1 - s) 1[label] - s / n) / rows.
/// Throws ShapeError when labels do not fit or a label is outside [0, n), ArgumentError for options out of
/// range.
template <class T, class B>
Tensor<T, B> cross_entropy(const Tensor<T, B>& x, const Tensor<Index, B>& labels,
                           const CrossEntropyOptions& options = {}) {
  MOLE_CHECK_SHAPE(x.rank() == labels.rank() + 1 &&
                       std::equal(labels.shape().begin(), labels.shape().end(), x.shape().begin()),
                   "cross_entropy: expected logits [.., n] and labels [..], got", x.shape(), "and",
                   labels.shape());
  MOLE_CHECK_ARG(options.label_smoothing >= 0 && options.label_smoothing < 1,
                 "cross_entropy: expected label smoothing in [0, 1), got", options.label_smoothing);
  using C = Compute<T>;
  const Index n = x.size(-1), rows = labels.size(), ignore = options.ignore_index;
  labels.check_indices("cross_entropy: labels", n, ignore);
  const auto smoothing = static_cast<C>(options.label_smoothing);
  const auto per_row = Tensor<C, B>::empty({2, rows}), totals = Tensor<C, B>::empty({2});
  B::for_rows(rows, n,
              detail::CrossEntropyRow<T>{x.data(), labels.data(), per_row.data(), per_row.data() + rows, n,
                                         ignore, smoothing});
  B::reduce(Reduction::sum, 2, rows, 1, per_row.data(), totals.data());
  const auto y = Tensor<T, B>::empty({});
  B::for_each(1, detail::CountedMean<T>{totals.data(), y.data()});
  return record({x}, y, [x = x.detach(), labels, totals, n, ignore, smoothing](const auto& G) {
    const auto dx = Tensor<T, B>::empty(x.shape());
    B::for_rows(labels.size(), n,
                detail::CrossEntropyPullbackRow<T>{x.data(), labels.data(), totals.data(), G.data(),
                                                   dx.data(), n, ignore, smoothing});
    return dx;
  });
}

}  // namespace mole
