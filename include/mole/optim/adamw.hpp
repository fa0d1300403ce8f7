#pragma once
// Adam with decoupled weight decay (Loshchilov and Hutter, ICLR 2019).

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

template <class T>
struct AdamWUpdate {
  T* p;
  const T* g;
  T *m, *v;
  T keep, share1, beta2, share2, size, root, eps;

  MOLE_HD void operator()(Index i) const {
    const T d = g[i];
    const T mean = m[i] + share1 * (d - m[i]);
    const T square = beta2 * v[i] + share2 * d * d;
    m[i] = mean;
    v[i] = square;
    p[i] = keep * p[i] - size * mean / (std::sqrt(square) / root + eps);
  }
};

}  // namespace detail

/// m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g^2;  at a parameter's t-th update
/// p = (1 - rate lambda) p - rate / (1 - b1^t) m / (sqrt(v / (1 - b2^t)) + eps). The numbers of
/// torch.optim.AdamW. state(): m and v of each parameter in turn.
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
  void step(double rate) {
    this->for_each_gradient(rate, [&](std::size_t i, const Tensor<T, B>& gradient) {
      const auto& parameter = this->parameters()[i];
      const auto &m = this->state()[2 * i], &v = this->state()[2 * i + 1];
      const auto t = static_cast<double>(this->steps()[i]);
      const auto& [beta1, beta2, eps, decay] = options_;
      B::for_each(parameter.size(),
                  detail::AdamWUpdate<T>{
                      parameter.data(), gradient.data(), m.data(), v.data(), static_cast<T>(1 - rate * decay),
                      static_cast<T>(1 - beta1), static_cast<T>(beta2), static_cast<T>(1 - beta2),
                      static_cast<T>(rate / (1 - std::pow(beta1, t))),
                      static_cast<T>(std::sqrt(1 - std::pow(beta2, t))), static_cast<T>(eps)});
    });
  }

 private:
  AdamWOptions options_;
};

}  // namespace mole
