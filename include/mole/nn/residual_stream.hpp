#pragma once
// The stream x of a pre-norm model: layers read its norm and add to it.

#include <utility>

#include <mole/ops/norm.hpp>

namespace mole {

/// x + d, where d is what was added last. The sum waits for the norm that reads it, so that both can be one kernel.
template <class T, class B>
class ResidualStream {
 public:
  explicit ResidualStream(Tensor<T, B> x) : x_(std::move(x)) {}

  /// d: as x.
  void add(Tensor<T, B> d) {
    x_ = value();
    d_ = std::move(d);
  }
  /// rms_norm() of the stream, as add_rms_norm() makes it.   w [n] for x [.., n]
  Tensor<T, B> norm(const Tensor<T, B>& w, Compute<T> eps) {
    if (!d_.defined()) return rms_norm(x_, w, eps);
    auto [sum, y] = add_rms_norm(x_, d_, w, eps);
    x_ = std::move(sum);
    d_ = {};
    return y;
  }
  Tensor<T, B> value() const { return d_.defined() ? mole::add(x_, d_) : x_; }

 private:
  Tensor<T, B> x_, d_;
};

}  // namespace mole
