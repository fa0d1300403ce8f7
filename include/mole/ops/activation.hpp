#pragma once
// Elementwise functions of one tensor. Each is a functor: the value, and the slope at x given the value.

#include <cmath>
#include <numbers>

#include <mole/autodiff/adjacent.hpp>

namespace mole {

/// Which of its arguments the slope(x, y) of a functor reads: map() keeps that for the pullback, and gives it for both.
enum class SlopeReads { both, x, y };

namespace detail {

/// What a functor's slope reads. One that says nothing reads both.
template <class F>
constexpr SlopeReads slope_reads() {
  if constexpr (requires { F::slope_reads; })
    return F::slope_reads;
  else
    return SlopeReads::both;
}

/// dx = G f'(x), from (x, y, G).
template <class F>
struct SlopeTimes {
  F f;
  template <class T>
  MOLE_HD T operator()(T x, T y, T g) const {
    return g * f.slope(x, y);
  }
};

/// y = f(a) b.
template <class F>
struct GluValue {
  F f;
  template <class T>
  MOLE_HD T operator()(T a, T b) const {
    return f(a) * b;
  }
};

/// da = G b f'(a), db = G f(a).
template <class F, class T>
struct GluPullback {
  F f;
  const T *a, *b, *G;
  T *da, *db;
  MOLE_HD void operator()(Index i) const {
    const Compute<T> x = a[i], g = G[i], y = f(x);
    da[i] = static_cast<T>(g * Compute<T>(b[i]) * f.slope(x, y));
    db[i] = static_cast<T>(g * y);
  }
};

}  // namespace detail

/// y = f(x) elementwise for a functor with `T operator()(T x)` and `T slope(T x, T y)` = dy/dx. One whose slope reads x
/// or y alone may say so by `static constexpr SlopeReads slope_reads`; the other is not kept then.
/// Pullback of G: dx = G f.slope(x, y).
template <class F, class T, class B>
Tensor<T, B> map(const Tensor<T, B>& x, F f) {
  const auto y = Tensor<T, B>::empty(x.shape());
  transform<B>(x.size(), f, y.data(), x.data());
  constexpr auto reads = detail::slope_reads<F>();
  const auto kept_x = reads == SlopeReads::y ? y.detach() : x.detach();
  const auto kept_y = reads == SlopeReads::x ? kept_x : y.detach();
  return record({x}, y, [kept_x, kept_y, f](const auto& G) {
    const auto dx = Tensor<T, B>::empty(G.shape());
    transform<B>(G.size(), detail::SlopeTimes<F>{f}, dx.data(), kept_x.data(), kept_y.data(), G.data());
    return dx;
  });
}

/// y = f(a) b elementwise, a gated linear unit (Shazeer 2020); f as in map.    a, b and y of one shape
/// Pullback of G: da = G b f.slope(a, f(a)), db = G f(a).    Throws ShapeError.
template <class F, class T, class B>
Tensor<T, B> glu(const Tensor<T, B>& a, const Tensor<T, B>& b, F f) {
  MOLE_CHECK_SHAPE(a.shape() == b.shape(), "glu: expected a and b of one shape, got", a.shape(), "and",
                   b.shape());
  const auto y = Tensor<T, B>::empty(a.shape());
  transform<B>(a.size(), detail::GluValue<F>{f}, y.data(), a.data(), b.data());
  return record({a, b}, y, [a = a.detach(), b = b.detach(), f](const auto& G) {
    const auto gradients = empty_adjacent<T, B>({a.shape(), b.shape()});
    B::for_each(a.size(), detail::GluPullback<F, T>{f, a.data(), b.data(), G.data(), gradients[0].data(),
                                                    gradients[1].data()});
    return gradients;
  });
}

namespace functor {

/// max(x, 0), NaN kept; slope 0 at the kink.
struct Relu {
  static constexpr auto slope_reads = SlopeReads::y;
  template <class T>
  MOLE_HD T operator()(T x) const {
    return is_nan(x) || !(x < T(0)) ? x : T(0);
  }
  template <class T>
  MOLE_HD T slope(T, T y) const {
    return y > T(0) ? T(1) : T(0);
  }
};

/// x Phi(x), Phi the normal distribution function.
struct Gelu {
  static constexpr auto slope_reads = SlopeReads::x;
  template <class T>
  MOLE_HD T operator()(T x) const {
    return x * normal_cdf(x);
  }
  template <class T>
  MOLE_HD T slope(T x, T) const {
    const T density = exp(T(-0.5) * x * x) * T(std::numbers::inv_sqrtpi / std::numbers::sqrt2);
    return normal_cdf(x) + x * density;
  }
};

/// x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))), the "gelu_new" of T5 v1.1.
struct GeluTanh {
  static constexpr auto slope_reads = SlopeReads::x;
  static constexpr double k = std::numbers::sqrt2 * std::numbers::inv_sqrtpi;
  template <class T>
  MOLE_HD T operator()(T x) const {
    return T(0.5) * x * (T(1) + tanh(T(k) * (x + T(0.044715) * x * x * x)));
  }
  template <class T>
  MOLE_HD T slope(T x, T) const {
    const T t = tanh(T(k) * (x + T(0.044715) * x * x * x));
    return T(0.5) * (T(1) + t) + T(0.5) * x * (T(1) - t * t) * T(k) * (T(1) + T(3 * 0.044715) * x * x);
  }
};

/// x sigmoid(s x): SiLU for s = 1, CLIP's quick GELU for s = 1.702.
struct Swish {
  static constexpr auto slope_reads = SlopeReads::x;
  double s = 1;
  template <class T>
  MOLE_HD T operator()(T x) const {
    return x * sigmoid(T(s) * x);
  }
  template <class T>
  MOLE_HD T slope(T x, T) const {
    const T p = sigmoid(T(s) * x);
    return p + T(s) * x * p * (T(1) - p);
  }
};

/// 1 / (1 + e^-x).
struct Sigmoid {
  static constexpr auto slope_reads = SlopeReads::y;
  template <class T>
  MOLE_HD T operator()(T x) const {
    return sigmoid(x);
  }
  template <class T>
  MOLE_HD T slope(T, T y) const {
    return y * (T(1) - y);
  }
};

struct Tanh {
  static constexpr auto slope_reads = SlopeReads::y;
  template <class T>
  MOLE_HD T operator()(T x) const {
    return tanh(x);
  }
  template <class T>
  MOLE_HD T slope(T, T y) const {
    return T(1) - y * y;
  }
};

struct Exp {
  static constexpr auto slope_reads = SlopeReads::y;
  template <class T>
  MOLE_HD T operator()(T x) const {
    return exp(x);
  }
  template <class T>
  MOLE_HD T slope(T, T y) const {
    return y;
  }
};

struct Log {
  static constexpr auto slope_reads = SlopeReads::x;
  template <class T>
  MOLE_HD T operator()(T x) const {
    return std::log(x);
  }
  template <class T>
  MOLE_HD T slope(T x, T) const {
    return T(1) / x;
  }
};

struct Square {
  static constexpr auto slope_reads = SlopeReads::x;
  template <class T>
  MOLE_HD T operator()(T x) const {
    return x * x;
  }
  template <class T>
  MOLE_HD T slope(T x, T) const {
    return T(2) * x;
  }
};

/// |x|, slope 0 at the kink.
struct Magnitude {
  static constexpr auto slope_reads = SlopeReads::x;
  template <class T>
  MOLE_HD T operator()(T x) const {
    return x < T(0) ? -x : x;
  }
  template <class T>
  MOLE_HD T slope(T x, T) const {
    return x < T(0) ? T(-1) : x > T(0) ? T(1) : T(0);
  }
};

}  // namespace functor

/// y = max(x, 0).    Pullback of G: dx = G where x > 0, else 0.
template <class T, class B>
Tensor<T, B> relu(const Tensor<T, B>& x) {
  return map(x, functor::Relu{});
}
/// y = x Phi(x).    Pullback of G: dx = G (Phi(x) + x phi(x)).
template <class T, class B>
Tensor<T, B> gelu(const Tensor<T, B>& x) {
  return map(x, functor::Gelu{});
}
/// y = x/2 (1 + tanh u), u = sqrt(2/pi) (x + 0.044715 x^3): "gelu_new".
/// Pullback of G: dx = G/2 (1 + tanh u + x (1 - tanh^2 u) u').
template <class T, class B>
Tensor<T, B> gelu_tanh(const Tensor<T, B>& x) {
  return map(x, functor::GeluTanh{});
}
/// y = x sigmoid(x).    Pullback of G: dx = G (p + x p (1 - p)), p = sigmoid(x).
template <class T, class B>
Tensor<T, B> silu(const Tensor<T, B>& x) {
  return map(x, functor::Swish{1.0});
}
/// y = x sigmoid(1.702 x), CLIP's activation.    Pullback as silu's, with the factor 1.702.
template <class T, class B>
Tensor<T, B> quick_gelu(const Tensor<T, B>& x) {
  return map(x, functor::Swish{1.702});
}
/// y = 1 / (1 + e^-x).    Pullback of G: dx = G y (1 - y).
template <class T, class B>
Tensor<T, B> sigmoid(const Tensor<T, B>& x) {
  return map(x, functor::Sigmoid{});
}
/// y = tanh x.    Pullback of G: dx = G (1 - y^2).
template <class T, class B>
Tensor<T, B> tanh(const Tensor<T, B>& x) {
  return map(x, functor::Tanh{});
}
/// y = e^x.    Pullback of G: dx = G y.
template <class T, class B>
Tensor<T, B> exp(const Tensor<T, B>& x) {
  return map(x, functor::Exp{});
}
/// y = ln x; NaN for negative x.    Pullback of G: dx = G / x.
template <class T, class B>
Tensor<T, B> log(const Tensor<T, B>& x) {
  return map(x, functor::Log{});
}
/// y = x^2.    Pullback of G: dx = 2 G x.
template <class T, class B>
Tensor<T, B> square(const Tensor<T, B>& x) {
  return map(x, functor::Square{});
}

}  // namespace mole
