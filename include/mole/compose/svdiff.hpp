#pragma once
// SVDiff (Han et al. 2023, arXiv 2303.11305): a concept is a shift of the singular values of a weight.
//
//   W = U diag(sigma) V^T              once, sigma descending
//   W' = U diag(relu(sigma + sum_i lambda_i delta_i)) V^T

#include <cmath>
#include <utility>
#include <vector>

#include <mole/compose/host_svd.hpp>
#include <mole/nn/slots.hpp>
#include <mole/ops/activation.hpp>
#include <mole/ops/arithmetic.hpp>
#include <mole/ops/matmul.hpp>
#include <mole/ops/shape.hpp>

namespace mole {

/// A frozen weight by its singular values.
template <class T, class B>
struct SpectralWeight {
  Shape shape;         ///< the weight's own
  Tensor<T, B> U;      ///< [m, k], k = min(m, n)
  Tensor<T, B> sigma;  ///< [k], descending
  Tensor<T, B> V;      ///< [n, k]

  /// A shift of zero, ready to be trained: [k].
  Tensor<T, B> make_shift() const { return Tensor<T, B>::zeros(sigma.shape()).set_requires_grad(); }
};

/// The singular values of a weight [m, ..], taken as the matrix [m, n]: a convolution's is [C_out, C_in kh
/// kw], a norm's [n] is [1, n].    Throws ShapeError for a scalar or an empty weight, ArgumentError for
/// numbers that are not finite.
template <class T, class B>
SpectralWeight<T, B> spectral_weight(const Tensor<T, B>& W) {
  MOLE_CHECK_SHAPE(W.rank() >= 1 && W.size() > 0, "spectral_weight: expected a weight, got", W.shape());
  const Index m = W.rank() == 1 ? 1 : W.size(0), n = W.size() / m;
  const auto values = W.to_host();
  const std::vector<double> matrix(values.begin(), values.end());
  for (const double value : matrix)
    MOLE_CHECK_ARG(is_finite(value), "spectral_weight: the weight holds", value);
  const auto svd = detail::host_svd(matrix, m, n);
  const auto k = static_cast<Index>(svd.S.size());
  const auto tensor = [](const Shape& shape, const std::vector<double>& from) {
    return Tensor<T, B>::from(shape, std::vector<T>(from.begin(), from.end()));
  };
  return {W.shape(), tensor({m, k}, svd.U), tensor({k}, svd.S), tensor({n, k}, svd.V)};
}

/// W' with the singular values moved by shift [k], such as lambda delta or a sum of them; none falls below 0.
/// Pullback of G: dshift = diag(U^T G V) where sigma + shift > 0, else 0.    Throws ShapeError for another
/// shape.
template <class T, class B>
Tensor<T, B> shifted_weight(const SpectralWeight<T, B>& W, const Tensor<T, B>& shift) {
  MOLE_CHECK_SHAPE(shift.shape() == W.sigma.shape(), "shifted_weight: expected a shift of shape",
                   W.sigma.shape(), "got", shift.shape());
  const auto scaled = mul(W.U, relu(add(W.sigma, shift)));
  return reshape(matmul(scaled, W.V, Transpose::no, Transpose::yes), W.shape);
}

/// The linear layers of a model by their singular values: what SVDiff trains and composes there. It stays valid as
/// long as the weights of the slots are what they were.
template <class T, class B>
class SpectralSlots {
 public:
  /// Takes every slot's weight apart, which costs an SVD each. Throws ArgumentError for a slot without a dense weight.
  explicit SpectralSlots(const SlotTable<T, B>& table) {
    for (const auto& slot : table.slots) {
      MOLE_CHECK_ARG(slot.weight.defined(), "SVDiff: the layer", slot.name,
                     "has no dense weight to take apart");
      weights_.push_back(spectral_weight(slot.weight));
    }
  }

  /// In the order of the table's slots.
  const std::vector<SpectralWeight<T, B>>& weights() const { return weights_; }
  /// Shifts of zero, ready to be trained, one [k] a slot.
  std::vector<Tensor<T, B>> make_shifts() const {
    std::vector<Tensor<T, B>> shifts;
    for (const auto& weight : weights_) shifts.push_back(weight.make_shift());
    return shifts;
  }
  /// The table's layers compute with W' from now on, until its reset(). On the tape where the shifts train: call it in
  /// every step then. Throws ArgumentError for another number of shifts, ShapeError for other shapes.
  void apply(SlotTable<T, B>& table, const std::vector<Tensor<T, B>>& shifts) const {
    MOLE_CHECK_ARG(shifts.size() == weights_.size() && table.slots.size() == weights_.size(),
                   "SVDiff: expected a shift for each of", weights_.size(), "layers, got", shifts.size());
    for (std::size_t i = 0; i < shifts.size(); ++i)
      table.slots[i].merged = shifted_weight(weights_[i], shifts[i]);
  }

 private:
  std::vector<SpectralWeight<T, B>> weights_;
};

}  // namespace mole
