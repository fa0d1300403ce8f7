#pragma once
// Products with a packed matrix: many rows of input by panels of W that become numbers in a buffer and go to the
// BLAS, a few rows by dot products with stretches of W that never leave the cache, or on a device the registers.

#include <algorithm>
#include <concepts>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include <mole/autodiff/tensor.hpp>
#include <mole/core/buffer.hpp>
#include <mole/core/error.hpp>
#include <mole/core/gemm.hpp>
#include <mole/core/kernels/packed_rows.hpp>
#include <mole/core/omp.hpp>
#include <mole/core/scalar.hpp>
#include <mole/fwd.hpp>
#include <mole/nn/few_rows.hpp>
#include <mole/nn/frozen_weight.hpp>
#include <mole/nn/packed_parts.hpp>
#include <mole/nn/packed_rows.hpp>

namespace mole {

namespace detail {

/// Rows [first, first + rows) of W as numbers, one after another.
template <class T>
void unpack_rows(const PackedRows& W, Index first, Index rows, T* out) {
  const Index n = W.shape()[1];
  MOLE_OMP("omp parallel for schedule(static)")
  for (Index r = 0; r < rows; ++r) {
    if constexpr (std::same_as<T, float>) {
      W.unpack(first + r, 0, n, out + r * n);
    } else {
      constexpr Index chunk = 4 * PackedRows::step;
      float values[chunk];
      for (Index j = 0; j < n; j += chunk) {
        const Index m = std::min(chunk, n - j);
        W.unpack(first + r, j, m, values);
        for (Index k = 0; k < m; ++k) out[r * n + j + k] = static_cast<T>(values[k]);
      }
    }
  }
}

}  // namespace detail

/// A packed W as layers multiply with it. The way to compute is chosen by shapes alone, and no sum depends on the
/// number of threads. This is the CPU's; a backend with kernels for packed weights (core/kernels/packed_rows.hpp) has
/// the one below. Any other throws DeviceError.
template <class T, class B>
class PackedWeight final : public WeightFormat<T, B> {
 public:
  /// Rows of W that are numbers at a time: fewer make the BLAS slow, more fill memory.
  static constexpr Index panel = 1024;

  explicit PackedWeight(std::shared_ptr<const PackedRows> rows) : rows_(std::move(rows)) {
    MOLE_CHECK_AS(DeviceError, (std::same_as<B, Cpu>), B::name,
                  "has no kernels for packed weights; load the model without keeping them packed");
  }

  Shape shape() const override { return rows_->shape(); }

  void forward(Index rows, const T* x, bool add, T* y) const override {
    const Index d_out = shape()[0], d_in = shape()[1];
    if constexpr (std::same_as<B, Cpu> && std::floating_point<T>)
      if (rows <= detail::few_rows) return detail::few_rows_forward(*rows_, rows, x, add, y);
    each_panel([&](Index first, Index n, const T* numbers) {
      auto product = detail::gemm_nt(rows, n, d_in, add ? 1 : 0);
      product.ldc = d_out;
      B::gemm(product, x, numbers, y + first);
    });
  }

  void backward(Index rows, const T* G, bool add, T* dx) const override {
    const Index d_out = shape()[0], d_in = shape()[1];
    each_panel([&](Index first, Index n, const T* numbers) {
      auto product = detail::gemm_nn(rows, d_in, n, add || first > 0 ? 1 : 0);
      product.lda = d_out;
      B::gemm(product, G + first, numbers, dx);
    });
  }

  /// The rows of ids, off the tape.  ids [n], each of [0, d_out); returns [n, d_in]
  Tensor<T, B> rows_of(const Tensor<Index, B>& ids) const {
    const Index d_in = shape()[1];
    std::vector<float> row(static_cast<std::size_t>(d_in));
    std::vector<T> values;
    for (const Index id : ids.to_host()) {
      rows_->unpack(id, 0, d_in, row.data());
      for (const float value : row) values.push_back(static_cast<T>(value));
    }
    return Tensor<T, B>::from({ids.size(), d_in}, values);
  }

 private:
  /// f(first, n, numbers) for every panel: rows [first, first + n) of W.
  template <class F>
  void each_panel(F f) const {
    const Index d_out = shape()[0], d_in = shape()[1];
    const Buffer<T, B> numbers(std::min(panel, d_out) * d_in);
    for (Index first = 0; first < d_out; first += panel) {
      const Index n = std::min(panel, d_out - first);
      detail::unpack_rows(*rows_, first, n, numbers.data());
      f(first, n, numbers.data());
    }
  }

