#pragma once
// The positions of tokens in padded texts.

#include <mole/autodiff/tensor.hpp>

namespace mole {

/// Where positions begin, and that of padding.
struct PositionRule {
  Index first = 0;    ///< of a text's first real token
  Index padding = 0;  ///< of a padded token
};

namespace detail {

/// The last `tokens` of `seen` columns of a mask; without one, every token is real.
template <class T>
struct PositionRow {
  const T* mask;
  Index* position;
  Index seen, tokens;
  PositionRule rule;

  template <class Row>
  MOLE_HD void operator()(const Row& row) const {
    const T* const m = mask ? mask + row.index() * seen : nullptr;
    Index* const to = position + row.index() * tokens;
    const Index n = seen, skipped = seen - tokens;
    const PositionRule by = rule;
    if (!m) {
      row.each(tokens, [=](Index l) { to[l] = by.first + skipped + l; });
      return;
    }
    row.each(1, [=](Index) {
      Index next = by.first;
      for (Index l = 0; l < n; ++l) {
        const bool real = m[l] != T(0);
        if (l >= skipped) to[l - skipped] = real ? next : by.padding;
        if (real) ++next;
      }
    });
  }
};

}  // namespace detail

/// positions[s, l]: how many real tokens precede token l, counted from rule.first; rule.padding for padding.
/// mask [S, n] of 0 and 1, or undefined: n tokens without padding. The positions of the last L of the n tokens,
/// [S, L]; those before are in a cache. No gradient.    Throws ShapeError.
template <class T, class B>
Tensor<Index, B> token_positions(Index S, Index n, Index L, const Tensor<T, B>& mask,
                                 PositionRule rule = {}) {
  MOLE_CHECK_SHAPE(S >= 0 && L >= 0 && L <= n, "token_positions: of", n, "tokens the last", L,
                   "are asked for");
  MOLE_CHECK_SHAPE(!mask.defined() || mask.shape() == Shape({S, n}), "token_positions: expected a mask",
                   Shape({S, n}), "got", mask.defined() ? mask.shape() : Shape{});
  const auto positions = Tensor<Index, B>::empty({S, L});
  B::for_rows(S, L,
              detail::PositionRow<T>{mask.defined() ? mask.data() : nullptr, positions.data(), n, L, rule});
  const Index last = rule.first + n > rule.padding ? rule.first + n : rule.padding + 1;
  if (rule.first >= 0 && rule.padding >= 0) positions.set_index_bound(last);
  return positions;
}

}  // namespace mole
