#pragma once
// One vector a token: what ids become, and the matrix of a head. Dense or packed.

#include <memory>
#include <utility>

#include <mole/nn/packed_weight.hpp>
#include <mole/ops/gather.hpp>
#include <mole/ops/shape.hpp>

namespace mole {

/// W [V, d]
template <class T, class B>
struct TokenTable {
  Tensor<T, B> dense;  ///< undefined where it is packed
  std::shared_ptr<const PackedWeight<T, B>> packed = nullptr;

  /// Takes packed rows in place of numbers. Throws as PackedWeight() does.
  void keep_packed(std::shared_ptr<const PackedRows> rows) {
    packed = std::make_shared<const PackedWeight<T, B>>(std::move(rows));
    dense = {};
  }
  FrozenWeight<T, B> product() const {
    if (!packed) return dense;
    return std::shared_ptr<const WeightFormat<T, B>>(packed);
  }

  /// The rows of ids: [ids.., d]. Throws ShapeError for an id outside the vocabulary.
  Tensor<T, B> lookup(const Tensor<Index, B>& ids) const {
    if (!packed) return embedding(dense, ids);
    const Index d = packed->shape()[1];
    ids.check_indices("embedding", packed->shape()[0]);
    Shape shape = ids.shape();
    shape.push_back(d);
    return reshape(packed->rows_of(ids), shape);
  }
};

}  // namespace mole
