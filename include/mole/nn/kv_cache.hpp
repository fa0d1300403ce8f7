#pragma once
// What a decoder keeps of the tokens it has seen, so that each new token is computed alone.

#include <vector>

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

/// Keys and values [S, L, H d] that one block has seen.
template <class T, class B>
struct BlockCache {
  Tensor<T, B> key, value;                ///< of its own tokens
  Tensor<T, B> memory_key, memory_value;  ///< of the memory's, computed once

  /// How many of its own tokens it holds.
  Index length() const { return key.defined() ? key.size(1) : 0; }

  /// Appends keys and values [S, L, H d] of new tokens; they become those of all tokens.
  void append(Tensor<T, B>& k, Tensor<T, B>& v) {
    if (key.defined()) {
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
