#pragma once
// The running mean of parameters in training (Polyak averaging): its models are steadier than the last step's.

#include <algorithm>
#include <utility>
#include <vector>

#include <mole/autodiff/tensor.hpp>
#include <mole/optim/pieces.hpp>

namespace mole {

namespace detail {

template <class T>
struct MeanPiece {
  T* mean;
  const T* p;
  Index size;
};

/// mean = mean + share (p - mean) over a piece.
template <class T>
struct MeanPieceRow {
  Compute<T> share;

  template <class Row>
  MOLE_HD void operator()(const Row& row, const MeanPiece<T>& piece) const {
    T* const mean = piece.mean;
    const T* const p = piece.p;
    const Compute<T> part = share;
    row.each(piece.size, [=](Index i) { mean[i] = mean[i] + part * (p[i] - mean[i]); });
  }
};

}  // namespace detail

/// mean = d mean + (1 - d) p at each update, beginning with the parameters as they are; at update n = 0, 1, .. d is
/// min(decay, (1 + n) / (10 + n)), so that the mean soon forgets its start.
template <class T, class B>
class AveragedParameters {
 public:
  /// Throws ArgumentError for a decay that is not in [0, 1), and for no parameters.
  AveragedParameters(std::vector<Tensor<T, B>> parameters, double decay)
      : parameters_(std::move(parameters)), decay_(decay) {
    MOLE_CHECK_ARG(decay >= 0 && decay < 1, "AveragedParameters: expected a decay in [0, 1), got", decay);
    MOLE_CHECK_ARG(!parameters_.empty(), "AveragedParameters: no parameters");
    for (const auto& p : parameters_) means_.push_back(p.detach().clone());
  }

  /// Counts the parameters' present values in.
  void update() {
    const auto n = static_cast<double>(count_++);
    const double decay = std::min(decay_, (1 + n) / (10 + n));
    std::vector<detail::MeanPiece<T>> pieces;
    for (std::size_t i = 0; i < parameters_.size(); ++i)
      detail::for_each_piece(parameters_[i].size(), [&](Index first, Index size) {
        pieces.push_back({means_[i].data() + first, parameters_[i].data() + first, size});
      });
    detail::for_pieces<B>(pieces, detail::MeanPieceRow<T>{static_cast<Compute<T>>(1 - decay)});
  }

  /// One a parameter, in their order.
  const std::vector<Tensor<T, B>>& means() const { return means_; }

  /// The parameters become their means.
  void take() const {
    for (std::size_t i = 0; i < parameters_.size(); ++i) parameters_[i].assign(means_[i]);
  }

 private:
  std::vector<Tensor<T, B>> parameters_, means_;
  double decay_;
  std::size_t count_ = 0;
};

}  // namespace mole
