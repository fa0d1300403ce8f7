#pragma once
// What a causal model is taught to say at each token: the label of the next one.

#include <vector>

#include <mole/autodiff/tensor.hpp>
#include <mole/core/graph.hpp>

namespace mole {

namespace detail {

struct NextLabelEach {
  const Index* labels;
  Index* next;
  Index length, ignore;

  MOLE_HD void operator()(Index i) const { next[i] = (i + 1) % length == 0 ? ignore : labels[i + 1]; }
};

}  // namespace detail

/// next[s, t] = labels[s, t + 1], `ignore` at the end. A row's first label never counts. No gradient.
/// labels [S, L], each in [0, vocabulary) or `ignore` < 0.    Throws ShapeError for another label.
template <class B>
Tensor<Index, B> next_labels(const Tensor<Index, B>& labels, Index vocabulary, Index ignore = -100) {
  MOLE_CHECK_SHAPE(labels.rank() == 2, "next_labels: expected labels [S, L], got", labels.shape());
  labels.check_indices("next_labels: labels", vocabulary, ignore);
  const detail::NextLabelEach each{nullptr, nullptr, labels.size(1), ignore};
  if (detail::is_capturing<B>()) {
    const auto next = Tensor<Index, B>::empty(labels.shape());
    auto there = each;
    there.labels = labels.data();
    there.next = next.data();
    B::for_each(labels.size(), there);
    next.set_index_bound(vocabulary, ignore);
    return next;
  }
  // On the host, so that the labels are known there.
  const auto values = labels.to_host();
  std::vector<Index> next(values.size());
  auto here = each;
  here.labels = values.data();
  here.next = next.data();
  for (Index i = 0; i < labels.size(); ++i) here(i);
  return Tensor<Index, B>::from(labels.shape(), next);
}

}  // namespace mole
