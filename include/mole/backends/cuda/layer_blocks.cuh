#pragma once
// One launch for several layers: the blocks of the first come first.

#include <mole/core/shape.hpp>

namespace mole::detail {

/// The layer that a block works for: its number, and the number of its first block.
struct LayerBlock {
  int layer = 0;
  Index first = 0;
};

/// Of block `block`, where a.layers has a.count layers of blocks_of(layer) blocks each.
template <class A, class F>
__device__ __forceinline__ LayerBlock layer_of_block(const A& a, Index block, const F& blocks_of) {
  LayerBlock at;
  for (; at.layer + 1 < a.count; ++at.layer) {
    const Index next = at.first + blocks_of(a.layers[at.layer]);
    if (block < next) break;
    at.first = next;
  }
  return at;
}

/// How many blocks all layers have.
template <class A, class F>
unsigned blocks_of_layers(const A& a, const F& blocks_of) {
  Index blocks = 0;
  for (int i = 0; i < a.count; ++i) blocks += blocks_of(a.layers[i]);
  return static_cast<unsigned>(blocks);
}

}  // namespace mole::detail
