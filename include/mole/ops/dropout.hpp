#pragma once
// Dropout.

#include <mole/autodiff/record.hpp>
#include <mole/core/random.hpp>

namespace mole {

namespace detail {

/// y = x / (1 - p) where number i of the stream is at least p, else 0.
template <class T>
struct DropoutEach {
  using C = Compute<T>;
  const T* x;
  T* y;
  RandomStream stream;
  double p;
  MOLE_HD void operator()(Index i) const {
    y[i] = uniform(stream, i) < p ? C(0) : x[i] / static_cast<C>(1 - p);
  }
};

}  // namespace detail

/// y = x / (1 - p) with probability 1 - p, else 0.  The choice is a function of the stream alone.
/// Pullback of G: the same choice applied to G.    Throws ArgumentError unless 0 <= p < 1.
template <class T, class B>
Tensor<T, B> dropout(const Tensor<T, B>& x, double p, RandomStream stream) {
  MOLE_CHECK_ARG(p >= 0 && p < 1, "dropout: expected a probability in [0, 1), got", p);
  if (p == 0) return x;
  const auto y = Tensor<T, B>::empty(x.shape());
  B::for_each(x.size(), detail::DropoutEach<T>{x.data(), y.data(), stream, p});
  return record({x}, y, [p, stream](const auto& G) { return dropout(G, p, stream); });
}

}  // namespace mole
