#pragma once
// The time of a diffusion step as a vector.

#include <cmath>

#include <mole/autodiff/tensor.hpp>

namespace mole {

/// How timestep_sinusoid writes its vector.
struct SinusoidOptions {
  bool flip_sin_to_cos = true;  ///< [cos | sin], else [sin | cos]
  double freq_shift = 0;
};

namespace detail {

/// In double whatever T: an angle goes up to the number of steps.
template <class T>
struct SinusoidRow {
  const Index* t;
  T* y;
  Index half;
  double rate;
  bool flip;

  template <class Row>
  MOLE_HD void operator()(const Row& row) const {
    T* const to = y + row.index() * 2 * half;
    const double time = static_cast<double>(t[row.index()]), r = rate;
    const Index n = half;
    const bool cos_first = flip;
    row.each(n, [=](Index i) {
      const double angle = time * std::exp(r * static_cast<double>(i));
      const auto c = static_cast<Compute<T>>(std::cos(angle)), s = static_cast<Compute<T>>(std::sin(angle));
      to[i] = cos_first ? c : s;
      to[n + i] = cos_first ? s : c;
    });
  }
};

}  // namespace detail

/// y[s] = [cos a | sin a] with a_i = t[s] exp(-ln(10000) i / (half - freq_shift)), i in [0, half), half =
/// width/2. t [S], y [S, width].    No gradient: t is whole.    Throws ShapeError unless t is [S] and the
/// width is even and above 2 freq_shift.
template <class T, class B>
Tensor<T, B> timestep_sinusoid(const Tensor<Index, B>& t, Index width, const SinusoidOptions& options = {}) {
  const double steps = static_cast<double>(width / 2) - options.freq_shift;
  MOLE_CHECK_SHAPE(t.rank() == 1 && width >= 2 && width % 2 == 0 && steps > 0,
                   "timestep_sinusoid: expected t [S] and an even width above twice the shift, got",
                   t.shape(), "and", width);
  const auto y = Tensor<T, B>::empty({t.size(0), width});
  B::for_rows(t.size(0), width / 2,
              detail::SinusoidRow<T>{t.data(), y.data(), width / 2, -std::log(10000.0) / steps,
                                     options.flip_sin_to_cos});
  return y;
}

}  // namespace mole
