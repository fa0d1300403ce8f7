#pragma once
// Values cut to a range.

#include <mole/ops/activation.hpp>

namespace mole {

/// What clamp does with the gradient where it cuts.
enum class ClampGradient {
  cut,              ///< none, as the derivative says
  straight_through  ///< all of it, as if nothing were cut
};

namespace functor {

/// min(max(x, low), high), NaN kept. Slope 1 in [low, high], and outside if `straight`.
struct Clamp {
  static constexpr auto slope_reads = SlopeReads::x;
  double low, high;
  bool straight = false;
  template <class T>
  MOLE_HD T operator()(T x) const {
    return x < T(low) ? T(low) : x > T(high) ? T(high) : x;
  }
  template <class T>
  MOLE_HD T slope(T x, T) const {
    return straight || (x >= T(low) && x <= T(high)) ? T(1) : T(0);
  }
};

}  // namespace functor

/// y = min(max(x, low), high) elementwise.    Pullback of G: dx = G where low <= x <= high, else 0; with
/// straight_through dx = G everywhere.    Throws ArgumentError unless low <= high.
template <class T, class B>
Tensor<T, B> clamp(const Tensor<T, B>& x, double low, double high,
                   ClampGradient gradient = ClampGradient::cut) {
  MOLE_CHECK_ARG(low <= high, "clamp: expected a range, got", low, "to", high);
  return map(x, functor::Clamp{low, high, gradient == ClampGradient::straight_through});
}

}  // namespace mole
