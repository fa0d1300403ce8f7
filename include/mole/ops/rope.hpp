#pragma once
// Rotary positions (Su et al. 2021): pairs of numbers of a query or key, turned by an angle that grows with the
// token's position. The product of a turned query and a turned key depends on their distance alone.

#include <cmath>

#include <mole/autodiff/record.hpp>

namespace mole {

/// The turns of each token: cosines and sines of its angles.
template <class T, class B>
struct Rotation {
  Tensor<Compute<T>, B> cos, sin;  ///< [S, L, D/2]
};

namespace detail {

/// In double: far from the start of a text a float would no longer tell an angle.
template <class C>
struct RotationEach {
  const Index* position;
  const double* frequency;
  C *cos, *sin;
  Index half;

  MOLE_HD void operator()(Index i) const {
    const double angle = static_cast<double>(position[i / half]) * frequency[i % half];
    cos[i] = static_cast<C>(std::cos(angle));
    sin[i] = static_cast<C>(std::sin(angle));
  }
};

/// One row a head of a token; sign -1 turns back.
template <class T>
struct RopeRow {
  using C = Compute<T>;
  const T* x;
  const C *cos, *sin;
  T* y;
  Index heads, half;  ///< of a token; pairs of a head
  C sign;

  template <class Row>
  MOLE_HD void operator()(const Row& row) const {
    const Index h = half, token = row.index() / heads;
    const T* const from = x + row.index() * 2 * h;
    T* const to = y + row.index() * 2 * h;
    const C *const c = cos + token * h, *const s = sin + token * h;
    const C turn = sign;
    row.each(h, [=](Index j) {
      const C a = from[j], b = from[j + h], sine = turn * s[j];
      to[j] = static_cast<T>(a * c[j] - b * sine);
      to[j + h] = static_cast<T>(b * c[j] + a * sine);
    });
  }
};

template <class T, class B>
Tensor<T, B> turned(const Tensor<T, B>& x, const Rotation<T, B>& by, Compute<T> sign) {
  const Index half = by.cos.size(-1), heads = x.size(2) / (2 * half);
  const auto y = Tensor<T, B>::empty(x.shape());
  B::for_rows(x.size(0) * x.size(1) * heads, 2 * half,
              RopeRow<T>{x.data(), by.cos.data(), by.sin.data(), y.data(), heads, half, sign});
  return y;
}

}  // namespace detail

/// angle[s, l, j] = positions[s, l] frequencies[j].    positions [S, L], frequencies [D/2]
/// Formed in double and rounded to Compute<T>. No gradient.    Throws ShapeError.
template <class T, class B>
Rotation<T, B> rotation(const Tensor<Index, B>& positions, const Tensor<double, B>& frequencies) {
  MOLE_CHECK_SHAPE(positions.rank() == 2 && frequencies.rank() == 1,
                   "rotation: expected positions [S, L] and frequencies [D/2], got", positions.shape(), "and",
                   frequencies.shape());
  Shape shape = positions.shape();
  shape.push_back(frequencies.size());
  Rotation<T, B> result{Tensor<Compute<T>, B>::empty(shape), Tensor<Compute<T>, B>::empty(shape)};
  B::for_each(shape.size(),
              detail::RotationEach<Compute<T>>{positions.data(), frequencies.data(), result.cos.data(),
                                               result.sin.data(), frequencies.size()});
  return result;
}

/// Each head's numbers in pairs (a, b), b half a head after a, turned by their token's angles:
///   (a, b) -> (a cos - b sin, b cos + a sin)      x and y [S, L, H D]
/// Pullback of G: dx = G turned back.    Throws ShapeError unless x has the rotation's tokens and whole heads.
template <class T, class B>
Tensor<T, B> rope(const Tensor<T, B>& x, const Rotation<T, B>& by) {
  const auto& angles = by.cos.shape();
  MOLE_CHECK_SHAPE(x.rank() == 3 && angles.rank() == 3 && x.size(0) == angles[0] && x.size(1) == angles[1] &&
                       angles[2] > 0 && x.size(2) % (2 * angles[2]) == 0,
                   "rope: expected x [S, L, H D] and angles [S, L, D/2], got", x.shape(), "and", angles);
  return record({x}, detail::turned(x, by, Compute<T>(1)),
                [by](const auto& G) { return detail::turned(G, by, Compute<T>(-1)); });
}

}  // namespace mole
