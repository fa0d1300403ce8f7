#pragma once
// Tensors one after another in one piece of memory: one strided product can take them all.

#include <memory>
#include <vector>

#include <mole/autodiff/tensor.hpp>

namespace mole {

/// Uninitialised tensors of these shapes, adjacent in this order; the memory is freed with the last of them.
template <class T, class B>
std::vector<Tensor<T, B>> empty_adjacent(const std::vector<Shape>& shapes) {
  Index size = 0;
  for (const auto& shape : shapes) size += shape.size();
  const auto whole = std::make_shared<const Buffer<T, B>>(size);
  std::vector<Tensor<T, B>> parts;
  Index first = 0;
  for (const auto& shape : shapes) {
    parts.emplace_back(shape, std::make_shared<Buffer<T, B>>(whole, first, shape.size()));
    first += shape.size();
  }
  return parts;
}

/// Whether each of these begins where the one before ends.
template <class T, class B>
bool are_adjacent(const std::vector<Tensor<T, B>>& tensors) {
  for (std::size_t i = 1; i < tensors.size(); ++i)
    if (tensors[i].data() != tensors[i - 1].data() + tensors[i - 1].size()) return false;
  return true;
}

/// Copies of the values, adjacent in this order, off the tape.
template <class T, class B>
std::vector<Tensor<T, B>> copy_adjacent(const std::vector<Tensor<T, B>>& tensors) {
  std::vector<Shape> shapes;
  for (const auto& tensor : tensors) shapes.push_back(tensor.shape());
  auto copies = empty_adjacent<T, B>(shapes);
  for (std::size_t i = 0; i < tensors.size(); ++i)
    B::copy(copies[i].data(), tensors[i].data(), tensors[i].size());
  return copies;
}

}  // namespace mole
