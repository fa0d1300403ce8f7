#pragma once
// One vector a token: what ids become, and the matrix of a head. Dense or packed.

#include <memory>
#include <utility>
#include <vector>

#include <mole/nn/packed_weight.hpp>
#include <mole/ops/gather.hpp>

namespace mole {

/// W [V, d]
template <class T, class B>
struct TokenTable {
  Tensor<T, B> dense;                 ///< undefined where it is packed
  FrozenWeight<T, B> packed_product;  ///< of a packed one
  std::shared_ptr<const PackedRows> packed;

  /// Takes packed rows in place of numbers. Throws DeviceError on another device than the CPU.
  void keep_packed(std::shared_ptr<const PackedRows> rows) {
    packed_product = packed_weight<T, B>(rows);
    packed = std::move(rows);
    dense = {};
  }
  FrozenWeight<T, B> product() const { return packed ? packed_product : FrozenWeight<T, B>(dense); }

  /// The rows of ids: [ids.., d]. Throws ShapeError for an id outside the vocabulary.
  Tensor<T, B> lookup(const Tensor<Index, B>& ids) const {
    if (!packed) return embedding(dense, ids);
    const Index d = packed->shape()[1];
    ids.check_indices("embedding", packed->shape()[0]);
    std::vector<float> row(static_cast<std::size_t>(d));
    std::vector<T> values;
    for (const Index id : ids.to_host()) {
      packed->unpack(id, 0, d, row.data());
      for (const float value : row) values.push_back(static_cast<T>(value));
    }
    Shape shape = ids.shape();
    shape.push_back(d);
    return Tensor<T, B>::from(shape, values);
  }
};

}  // namespace mole
