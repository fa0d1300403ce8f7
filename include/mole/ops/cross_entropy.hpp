#pragma once
// Losses on rows of logits and on values: cross entropy, mean squared error.

#include <algorithm>
#include <cmath>

#include <mole/ops/arithmetic.hpp>
#include <mole/ops/reduce.hpp>

namespace mole {

/// How cross_entropy counts.
struct CrossEntropyOptions {
  Index ignore_index = -100;   ///< rows with this label do not count
  double label_smoothing = 0;  ///< share of the target spread evenly over all classes, in [0, 1)
};

namespace detail {

/// loss[row] = ln sum exp x - (1 - s) x[label] - s mean(x), and the pullback dx = w (p - (1 - s) 1[label] -
/// s/n) when dx is given; both 0 for ignored rows.
template <class T>
struct CrossEntropyRow {
  const T* x;
  const Index* label;
  T *loss, *dx;
  Index n, ignore;
  T smoothing, weight;
  const T* seed;

  template <class Row>
  MOLE_HD void operator()(const Row& row) const {
    const T* const from = x + row.index() * n;
    const Index at = label[row.index()];
    if (at == ignore) {
      T* const to = dx ? dx + row.index() * n : loss + row.index();
      row.each(dx ? n : 1, [=](Index j) { to[j] = T(0); });
      return;
    }
    const T top = row.max(n, [=](Index j) { return from[j]; });
    const T sum = row.sum(n, [=](Index j) { return exp(from[j] - top); });
    const T s = smoothing;
    if (dx) {
      T* const to = dx + row.index() * n;
      const T w = weight * *seed, even = s / static_cast<T>(n), inverse = T(1) / sum;
      row.each(n, [=](Index j) {
        to[j] = w * (exp(from[j] - top) * inverse - even - (j == at ? T(1) - s : T(0)));
      });
    } else {
      const T spread =
          s == T(0) ? T(0) : s * row.sum(n, [=](Index j) { return from[j] - top; }) / static_cast<T>(n);
      const T value = std::log(sum) - (T(1) - s) * (from[at] - top) - spread;
      T* const total = loss + row.index();
      row.each(1, [=](Index) { *total = value; });
    }
  }
};

}  // namespace detail

/// Token cross entropy, the mean over rows whose label is not ignored (0 if there is none):
///   loss = mean of ln sum exp x - (1 - s) x[label] - s mean(x),   s the label smoothing
/// x [.., n], labels [..], the result a scalar. The domain loss L_D of eq. 16 for FLAN-T5.
/// Pullback of G: dx = G (softmax(x) - (1 - s) 1[label] - s / n) / rows.
/// Throws ShapeError when labels do not fit or a label is outside [0, n).
template <class T, class B>
Tensor<T, B> cross_entropy(const Tensor<T, B>& x, const Tensor<Index, B>& labels,
                           const CrossEntropyOptions& options = {}) {
  MOLE_CHECK_SHAPE(x.rank() == labels.rank() + 1 &&
                       std::equal(labels.shape().begin(), labels.shape().end(), x.shape().begin()),
                   "cross_entropy: expected logits [.., n] and labels [..], got", x.shape(), "and",
                   labels.shape());
  MOLE_CHECK_ARG(options.label_smoothing >= 0 && options.label_smoothing < 1,
                 "cross_entropy: expected label smoothing in [0, 1), got", options.label_smoothing);
  const Index n = x.size(-1);
  Index counted = 0;
  for (const Index label : labels.to_host()) {
    if (label == options.ignore_index) continue;
    MOLE_CHECK_SHAPE(label >= 0 && label < n, "cross_entropy: label", label, "is outside [0,", n, ")");
    ++counted;
  }
  const T weight = counted ? T(1) / static_cast<T>(counted) : T(0);
  const auto per_row = Tensor<T, B>::empty(labels.shape());
  detail::CrossEntropyRow<T> row{x.data(),
                                 labels.data(),
                                 per_row.data(),
                                 nullptr,
                                 n,
                                 options.ignore_index,
                                 static_cast<T>(options.label_smoothing),
                                 weight,
                                 nullptr};
  B::for_rows(labels.size(), n, row);
  const auto y = scale(sum(per_row), weight);
  return record({x}, y, [x = x.detach(), labels, row](const auto&, const auto& G) {
    const auto dx = Tensor<T, B>::empty(x.shape());
    auto slope = row;
    slope.loss = nullptr;
    slope.dx = dx.data();
    slope.seed = G.data();
    B::for_rows(labels.size(), x.size(-1), slope);
    return dx;
  });
}

/// Mean squared error, a scalar: mean((a - b)^2).  a, b broadcastable.
/// Pullback of G: da = 2 G (a - b) / n, db = -da.    Throws ShapeError.
template <class T, class B>
Tensor<T, B> mse(const Tensor<T, B>& a, const Tensor<T, B>& b) {
  const auto d = sub(a, b);
  return mean(mul(d, d));
}

}  // namespace mole
