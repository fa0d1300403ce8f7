#pragma once
// What a decoder keeps of the tokens it has seen, so that each new token is computed alone.

#include <cstdint>
#include <vector>

#include <mole/core/graph.hpp>
#include <mole/ops/gather.hpp>
#include <mole/ops/shape.hpp>

namespace mole {

/// Rows of the first axis picked by index: x [S, ..], index [S'], result [S', ..]. Undefined stays undefined.
template <class T, class B>
Tensor<T, B> select_sequences(const Tensor<T, B>& x, const Tensor<Index, B>& index) {
  if (!x.defined()) return x;
  const Shape shape = x.shape().with(0, index.size());
  return reshape(gather(reshape(x, {x.size(0), -1}), index), shape);
}

namespace detail {

/// Numbers that are copied together.
struct alignas(16) Numbers16 {
  char bytes[16];
};

/// Keys and values of new tokens behind those of earlier ones, two pairs alike in one go.
template <class T>
struct AppendEach {
  const T *key, *more_keys, *value, *more_values;
  T *keys, *values;
  Index n, m;  ///< numbers of a sequence: earlier ones, new ones

  MOLE_HD void operator()(Index i) const {
    const Index s = i / (n + m), j = i % (n + m);
    const Index from = j < n ? s * n + j : s * m + j - n;
    keys[i] = j < n ? key[from] : more_keys[from];
    values[i] = j < n ? value[from] : more_values[from];
  }
};

/// k and v behind key and value by one launch, where launches take longer than such short copies, and the tape does not want
/// to know; else false, and nothing is done.
template <class T, class B>
bool append_in_one(const Tensor<T, B>& key, const Tensor<T, B>& value, Tensor<T, B>& k, Tensor<T, B>& v) {
  if constexpr (has_graphs<B>) {
    constexpr Index short_numbers = Index{1} << 21;
    const auto quiet = [](const Tensor<T, B>& t) { return !recording() || !t.requires_grad(); };
    const bool alike = k.rank() == 3 && k.shape() == v.shape() && key.shape() == value.shape() &&
                       k.shape().with(1, 0) == key.shape().with(1, 0);
    if (!alike || key.size() + k.size() > short_numbers || !quiet(key) || !quiet(value) || !quiet(k) ||
        !quiet(v))
      return false;
    const auto shape = key.shape().with(1, key.size(1) + k.size(1));
    const auto keys = Tensor<T, B>::empty(shape), values = Tensor<T, B>::empty(shape);
    const Index n = key.size(1) * key.size(2), m = k.size(1) * k.size(2);
    const auto copy = [&]<class U>(U, Index of_each) {
      const auto at = [](const Tensor<T, B>& t) { return reinterpret_cast<const U*>(t.data()); };
      B::for_each(shape.size() / of_each,
                  AppendEach<U>{at(key), at(k), at(value), at(v), reinterpret_cast<U*>(keys.data()),
                                reinterpret_cast<U*>(values.data()), n / of_each, m / of_each});
    };
    const auto whole = [&](const Tensor<T, B>& t) {
      return reinterpret_cast<std::uintptr_t>(t.data()) % 16 == 0;
    };
    constexpr Index together = 16 / static_cast<Index>(sizeof(T));
    const bool wide = key.size(2) % together == 0 && whole(key) && whole(k) && whole(value) && whole(v) &&
                      whole(keys) && whole(values);
    wide ? copy(Numbers16{}, together) : copy(T{}, 1);
    k = keys, v = values;
    return true;
  }
  return false;
}

}  // namespace detail

/// Keys and values [S, L, H d] that one block has seen.
template <class T, class B>
struct BlockCache {
  Tensor<T, B> key, value;                ///< of its own tokens
  Tensor<T, B> memory_key, memory_value;  ///< of the memory's, computed once

  /// How many of its own tokens it holds.
  Index length() const { return key.defined() ? key.size(1) : 0; }

  /// Appends keys and values [S, L, H d] of new tokens; they become those of all tokens.
  /// Throws ShapeError for tokens of other extents.
  void append(Tensor<T, B>& k, Tensor<T, B>& v) {
    if (key.defined() && !detail::append_in_one(key, value, k, v)) {
      k = concat<T, B>({key, k}, 1);
      v = concat<T, B>({value, v}, 1);
    }
    key = k;
    value = v;
  }
};

/// One entry a block.
template <class T, class B>
using KvCache = std::vector<BlockCache<T, B>>;

/// The cache whose sequence s goes on from what was sequence index[s], as beams do. The memory's keys and values
/// are alike for all beams of a sequence and stay.
template <class T, class B>
void reorder(KvCache<T, B>& cache, const Tensor<Index, B>& index) {
  for (auto& block : cache) {
    block.key = select_sequences(block.key, index);
    block.value = select_sequences(block.value, index);
  }
}

}  // namespace mole
