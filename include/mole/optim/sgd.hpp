#pragma once
// Stochastic gradient descent.

#include <array>
#include <utility>
#include <vector>

#include <mole/optim/optimizer.hpp>

namespace mole {

/// How Sgd updates.
struct SgdOptions {
  double momentum = 0;      ///< mu, in [0, 1); 0 keeps no state
  double weight_decay = 0;  ///< lambda >= 0, an L2 penalty: added to the gradient
};

namespace detail {

/// numbers = {rate}; state: the velocity, null without momentum.
template <class T>
struct SgdUpdate {
  using C = Compute<T>;
  C momentum, decay;

  MOLE_HD void operator()(const UpdatePiece<T>& piece, Index i) const {
    C* const velocity = piece.state[0];
    const C p = piece.value(i);
    C d = piece.g[i] + decay * p;
    if (velocity) velocity[i] = d = momentum * velocity[i] + d;
    piece.set(i, p - *piece.numbers * d);
  }
};

}  // namespace detail

/// d = g + lambda p;  b = mu b + d;  p = p - rate b. The numbers of torch.optim.SGD.
/// state(): b of each parameter with momentum, and of narrow ones their exact value.
template <class T, class B>
class Sgd : public Optimizer<T, B> {
 public:
  /// Throws ArgumentError for parameters that cannot be trained or options out of range.
  explicit Sgd(std::vector<Tensor<T, B>> parameters, SgdOptions options = {})
      : Optimizer<T, B>("Sgd", std::move(parameters), options.momentum != 0 ? 1 : 0), options_(options) {
    MOLE_CHECK_ARG(options.momentum >= 0 && options.momentum < 1, "Sgd: expected momentum in [0, 1), got",
                   options.momentum);
    MOLE_CHECK_ARG(options.weight_decay >= 0, "Sgd: expected weight decay >= 0, got", options.weight_decay);
  }

  /// One update by the gradients at hand. Throws ArgumentError for a rate that is negative or not finite.
  void step(double rate) {
    this->look_for_gradients();
    prepare(rate);
    apply();
  }

  /// The host's half of a step: counts it, and uploads the rate.
  void prepare(double rate) {
    this->upload_numbers(rate, [&](std::size_t) { return std::array{rate}; });
  }

  /// The device's half.
  void apply() {
    using C = Compute<T>;
    this->update_all(
        detail::SgdUpdate<T>{static_cast<C>(options_.momentum), static_cast<C>(options_.weight_decay)});
  }

 private:
  SgdOptions options_;
};

}  // namespace mole
