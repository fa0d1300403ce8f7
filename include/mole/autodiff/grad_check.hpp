#pragma once
// Pullbacks against finite differences: the full Jacobian, element by element.

#include <algorithm>
#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include <mole/autodiff/backward.hpp>

namespace mole {

/// How grad_check compares.
struct GradCheckOptions {
  double step = 1e-5;       ///< half the central difference
  double tolerance = 1e-7;  ///< on |numeric - analytic| / max(1, |numeric|, |analytic|)
  /// Elements (input, element) whose function has a kink nearby and which are left out.
  std::function<bool(std::size_t input, Index element)> skip = {};
};

/// What grad_check found.
struct GradCheckResult {
  bool ok = true;
  double worst = 0;    ///< largest error met
  Index compared = 0;  ///< Jacobian entries compared
  std::string where;   ///< names the worst entry
};

/// Compares each entry of the Jacobian of f at `inputs` by backward() with central differences.
/// f takes the inputs and returns a tensor of any shape; inputs are leaves of double precision, which are
/// marked as requiring gradients here. Throws what f throws.
template <class B>
GradCheckResult grad_check(const std::function<Tensor<double, B>(const std::vector<Tensor<double, B>>&)>& f,
                           std::vector<Tensor<double, B>> inputs, const GradCheckOptions& options = {}) {
  using D = Tensor<double, B>;
  for (auto& input : inputs) input = input.clone().set_requires_grad();
  const D value = f(inputs);
  const Index outputs = value.size();

  // analytic[i][k * outputs + o] = d y_o / d x_i,k
  std::vector<std::vector<double>> analytic;
  for (const auto& input : inputs) analytic.emplace_back(static_cast<std::size_t>(input.size() * outputs));
  for (Index o = 0; o < outputs; ++o) {
    std::vector<double> seed(static_cast<std::size_t>(outputs));
    seed[static_cast<std::size_t>(o)] = 1;
    for (const auto& input : inputs) input.zero_grad();
    backward(f(inputs), D::from(value.shape(), seed));
    for (std::size_t i = 0; i < inputs.size(); ++i) {
      if (!inputs[i].grad().defined()) continue;
      const auto row = inputs[i].grad().to_host();
      for (std::size_t k = 0; k < row.size(); ++k)
        analytic[i][k * static_cast<std::size_t>(outputs) + static_cast<std::size_t>(o)] = row[k];
    }
  }

  GradCheckResult result;
  const NoGrad off;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    const auto original = inputs[i].to_host();
    for (std::size_t k = 0; k < original.size(); ++k) {
      if (options.skip && options.skip(i, static_cast<Index>(k))) continue;
      auto at = [&](double offset) {
        auto moved = original;
        moved[k] += offset;
        inputs[i].assign(D::from(inputs[i].shape(), moved));
        return f(inputs).to_host();
      };
      const auto above = at(options.step), below = at(-options.step);
      inputs[i].assign(D::from(inputs[i].shape(), original));
      for (std::size_t o = 0; o < above.size(); ++o) {
        const double numeric = (above[o] - below[o]) / (2 * options.step);
        const double exact = analytic[i][k * static_cast<std::size_t>(outputs) + o];
        const double error = std::abs(numeric - exact) / std::max({1.0, std::abs(numeric), std::abs(exact)});
        ++result.compared;
        if (error <= result.worst) continue;
        result.worst = is_nan(error) ? detail::infinity<double>() : error;
        result.where =
            message("d y", o, "/ d input", i, "element", k, ": numeric", numeric, "pullback", exact);
      }
    }
  }
  result.ok = result.compared > 0 && result.worst <= options.tolerance;
  return result;
}

}  // namespace mole
