#pragma once
// Products with a packed matrix: many rows of input by panels of W that become numbers in a buffer and go to the
// BLAS, a few rows by dot products with stretches of W that never leave the cache.

#include <algorithm>
#include <concepts>
#include <memory>
#include <utility>
#include <vector>

#include <mole/autodiff/tensor.hpp>
#include <mole/core/buffer.hpp>
#include <mole/core/error.hpp>
#include <mole/core/gemm.hpp>
#include <mole/core/omp.hpp>
#include <mole/core/scalar.hpp>
#include <mole/fwd.hpp>
#include <mole/nn/few_rows.hpp>
#include <mole/nn/frozen_weight.hpp>
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
/// number of threads. On the CPU alone: another backend throws DeviceError.
template <class T, class B>
class PackedWeight final : public WeightFormat<T, B> {
 public:
  /// Rows of W that are numbers at a time: fewer make the BLAS slow, more fill memory.
  static constexpr Index panel = 1024;

  explicit PackedWeight(std::shared_ptr<const PackedRows> rows) : rows_(std::move(rows)) {
    MOLE_CHECK_AS(DeviceError, (std::same_as<B, Cpu>),
                  "packed weights are multiplied on the CPU alone; on another device load the model without "
                  "keeping them packed");
  }

  const PackedRows& rows() const { return *rows_; }
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
