#pragma once
// A standardised input folded into the gate's weights: with z = (u - mean) * factor,
//
//   z F = u F' + b      F' = factor F [features, N]     b = -mean F' [N]
//   dF = factor (dF' - mean db)
//
// so that nothing as long as the batch is made, and the kernels change by one constant for each expert.

#include <algorithm>

#include <mole/autodiff/record.hpp>
#include <mole/experts/gate_scale.hpp>

namespace mole::detail {

/// F' = factor F, a feature a row. `step` is 0 where one factor does for all.
template <class T>
struct FoldRow {
  const T *F, *factor;
  T* to;
  Index experts, step;

  template <class Row>
  MOLE_HD void operator()(const Row& row) const {
    const T* const from = F + row.index() * experts;
    T* const y = to + row.index() * experts;
    const Compute<T> s = factor[row.index() * step];
    row.each(experts, [=](Index i) { y[i] = T(s * Compute<T>(from[i])); });
  }
};

/// b = -mean F', an expert a row.
template <class T>
struct FoldBiasRow {
  const T *F, *mean;
  Compute<T>* bias;
  Index features, experts;

  template <class Row>
  MOLE_HD void operator()(const Row& row) const {
    using C = Compute<T>;
    const T *const column = features > 0 ? F + row.index() : F, *const m = mean;
    const Index step = experts;
    C* const to = bias + row.index();
    const C total = row.sum(features, [=](Index j) { return C(m[j]) * C(column[j * step]); });
    row.each(1, [=](Index) { *to = -total; });
  }
};

/// db (+)= the sum over rows of dz, an expert a row, from dz / |v| and |v|.
template <class T>
struct BiasGradientRow {
  const T* scaled;
  const Compute<T>* norm;
  Compute<T>* dbias;
  Index rows, experts;
  bool add;

  template <class Row>
  MOLE_HD void operator()(const Row& row) const {
    using C = Compute<T>;
    const T* const column = rows > 0 ? scaled + row.index() : scaled;
    const C* const size = norm;
    const Index step = experts;
    C* const to = dbias + row.index();
    const bool sums_up = add;
    const C total = row.sum(rows, [=](Index r) { return C(column[r * step]) * size[r]; });
    row.each(1, [=](Index) { *to = sums_up ? *to + total : total; });
  }
};

/// dF (+)= factor (dF' - mean db), a feature a row.
template <class T>
struct UnfoldRow {
  const T *folded, *mean, *factor;
  const Compute<T>* dbias;
  T* dF;
  Index experts, step;
  bool add;

  template <class Row>
  MOLE_HD void operator()(const Row& row) const {
    using C = Compute<T>;
    const T* const from = folded + row.index() * experts;
    T* const to = dF + row.index() * experts;
    const C s = factor[row.index() * step], m = mean[row.index()];
    const C* const db = dbias;
    if (add)
      row.each(experts, [=](Index i) { to[i] = T(C(to[i]) + s * (C(from[i]) - m * db[i])); });
    else
      row.each(experts, [=](Index i) { to[i] = T(s * (C(from[i]) - m * db[i])); });
  }
};

/// The elements from one feature's factor to the next one's.
template <class T, class B>
Index factor_step(const GateScale<T, B>& scale) {
  return scale.factor.size() == 1 ? 0 : 1;
}

/// A gate's weights with its scale folded in.
template <class T, class B>
struct FoldedGate {
  Tensor<T, B> F;              ///< [features, N]; the gate's own where there is no scale
  Tensor<Compute<T>, B> bias;  ///< [N], or undefined: 0

  FoldedGate() = default;
  FoldedGate(const Tensor<T, B>& weight, const GateScale<T, B>& scale) : F(weight.detach()) {
    if (!scale.defined()) return;
    const Index features = weight.size(0), N = weight.size(1);
    F = Tensor<T, B>::empty(weight.shape());
    bias = Tensor<Compute<T>, B>::empty({N});
    B::for_rows(features, N, FoldRow<T>{weight.data(), scale.factor.data(), F.data(), N, factor_step(scale)});
    B::for_rows(N, features, FoldBiasRow<T>{F.data(), scale.mean.data(), bias.data(), features, N});
  }

  const Compute<T>* bias_data() const { return bias.defined() ? bias.data() : nullptr; }

  /// F where the product with it must be made row by row in float, else null. u F' and b nearly cancel: of a product that
  /// was rounded to bf16 before b joins it, little but its rounding would be left.
  const T* in_rows() const { return Narrow<T> && bias.defined() ? F.data() : nullptr; }
};

/// Where a pullback leaves the gradient of F: in F's own, added or not; or with a scale, in those of F' and b.
template <class T, class B>
class FoldedTarget {
 public:
  FoldedTarget() = default;
  FoldedTarget(const Tensor<T, B>& F, const GateScale<T, B>& scale) : scale_(scale) {
    if (!F.requires_grad()) return;
    const GradTarget target(F);
    own_ = dF = target.tensor;
    add_own_ = add = target.beta == 1;
    if (!scale.defined()) return;
    dF = Tensor<T, B>::empty(F.shape());
    dbias = Tensor<Compute<T>, B>::empty({F.size(1)});
    add = false;
  }

  bool wanted() const { return own_.defined(); }
  T* data() const { return dF.defined() ? dF.data() : nullptr; }
  Compute<T>* bias_data() const { return dbias.defined() ? dbias.data() : nullptr; }

  /// db from rows of dz / |v|; nothing without a scale.
  void add_bias(Index rows, const T* scaled, const Compute<T>* norm, bool to_sum) const {
    if (!dbias.defined()) return;
    const Index N = dbias.size();
    B::for_rows(N, rows, BiasGradientRow<T>{scaled, norm, dbias.data(), rows, N, to_sum});
  }

  /// The gradient of F, once all is there; undefined where it is not wanted.
  Tensor<T, B> gradient() const {
    if (dbias.defined())
      B::for_rows(dF.size(0), dF.size(1),
                  UnfoldRow<T>{dF.data(), scale_.mean.data(), scale_.factor.data(), dbias.data(), own_.data(),
                               dF.size(1), factor_step(scale_), add_own_});
    return own_;
  }

  Tensor<T, B> dF;              ///< [features, N]
  Tensor<Compute<T>, B> dbias;  ///< [N]
  bool add = false;             ///< whether dF is added to

 private:
  GateScale<T, B> scale_;
  Tensor<T, B> own_;
  bool add_own_ = false;
};

/// Throws ShapeError, naming the op, unless a scale fits F [features, N].
template <class T, class B>
void check_scale(const char* op, const Tensor<T, B>& F, const GateScale<T, B>& scale) {
  if (!scale.defined()) return;
  MOLE_CHECK_SHAPE(scale.factor.defined() && scale.mean.shape() == Shape{F.size(0)} &&
                       (scale.factor.shape() == scale.mean.shape() || scale.factor.size() == 1),
                   op, ": expected a scale of", Shape{F.size(0)}, "got a mean", scale.mean.shape());
}

}  // namespace mole::detail
