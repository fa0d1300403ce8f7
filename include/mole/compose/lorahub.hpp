#pragma once
// LoRAHub (Huang et al., COLM 2024, arXiv 2307.13269): weights of experts from a few examples, found without
// gradients. Needs NLopt: link mole::search.
//
//   min over w in [-b, b]^N of loss(w) + l1 sum_i |w_i| / N,  b = 1.5, l1 = 0.05, 40 evaluations from w = 0
//
// The search is COBYLA with first steps of b / 3. On quadratic and logistic objectives of 2 to 20 weights,
// smooth and noisy, it came closest after 40 evaluations: CRS2, ISRES, ESCH and DIRECT-L had found little at
// 8 weights and more, BOBYQA at 20. LoRAHub itself takes Nevergrad's NGOpt.

#include <nlopt.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <numeric>
#include <type_traits>
#include <utility>
#include <vector>

#include <mole/compose/compose.hpp>

namespace mole {

/// The defaults are LoRAHub's.
struct LorahubOptions {
  Index budget = 40;       ///< evaluations of the loss
  double bound = 1.5;      ///< of |w_i|
  double l1 = 0.05;        ///< times the mean of |w_i|
  std::uint64_t seed = 0;  ///< of the order and length of the first steps: another seed is another search
};

/// The best weights that a search saw.
struct LorahubResult {
  std::vector<double> weights;
  double objective = 0;         ///< loss + l1 mean |w|
  std::vector<double> history;  ///< the objective of each evaluation, in order; what is not finite included
};

namespace detail {

// One search, as NLopt's callback sees it. NLopt's variable k is expert order[k].
struct LorahubSearch {
  std::function<double(const std::vector<double>&)> loss;
  LorahubOptions options;
  std::vector<std::size_t> order;
  LorahubResult best;
  double worst = 0;
  bool found = false;
  std::exception_ptr thrown;
  nlopt_opt solver = nullptr;

  double evaluate(const double* x) {
    std::vector<double> weights(order.size());
    double size = 0;
    for (std::size_t k = 0; k < order.size(); ++k) {
      weights[order[k]] = x[k];
      size += std::abs(x[k]);
    }
    const double value = loss(weights) + options.l1 * size / static_cast<double>(order.size());
    best.history.push_back(value);
    // The solver fits planes through the values: one that is not finite must be bad, and finite.
    if (!is_finite(value)) return worst + std::abs(worst) + 1;
    worst = found ? std::max(worst, value) : value;
    if (!found || value < best.objective) {
      best.objective = value;
      best.weights = std::move(weights);
    }
    found = true;
    return value;
  }

  // No exception may pass through NLopt, which is C.
  static double call(unsigned, const double* x, double*, void* self) {
    auto& search = *static_cast<LorahubSearch*>(self);
    try {
      return search.evaluate(x);
    } catch (...) {
      search.thrown = std::current_exception();
      nlopt_force_stop(search.solver);
      return HUGE_VAL;
    }
  }
};

}  // namespace detail

/// Searches the weights of n experts for the smallest loss; loss(weights) is called `budget` times at most,
/// first with zeros. The same seed and the same losses give the same weights. With budget <= n + 1 not every
/// expert is tried by itself.
/// Throws ArgumentError for no experts or options that make no sense, NumericError if no loss was finite,
/// Error where NLopt fails, and what `loss` throws.
inline LorahubResult lorahub_search(std::size_t n, std::function<double(const std::vector<double>&)> loss,
                                    const LorahubOptions& options = {}) {
  MOLE_CHECK_ARG(n >= 1, "lorahub_search: the list of experts is empty; give at least one adapter");
  MOLE_CHECK_ARG(options.budget >= 1 && options.budget <= 1'000'000,
                 "lorahub_search: expected a budget of 1 to 1000000 evaluations, got", options.budget);
  MOLE_CHECK_ARG(is_finite(options.bound) && options.bound > 0,
                 "lorahub_search: expected a bound above 0, got", options.bound);
  MOLE_CHECK_ARG(is_finite(options.l1) && options.l1 >= 0,
                 "lorahub_search: expected an l1 of at least 0, got", options.l1);
  detail::LorahubSearch search{std::move(loss), options, std::vector<std::size_t>(n), {}, 0, false, {}, {}};
  const RandomStream stream{options.seed, 0};
  std::iota(search.order.begin(), search.order.end(), std::size_t{0});
  std::vector<double> steps(n);
  for (std::size_t k = 0; k < n; ++k) {
    const auto draw = static_cast<Index>(2 * k);
    const auto rest = static_cast<double>(n - k);
    std::swap(search.order[k], search.order[k + static_cast<std::size_t>(uniform(stream, draw) * rest)]);
    steps[k] = options.bound / 3 * (0.75 + 0.5 * uniform(stream, draw + 1));
  }

  const std::unique_ptr<std::remove_pointer_t<nlopt_opt>, decltype(&nlopt_destroy)> solver(
      nlopt_create(NLOPT_LN_COBYLA, static_cast<unsigned>(n)), &nlopt_destroy);
  MOLE_CHECK_AS(Error, solver, "lorahub_search: NLopt could not make a solver of", n, "weights");
  search.solver = solver.get();
  nlopt_set_lower_bounds1(search.solver, -options.bound);
  nlopt_set_upper_bounds1(search.solver, options.bound);
  nlopt_set_initial_step(search.solver, steps.data());
  nlopt_set_min_objective(search.solver, &detail::LorahubSearch::call, &search);
  nlopt_set_maxeval(search.solver, static_cast<int>(options.budget));
  std::vector<double> x(n, 0.0);
  double value = 0;
  const nlopt_result status = nlopt_optimize(search.solver, x.data(), &value);
  if (search.thrown) std::rethrow_exception(search.thrown);
  MOLE_CHECK_AS(Error, status > 0 || status == NLOPT_ROUNDOFF_LIMITED,
                "lorahub_search: NLopt failed:", nlopt_result_to_string(status));
  MOLE_CHECK_AS(NumericError, search.found, "lorahub_search: none of", search.best.history.size(),
                "losses was finite");
  return std::move(search.best);
}

/// LoRAHub on a model: searches with `loss`, called with the experts merged into the slots by the weights
/// under trial, and leaves them merged by the best. Throws as lorahub_search() and merge().
template <class T, class B, class Loss>
LorahubResult lorahub(SlotTable<T, B>& table, const std::vector<LoraSet>& sets, Loss loss,
                      const LorahubOptions& options = {}) {
  const auto apply = [&](const std::vector<double>& weights) {
    ComposeOptions given;
    given.weights = weights;
    merge(table, "lorahub", sets, given);
  };
  const auto found = lorahub_search(
      sets.size(),
      [&](const std::vector<double>& weights) {
        apply(weights);
        return static_cast<double>(loss());
      },
      options);
  apply(found.weights);
  return found;
}

}  // namespace mole
