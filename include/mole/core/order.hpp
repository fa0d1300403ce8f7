#pragma once
// The order of some numbers.

#include <algorithm>
#include <cstddef>
#include <numeric>
#include <vector>

namespace mole {

/// The places of `keys`, that of the smallest first; equal keys keep their order.
inline std::vector<std::size_t> ascending(const std::vector<double>& keys) {
  std::vector<std::size_t> order(keys.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return keys[a] < keys[b]; });
  return order;
}

}  // namespace mole
