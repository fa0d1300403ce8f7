#pragma once
// Sums over ranks, on the tape and off it.

#include <concepts>
#include <cstddef>
#include <vector>

#include <mole/autodiff/record.hpp>
#include <mole/autodiff/tensor.hpp>
#include <mole/core/scalar.hpp>
#include <mole/core/transform.hpp>
#include <mole/dist/communicator.hpp>

namespace mole::dist {

namespace detail {

/// The values of x on the host, as they are added.
template <class T, class B>
std::vector<Compute<T>> host_values(const Tensor<T, B>& x) {
  const auto values = x.to_host();
  return {values.begin(), values.end()};
}

template <class T, class B>
Tensor<T, B> tensor_of(const Shape& shape, const std::vector<Compute<T>>& values) {
  return Tensor<T, B>::from(shape, std::vector<T>(values.begin(), values.end()));
}

/// Tensors of one shape, of all ranks: those of rank 0, then those of rank 1; added one after another.
template <class T, class B, DeviceCommunicator G>
Tensor<T, B> ordered_sum_there(const G& group, const std::vector<Tensor<T, B>>& parts) {
  const auto& shape = parts.front().shape();
  const Index n = shape.size(), own = static_cast<Index>(parts.size());
  const auto mine = Tensor<T, B>::empty({own, n});
  for (Index j = 0; j < own; ++j) B::copy(mine.data() + j * n, parts[static_cast<std::size_t>(j)].data(), n);
  const auto all = Tensor<T, B>::empty({group.size() * own, n});
  group.device_gather(mine.data(), mine.size(), all.data());
  const auto sum = Tensor<T, B>::zeros(shape);
  for (Index j = 0; j < all.size(0); ++j)
    transform<B>(n, functor::Add(), sum.data(), sum.data(), all.data() + j * n);
  return sum;
}

}  // namespace detail

/// y = the sum of x over the ranks; x itself for one rank. Every rank gives the same shape.
/// Pullback of G: dx = G. The ranks hold one loss that depends on y, not a loss each: so nothing is summed on
/// the way back, and the sum of the ranks' gradients is the gradient.
template <class T, class B, Communicator G>
Tensor<T, B> all_reduce_sum(const G& group, const Tensor<T, B>& x) {
  if (group.size() == 1) return x;
  if constexpr (DeviceCommunicator<G> && std::same_as<T, Compute<T>>)
    if (group.sums_on(B::name)) {
      const auto y = x.clone();
      group.device_sums(std::vector<Piece<T>>{{y.data(), y.size()}});
      return record({x}, y, [](const auto& gradient) { return gradient; });
    }
  auto values = detail::host_values(x);
  group.all_reduce_sum(values.data(), x.size());
  return record({x}, detail::tensor_of<T, B>(x.shape(), values),
                [](const auto& gradient) { return gradient; });
}

/// Each of these tensors becomes its sum over the ranks, off the tape.
template <class T, class B, Communicator G>
void all_reduce_in_place(const G& group, const std::vector<Tensor<T, B>>& tensors) {
  if (group.size() == 1) return;
  if constexpr (DeviceCommunicator<G> && std::same_as<T, Compute<T>>)
    if (group.sums_on(B::name)) {
      std::vector<Piece<T>> pieces;
      for (const auto& tensor : tensors) pieces.emplace_back(tensor.data(), tensor.size());
      return group.device_sums(pieces);
    }
  for (const auto& tensor : tensors) tensor.assign(all_reduce_sum(group, tensor.detach()));
}

/// The sum of tensors of one shape, as many on each rank, added one after another: those of rank 0, then those
/// of rank 1. How many ranks hold them makes no difference to the bits. The result is off the tape.
/// Throws ShapeError for an empty list or unequal shapes.
template <class T, class B, Communicator G>
Tensor<T, B> ordered_sum(const G& group, const std::vector<Tensor<T, B>>& parts) {
  MOLE_CHECK_SHAPE(!parts.empty(), "ordered_sum: expected a tensor, got none");
  const auto& shape = parts.front().shape();
  for (const auto& part : parts)
    MOLE_CHECK_SHAPE(part.shape() == shape, "ordered_sum: expected tensors of", shape, "got", part.shape());
  if constexpr (DeviceCommunicator<G> && std::same_as<T, Compute<T>>)
    if (group.sums_on(B::name)) return detail::ordered_sum_there(group, parts);
  std::vector<Compute<T>> mine;
  for (const auto& part : parts) {
    const auto values = detail::host_values(part);
    mine.insert(mine.end(), values.begin(), values.end());
  }
  std::vector<Compute<T>> all(mine.size() * static_cast<std::size_t>(group.size()));
  group.all_gather(mine.data(), static_cast<Index>(mine.size()), all.data());
  std::vector<Compute<T>> sum(static_cast<std::size_t>(shape.size()));
  for (std::size_t i = 0; i < all.size(); ++i) sum[i % sum.size()] += all[i];
  return detail::tensor_of<T, B>(shape, sum);
}

/// The same on the tape: y_j = the sum for each of this rank's tensors x_j. Pullback of G: dx_j = G_j.
template <class T, class B, Communicator G>
std::vector<Tensor<T, B>> all_reduce_ordered(const G& group, const std::vector<Tensor<T, B>>& parts) {
  const auto sum = ordered_sum(group, parts);
  std::vector<Tensor<T, B>> results;
  for (const auto& part : parts)
    results.push_back(record({part}, sum.clone(), [](const auto& gradient) { return gradient; }));
  return results;
}

/// Gives every rank the values that rank 0 has in these tensors.
template <class T, class B, Communicator G>
void broadcast_first(const G& group, const std::vector<Tensor<T, B>>& tensors) {
  if (group.size() == 1) return;
  for (const auto& tensor : tensors) {
    auto values = tensor.to_host();
    group.broadcast(reinterpret_cast<char*>(values.data()), tensor.size() * static_cast<Index>(sizeof(T)), 0);
    tensor.assign(Tensor<T, B>::from(tensor.shape(), values));
  }
}

}  // namespace mole::dist
