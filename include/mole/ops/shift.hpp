#pragma once
// What a decoder reads when it is taught: its labels, one place later.

#include <mole/autodiff/tensor.hpp>

namespace mole {

/// The decoder's input for some labels.
template <class T, class B>
struct ShiftedLabels {
  Tensor<Index, B> ids;  ///< [S, Lt]
  Tensor<T, B> mask;     ///< [S, Lt]: 1 where the label counts, else 0
};

namespace detail {

template <class T>
struct ShiftEach {
  const Index* labels;
  Index* ids;
  T* mask;
  Index length, start, pad, ignore;

  MOLE_HD void operator()(Index i) const {
    const Index before = i % length == 0 ? start : labels[i - 1];
    ids[i] = before == ignore ? pad : before;
    mask[i] = labels[i] == ignore ? T(0) : T(1);
  }
};

}  // namespace detail

/// ids[s, 0] = start, ids[s, t] = labels[s, t - 1], pad where that is `ignore`; mask = labels != ignore.
/// labels [S, Lt], each in [0, vocabulary) or `ignore` < 0. No gradient.    Throws ShapeError for another
/// label.
template <class T, class B>
ShiftedLabels<T, B> shift_right(const Tensor<Index, B>& labels, Index vocabulary, Index start, Index pad,
                                Index ignore = -100) {
  MOLE_CHECK_SHAPE(labels.rank() == 2, "shift_right: expected labels [S, Lt], got", labels.shape());
  labels.check_indices("shift_right: labels", vocabulary, ignore);
  ShiftedLabels<T, B> result{Tensor<Index, B>::empty(labels.shape()), Tensor<T, B>::empty(labels.shape())};
  B::for_each(labels.size(), detail::ShiftEach<T>{labels.data(), result.ids.data(), result.mask.data(),
                                                  labels.size(1), start, pad, ignore});
  if (start >= 0 && start < vocabulary && pad >= 0 && pad < vocabulary)
    result.ids.set_index_bound(vocabulary);
  return result;
}

}  // namespace mole
