#pragma once
// Adam with decoupled weight decay (Loshchilov and Hutter, ICLR 2019).

#include <array>
#include <cmath>
#include <cstddef>
#include <utility>
#include <vector>

#include <mole/core/graph.hpp>
#include <mole/optim/optimizer.hpp>

namespace mole {

/// How AdamW updates.
struct AdamWOptions {
  double beta1 = 0.9;          ///< of the mean gradient, in [0, 1)
  double beta2 = 0.999;        ///< of the mean squared gradient, in [0, 1)
  double eps = 1e-8;           ///< added to the root
  double weight_decay = 0.01;  ///< lambda >= 0, applied to the parameter and not to the gradient
};

namespace detail {

/// numbers = {1 - rate lambda, rate / (1 - b1^t), sqrt(1 - b2^t)}; state: m and v.
template <class T>
struct AdamWUpdate {
  using C = Compute<T>;
  C share1, beta2, share2, eps;

  MOLE_HD void operator()(const UpdatePiece<T>& piece, Index i) const {
    C *const m = piece.state[0], *const v = piece.state[1];
    const C d = piece.g[i];
    const C mean = m[i] + share1 * (d - m[i]);
    const C square = beta2 * v[i] + share2 * d * d;
    m[i] = mean;
    v[i] = square;
    piece.set(i, piece.numbers[0] * piece.value(i) -
                     piece.numbers[1] * mean / (std::sqrt(square) / piece.numbers[2] + eps));
  }
};

}  // namespace detail

/// m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g^2;  at a parameter's t-th update
/// p = (1 - rate lambda) p - rate / (1 - b1^t) m / (sqrt(v / (1 - b2^t)) + eps). The numbers of
/// torch.optim.AdamW. state(): m and v of each parameter in turn, and of narrow ones their exact value.
template <class T, class B>
class AdamW : public Optimizer<T, B> {
 public:
  /// Throws ArgumentError for parameters that cannot be trained or options out of range.
  explicit AdamW(std::vector<Tensor<T, B>> parameters, AdamWOptions options = {})
      : Optimizer<T, B>("AdamW", std::move(parameters), 2), options_(options) {
    MOLE_CHECK_ARG(options.beta1 >= 0 && options.beta1 < 1 && options.beta2 >= 0 && options.beta2 < 1,
                   "AdamW: expected betas in [0, 1), got", options.beta1, "and", options.beta2);
    MOLE_CHECK_ARG(options.eps > 0, "AdamW: expected eps > 0, got", options.eps);
    MOLE_CHECK_ARG(options.weight_decay >= 0, "AdamW: expected weight decay >= 0, got", options.weight_decay);
  }

  /// One update by the gradients at hand. Throws ArgumentError for a rate that is negative or not finite.
  /// In a captured graph: see prepare().
  void step(double rate) {
    this->look_for_gradients();
    prepare(rate);
    apply();
  }

  /// The host's half of a step: counts it, and uploads what depends on the rate and the count. Throws
  /// ArgumentError as step() does, and while the step is captured: replays would repeat the first one's
  /// count.
  void prepare(double rate) {
    MOLE_CHECK_ARG(!detail::is_capturing<B>(),
                   "AdamW: a captured step would repeat one correction of the bias for "
                   "ever; capture apply(), and call prepare(rate) before each replay");
    this->upload_numbers(rate, [&](std::size_t i) {
      const auto t = static_cast<double>(this->steps()[i]);
      return std::array{1 - rate * options_.weight_decay, rate / (1 - std::pow(options_.beta1, t)),
                        std::sqrt(1 - std::pow(options_.beta2, t))};
    });
  }

  /// The device's half.
  void apply() {
    using C = Compute<T>;
    this->update_all(
        detail::AdamWUpdate<T>{static_cast<C>(1 - options_.beta1), static_cast<C>(options_.beta2),
                               static_cast<C>(1 - options_.beta2), static_cast<C>(options_.eps)});
  }

 private:
  AdamWOptions options_;
};

}  // namespace mole
