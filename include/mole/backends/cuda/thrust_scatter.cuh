#pragma once
// Rows added at an index, in a fixed order, by Thrust: sort the positions by the row they go to, find where
// each row's run begins, then let one thread an element add its run. Any Thrust system will do, so it is
// tested on the host too.

#include <thrust/binary_search.h>
#include <thrust/for_each.h>
#include <thrust/iterator/counting_iterator.h>
#include <thrust/sequence.h>
#include <thrust/sort.h>

#include <mole/core/scalar.hpp>
#include <mole/core/shape.hpp>

namespace mole::detail {

/// a < b. Not thrust::less, for which Thrust's CUDA sort goes by digits and ends in a copy: in a graph, a
/// copy node, whose source initcheck judges before the graph has written it.
struct ComesBefore {
  MOLE_HD bool operator()(Index a, Index b) const { return a < b; }
};

/// Element e = row * width + j of y: y += the sum of x[position, j] over the row's run.
template <class T>
struct AddRun {
  const Index *positions, *starts;
  Index width;
  const T* x;
  T* y;

  MOLE_HD void operator()(Index e) const {
    using C = Compute<T>;
    const Index row = e / width, j = e % width, first = starts[row], last = starts[row + 1];
    if (first == last) return;
    C total = static_cast<C>(y[e]);
    for (Index p = first; p < last; ++p) total += static_cast<C>(x[positions[p] * width + j]);
    y[e] = static_cast<T>(total);
  }
};

/// y[index[r], :] += x[r, :] for r in [0, rows); y [n, width]. `keys` [rows] holds the index and is sorted;
/// `positions` [rows] and `starts` [n + 1] are scratch. All in the memory of `policy`.
template <class Policy, class T>
void thrust_scatter_add(const Policy& policy, Index rows, Index n, Index width, Index* keys, Index* positions,
                        Index* starts, const T* x, T* y) {
  const thrust::counting_iterator<Index> zero(0);
  thrust::sequence(policy, positions, positions + rows);
  thrust::stable_sort_by_key(policy, keys, keys + rows, positions, ComesBefore());
  thrust::lower_bound(policy, keys, keys + rows, zero, zero + (n + 1), starts);
  thrust::for_each(policy, zero, zero + n * width, AddRun<T>{positions, starts, width, x, y});
}

}  // namespace mole::detail
