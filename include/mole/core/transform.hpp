#pragma once
// Elementwise maps over raw pointers, built on a backend's for_each. The functors are structs, not lambdas:
// a device compiler accepts them anywhere.

#include <mole/core/scalar.hpp>
#include <mole/core/shape.hpp>

namespace mole {

namespace functor {

template <class T>
struct Constant {
  T value;
  MOLE_HD T operator()() const { return value; }
};
/// Its operand: what is left to do is the conversion from one scalar type to another.
struct Identity {
  template <class T>
  MOLE_HD T operator()(T a) const {
    return a;
  }
};
struct Add {
  template <class T>
  MOLE_HD T operator()(T a, T b) const {
    return a + b;
  }
};
struct Subtract {
  template <class T>
  MOLE_HD T operator()(T a, T b) const {
    return a - b;
  }
};
struct Multiply {
  template <class T>
  MOLE_HD T operator()(T a, T b) const {
    return a * b;
  }
};
struct Divide {
  template <class T>
  MOLE_HD T operator()(T a, T b) const {
    return a / b;
  }
};
/// factor * a + offset.
template <class T>
struct Affine {
  T factor, offset;
  MOLE_HD T operator()(T a) const { return factor * a + offset; }
};

}  // namespace functor

namespace detail {

template <class F, class T>
struct Map0 {
  F f;
  T* y;
  MOLE_HD void operator()(Index i) const { y[i] = static_cast<T>(f()); }
};
template <class F, class T, class U>
struct Map1 {
  F f;
  T* y;
  const U* a;
  MOLE_HD void operator()(Index i) const { y[i] = static_cast<T>(f(Compute<U>(a[i]))); }
};
template <class F, class T, class U, class V>
struct Map2 {
  F f;
  T* y;
  const U* a;
  const V* b;
  MOLE_HD void operator()(Index i) const { y[i] = static_cast<T>(f(Compute<U>(a[i]), Compute<V>(b[i]))); }
};
template <class F, class T, class U, class V, class W>
struct Map3 {
  F f;
  T* y;
  const U* a;
  const V* b;
  const W* c;
  MOLE_HD void operator()(Index i) const {
    y[i] = static_cast<T>(f(Compute<U>(a[i]), Compute<V>(b[i]), Compute<W>(c[i])));
  }
};

/// Two row functors, one after the other.
template <class First, class Second>
struct InTurn {
  First first;
  Second second;
  template <class Row>
  MOLE_HD void operator()(const Row& row) const {
    first(row);
    second(row);
  }
};

/// One row functor of several. A later one may read what an earlier one wrote to the row in each().
template <class F>
F in_turn(F f) {
  return f;
}
template <class First, class... Rest>
auto in_turn(First first, Rest... rest) {
  auto second = in_turn(rest...);
  return InTurn<First, decltype(second)>{first, second};
}

}  // namespace detail

/// y[i] = f(), f(a[i]), f(a[i], b[i]) or f(a[i], b[i], c[i]) for i in [0, n) on backend B. f sees and gives
/// Compute values: float where bf16 or half is stored. y may be an operand.
template <class B, class F, class T>
void transform(Index n, F f, T* y) {
  B::for_each(n, detail::Map0<F, T>{f, y});
}
template <class B, class F, class T, class U>
void transform(Index n, F f, T* y, const U* a) {
  B::for_each(n, detail::Map1<F, T, U>{f, y, a});
}
template <class B, class F, class T, class U, class V>
void transform(Index n, F f, T* y, const U* a, const V* b) {
  B::for_each(n, detail::Map2<F, T, U, V>{f, y, a, b});
}
template <class B, class F, class T, class U, class V, class W>
void transform(Index n, F f, T* y, const U* a, const V* b, const W* c) {
  B::for_each(n, detail::Map3<F, T, U, V, W>{f, y, a, b, c});
}

}  // namespace mole
