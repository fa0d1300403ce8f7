#pragma once
// A frozen matrix W as the layers see it: it multiplies forward and back, and nothing else can be asked of it. So
// it may be stored in any way.
//
//   y  (+)= x W^T      x [rows, d_in], y [rows, d_out]
//   dx (+)= G W        G [rows, d_out], dx [rows, d_in]

#include <memory>
#include <optional>
#include <utility>

#include <mole/autodiff/tensor.hpp>
#include <mole/core/gemm.hpp>
#include <mole/core/kernels/packed_rows.hpp>

namespace mole {

/// A way to store W [d_out, d_in]. A new one derives from this in a file of its own.
template <class T, class B>
class WeightFormat {
 public:
  virtual ~WeightFormat() = default;
  /// [d_out, d_in]
  virtual Shape shape() const = 0;
  /// y = x W^T, added to y where `add` is set; off the tape.  x [rows, d_in], y [rows, d_out]
  virtual void forward(Index rows, const T* x, bool add, T* y) const = 0;
  /// dx = G W, added to dx where `add` is set.  G [rows, d_out], dx [rows, d_in]
  virtual void backward(Index rows, const T* G, bool add, T* dx) const = 0;
  /// Writes W to `out`, [d_out, d_in], where so many rows are multiplied as fast with it as by the two above, for a kernel
  /// that does more than multiply; else returns false.
  virtual bool numbers_to(Index rows, T* out) const {
    (void)rows, (void)out;
    return false;
  }
  /// W for a backend's kernels for packed weights; nothing where it is stored otherwise.
  virtual std::optional<PackedMatrix> packed() const { return {}; }
};

/// A frozen W, dense or in another format. A cheap handle; a tensor converts to it.
template <class T, class B>
class FrozenWeight {
 public:
  /// Undefined: no weight at all.
  FrozenWeight() = default;
  /// Dense.
  FrozenWeight(Tensor<T, B> W) : dense_(std::move(W)) {}
  FrozenWeight(std::shared_ptr<const WeightFormat<T, B>> format) : format_(std::move(format)) {}

  bool defined() const { return format_ || dense_.defined(); }
  /// [d_out, d_in]
  Shape shape() const { return format_ ? format_->shape() : dense_.shape(); }
  Index d_out() const { return shape()[0]; }
  Index d_in() const { return shape()[1]; }
  /// The matrix where it is stored as such, else undefined.
  const Tensor<T, B>& dense() const { return dense_; }

  /// y = x W^T, added to y where `add` is set; off the tape.  x [rows, d_in], y [rows, d_out]
  void forward(Index rows, const T* x, bool add, T* y) const {
    if (format_) return format_->forward(rows, x, add, y);
    B::gemm(detail::gemm_nt(rows, d_out(), d_in(), add ? 1 : 0), x, dense_.data(), y);
  }
  /// dx = G W, added to dx where `add` is set; off the tape.  G [rows, d_out], dx [rows, d_in]
  void backward(Index rows, const T* G, bool add, T* dx) const {
    if (format_) return format_->backward(rows, G, add, dx);
    B::gemm(detail::gemm_nn(rows, d_in(), d_out(), add ? 1 : 0), G, dense_.data(), dx);
  }
  /// See WeightFormat. Nothing, and false, for a dense W.
  std::optional<PackedMatrix> packed() const {
    return format_ ? format_->packed() : std::optional<PackedMatrix>();
  }
  bool numbers_to(Index rows, T* out) const { return format_ && format_->numbers_to(rows, out); }

 private:
  Tensor<T, B> dense_;
  std::shared_ptr<const WeightFormat<T, B>> format_;
};

}  // namespace mole