  std::shared_ptr<const PackedRows> rows_;
};

/// The same on a device, in whose memory the packed bytes are. Of the file nothing is read afterwards.
template <class T, class B>
requires detail::has_packed_kernels<T, B>
class PackedWeight<T, B> final : public WeightFormat<T, B> {
 public:
  /// Of W that is numbers at a time: what the BLAS then reads is still in the second cache of a Hopper, and a panel has
  /// work for all of its multiprocessors where x has some hundred rows alone.
  static constexpr Index panel_bytes = Index{32} << 20;
  /// Rows of input beside which making numbers of the whole W costs little.
  static constexpr Index many_rows = 256;

  /// Throws DeviceError, naming the format, where devices do not read it.
  explicit PackedWeight(const std::shared_ptr<const PackedRows>& rows)
      : PackedWeight(packed_parts(*rows, B::name)) {}

  Shape shape() const override { return {matrix_.d_out, matrix_.d_in}; }
  /// Bytes on the device.
  Index bytes() const { return bytes_.size(); }

  void forward(Index rows, const T* x, bool add, T* y) const override {
    const auto W = matrix();
    if (B::packed_product(PackedProduct<T>{.x = x, .rows = rows, .add = add, .layers = {{W, y}}})) return;
    each_panel(W.d_out, W.d_in, [&](Index first, Index n, T* numbers) {
      B::unpack_numbers(
          UnpackNumbers<T>{.W = W, .out = numbers, .rows = n, .columns = W.d_in, .first_row = first});
      auto product = detail::gemm_nt(rows, n, W.d_in, add ? 1 : 0);
      product.ldc = W.d_out;
      B::gemm(product, x, numbers, y + first);
    });
  }

  /// In panels of columns, so that each number of dx is rounded once.
  void backward(Index rows, const T* G, bool add, T* dx) const override {
    const auto W = matrix();
    each_panel(W.d_in, W.d_out, [&](Index first, Index n, T* numbers) {
      B::unpack_numbers(
          UnpackNumbers<T>{.W = W, .out = numbers, .rows = W.d_out, .columns = n, .first_column = first});
      auto product = detail::gemm_nn(rows, n, W.d_out, add ? 1 : 0);
      product.ldc = W.d_in;
      B::gemm(product, G, numbers, dx + first);
    });
  }

  bool numbers_to(Index rows, T* out) const override {
    const auto W = matrix();
    if (rows < many_rows) return false;
    B::unpack_numbers(UnpackNumbers<T>{.W = W, .out = out, .rows = W.d_out, .columns = W.d_in});
    return true;
  }

  std::optional<PackedMatrix> packed() const override { return matrix(); }

  /// The rows of ids, off the tape.  ids [n], each of [0, d_out); returns [n, d_in]
  Tensor<T, B> rows_of(const Tensor<Index, B>& ids) const {
    const auto W = matrix();
    auto y = Tensor<T, B>::empty({ids.size(), W.d_in});
    B::unpack_numbers(
        UnpackNumbers<T>{.W = W, .out = y.data(), .rows = ids.size(), .columns = W.d_in, .ids = ids.data()});
    return y;
  }

 private:
  explicit PackedWeight(const PackedParts& parts) : matrix_(parts.matrix), bytes_(parts.bytes) {}

  PackedMatrix matrix() const {
    auto matrix = matrix_;
    matrix.data = bytes_.data();
    return matrix;
  }

  /// f(first, n, numbers) for every panel: n of `count` rows or columns that are `length` numbers long.
  template <class F>
  void each_panel(Index count, Index length, F f) const {
    constexpr Index step = 128;
    const Index fit = panel_bytes / (length * static_cast<Index>(sizeof(T))) / step * step;
    const Index panel = std::min(std::max(fit, step), count);
    const Buffer<T, B> numbers(panel * length);
    for (Index first = 0; first < count; first += panel)
      f(first, std::min(panel, count - first), numbers.data());
  }

  PackedMatrix matrix_;
  Buffer<std::uint8_t, B> bytes_;
};

/// A frozen W that stays packed.
template <class T, class B>
FrozenWeight<T, B> packed_weight(std::shared_ptr<const PackedRows> rows) {
  return std::shared_ptr<const WeightFormat<T, B>>(
      std::make_shared<const PackedWeight<T, B>>(std::move(rows)));
}

/// The numbers of a packed W, as a dense tensor.
template <class T, class B>
Tensor<T, B> unpacked(const PackedRows& W) {
  std::vector<T> values(static_cast<std::size_t>(W.shape().size()));
  detail::unpack_rows(W, 0, W.shape()[0], values.data());
  return Tensor<T, B>::from(W.shape(), values);
}

}  // namespace mole
