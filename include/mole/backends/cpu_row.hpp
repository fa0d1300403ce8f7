#pragma once
// One row, or some elements, on the CPU: one thread walks them in SIMD loops.

#include <mole/backends/cpu_exceptions.hpp>
#include <mole/core/omp.hpp>
#include <mole/core/scalar.hpp>
#include <mole/core/shape.hpp>

namespace mole::detail {

/// f(0) + .. + f(n - 1), with `combine` for + and `start` for 0: what combine() leaves as it is. Sixteen
/// interleaved partial results are combined in the end: vector registers hold them, every build adds in the
/// same order, and of n terms a result is rounded some n / 16 times, not n times.
template <class V, class F, class Combine>
V fold(Index n, V start, F f, Combine combine) {
  constexpr Index lanes = 16;
  V total = start;
  Index j = 0;
  if (n >= lanes) {
    V partial[lanes];
    for (Index k = 0; k < lanes; ++k) partial[k] = start;
    for (; j + lanes <= n; j += lanes) {
      MOLE_OMP("omp simd")
      for (Index k = 0; k < lanes; ++k) partial[k] = combine(partial[k], f(j + k));
    }
    for (Index half = lanes / 2; half > 0; half /= 2)
      for (Index k = 0; k < half; ++k) partial[k] = combine(partial[k], partial[k + half]);
    total = partial[0];
  }
  for (; j < n; ++j) total = combine(total, f(j));
  return total;
}

/// f(i), whose exception is kept: none may leave a loop that is SIMD, and clang takes no `try` inside of one.
template <class F>
void call_kept(const F& f, Index i, FirstException& thrown) noexcept {
  try {
    f(i);
  } catch (...) {
    thrown.keep();
  }
}

/// f(i) for i in [first, last). With f in a parameter of its own the loop becomes SIMD code, which it would not by the
/// reference that a parallel region has.
template <class F>
void each_of(const F f, Index first, Index last, FirstException& thrown) {
  MOLE_OMP("omp simd")
  for (Index i = first; i < last; ++i) call_kept(f, i, thrown);
}

/// One row of a row functor on the CPU: a single thread walks it, the loops are SIMD.
class CpuRow {
 public:
  explicit CpuRow(Index index) : index_(index) {}

  Index index() const { return index_; }

  template <class F>
  void each(Index n, F f) const {
    MOLE_OMP("omp simd")
    for (Index j = 0; j < n; ++j) f(j);
  }

  /// The sum of f(j); 0 for n = 0.
  template <class F>
  auto sum(Index n, F f) const {
    using V = decltype(f(Index{}));
    return fold(n, V(0), f, [](V a, V b) { return a + b; });
  }

  /// The largest f(j); minus infinity for n = 0.
  template <class F>
  auto max(Index n, F f) const {
    using V = decltype(f(Index{}));
    return fold(n, detail::minus_infinity<V>(), f, [](V a, V b) { return b > a ? b : a; });
  }

 private:
  Index index_;
};

/// to[r, j] = from[r, j] for j in [0, n), in the other type; the rows are *_step apart.
template <class To, class From>
struct ConvertRow {
  To* to;
  const From* from;
  Index n, to_step, from_step;

  void operator()(const CpuRow& row) const {
    To* const target = to + row.index() * to_step;
    const From* const source = from + row.index() * from_step;
    row.each(n, [=](Index j) { target[j] = static_cast<To>(source[j]); });
  }
};

}  // namespace mole::detail
