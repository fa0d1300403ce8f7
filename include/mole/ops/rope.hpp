#pragma once
// Rotary positions (Su et al. 2021): pairs of numbers of a query or key, turned by an angle that grows with the
// token's position. The product of a turned query and a turned key depends on their distance alone.

#include <array>
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

/// One row a head of a token, of x and y's `heads` and then those of `second`, which there may be none of; sign -1 turns
/// back.
template <class T>
struct RopeRow {
  using C = Compute<T>;
  struct Turned {
    const T* x;
    T* y;
    Index heads;  ///< of a token
  };
  Turned first, second;
  const C *cos, *sin;
  Index half;  ///< pairs of a head
  C sign;

  template <class Row>
  MOLE_HD void operator()(const Row& row) const {
    const Index h = half, heads = first.heads + second.heads;
    const Index token = row.index() / heads, head = row.index() % heads;
    const bool early = head < first.heads;
    const Turned& of = early ? first : second;
    const Index at = (token * of.heads + head - (early ? 0 : first.heads)) * 2 * h;
    const T* const from = of.x + at;
    T* const to = of.y + at;
    const C *const c = cos + token * h, *const s = sin + token * h;
    const C turn = sign;
    row.each(h, [=](Index j) {
      const C a = from[j], b = from[j + h], sine = turn * s[j];
      to[j] = static_cast<T>(a * c[j] - b * sine);
      to[j + h] = static_cast<T>(b * c[j] + a * sine);
    });
  }
};

/// x and z turned; z and what becomes of it may be undefined.
template <class T, class B>
std::array<Tensor<T, B>, 2> turned(const Tensor<T, B>& x, const Tensor<T, B>& z, const Rotation<T, B>& by,
                                   Compute<T> sign) {
  const Index half = by.cos.size(-1);
  std::array<Tensor<T, B>, 2> made;
  RopeRow<T> row{{}, {}, by.cos.data(), by.sin.data(), half, sign};
  const auto add = [&](const Tensor<T, B>& from, Tensor<T, B>& to, auto& of) {
    if (!from.defined()) return;
    to = Tensor<T, B>::empty(from.shape());
    of = {from.data(), to.data(), from.size(2) / (2 * half)};
  };
  add(x, made[0], row.first);
  add(z, made[1], row.second);
  B::for_rows(by.cos.size(0) * by.cos.size(1) * (row.first.heads + row.second.heads), 2 * half, row);
  return made;
}

template <class T, class B>
void check_rope(const Tensor<T, B>& x, const Rotation<T, B>& by) {
  const auto& angles = by.cos.shape();
  MOLE_CHECK_SHAPE(x.rank() == 3 && angles.rank() == 3 && x.size(0) == angles[0] && x.size(1) == angles[1] &&
                       angles[2] > 0 && x.size(2) % (2 * angles[2]) == 0,
                   "rope: expected x [S, L, H D] and angles [S, L, D/2], got", x.shape(), "and", angles);
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
  detail::check_rope(x, by);
  return record({x}, detail::turned(x, {}, by, Compute<T>(1))[0],
                [by](const auto& G) { return detail::turned(G, {}, by, Compute<T>(-1))[0]; });
}

/// The same of queries and keys, which may have other numbers of heads, together.
template <class T, class B>
std::array<Tensor<T, B>, 2> rope(const Tensor<T, B>& q, const Tensor<T, B>& k, const Rotation<T, B>& by) {
  detail::check_rope(q, by);
  detail::check_rope(k, by);
  return record({q, k}, detail::turned(q, k, by, Compute<T>(1)),
                [by](const auto& G, bool) { return detail::turned(G[0], G[1], by, Compute<T>(-1)); });
}

}  // namespace mole
