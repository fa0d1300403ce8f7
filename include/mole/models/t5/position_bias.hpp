#pragma once
// T5's relative positions: a learned bias for each bucket of distances and each head.

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <vector>

#include <mole/ops/gather.hpp>
#include <mole/ops/shape.hpp>

namespace mole {

/// The bucket of a key's position relative to the query's (Raffel et al. 2020): exact when near, logarithmic
/// up to max_distance, one for all beyond; both directions share the buckets if bidirectional.
inline Index relative_position_bucket(Index key_minus_query, bool bidirectional, Index buckets,
                                      Index max_distance) {
  Index base = 0, distance = -key_minus_query;
  if (bidirectional) {
    buckets /= 2;
    if (key_minus_query > 0) base = buckets;
    distance = std::abs(key_minus_query);
  } else if (distance < 0) {
    distance = 0;
  }
  const Index exact = buckets / 2;
  if (distance < exact) return base + distance;
  // In float and in this order, as the original computes it: a boundary must not fall one bucket off.
  const float ratio =
      std::log(static_cast<float>(distance) / static_cast<float>(exact)) /
      static_cast<float>(std::log(static_cast<double>(max_distance) / static_cast<double>(exact)));
  const Index far = exact + static_cast<Index>(ratio * static_cast<float>(buckets - exact));
  return base + std::min(far, buckets - 1);
}

/// T5's position bias [H, Lq, Lk] from its table [buckets, H], for queries at positions Lk - Lq and on.
/// Pullback: scatter-add into the table.
template <class T, class B>
Tensor<T, B> position_bias(const Tensor<T, B>& table, Index queries, Index keys, bool bidirectional,
                           Index max_distance) {
  std::vector<Index> buckets;
  buckets.reserve(static_cast<std::size_t>(queries * keys));
  for (Index i = 0; i < queries; ++i)
    for (Index j = 0; j < keys; ++j)
      buckets.push_back(
          relative_position_bucket(j - (i + keys - queries), bidirectional, table.size(0), max_distance));
  return permute(gather(table, Tensor<Index, B>::from({queries, keys}, buckets)), {2, 0, 1});
}

}  // namespace mole
