#pragma once
// How the next token is chosen from a row of logits: penalties, what is kept of the distribution, and the draw.
// The order is that of transformers: repetition penalty, no repeated n-gram, temperature, top-k, top-p, min-p.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <vector>

#include <mole/core/error.hpp>
#include <mole/core/order.hpp>
#include <mole/core/random.hpp>
#include <mole/core/shape.hpp>

namespace mole {

/// What is done to the logits before a token is chosen. Each has a value that does nothing.
struct SamplingOptions {
  bool draw = false;  ///< draw a token; else take the likeliest, and only the first two below count
  double repetition_penalty = 1;  ///< p: a logit l of a token that has occurred becomes l/p, or l p below 0
  Index no_repeat_ngram = 0;      ///< n: no n tokens occur twice in a row; 0: they may
  double temperature = 1;         ///< what logits are divided by
  Index top_k = 0;                ///< keep the k likeliest and what is as likely; 0 keeps all
  double top_p = 1;               ///< keep the likeliest whose probabilities sum to p
  double min_p = 0;               ///< keep what has at least this share of the largest probability
  std::uint64_t seed = 0;         ///< of the draws

  /// Throws ArgumentError for a value out of range.
  void check() const {
    MOLE_CHECK_ARG(repetition_penalty > 0, "sampling: expected a repetition penalty above 0, got",
                   repetition_penalty);
    MOLE_CHECK_ARG(no_repeat_ngram >= 0 && top_k >= 0,
                   "sampling: no_repeat_ngram and top_k cannot be below 0");
    MOLE_CHECK_ARG(temperature > 0, "sampling: expected a temperature above 0, got", temperature,
                   "; for the likeliest token turn draw off");
    MOLE_CHECK_ARG(top_p > 0 && top_p <= 1, "sampling: expected top_p above 0 and at most 1, got", top_p);
    MOLE_CHECK_ARG(min_p >= 0 && min_p <= 1, "sampling: expected min_p from 0 to 1, got", min_p);
  }
};

namespace detail {

inline constexpr double no_logit = -std::numeric_limits<double>::infinity();

/// exp of the logits over their sum.
inline std::vector<double> probabilities(const std::vector<double>& logits) {
  const double top = *std::max_element(logits.begin(), logits.end());
  std::vector<double> p(logits.size());
  double sum = 0;
  for (std::size_t i = 0; i < p.size(); ++i) sum += p[i] = std::exp(logits[i] - top);
  for (double& value : p) value /= sum;
  return p;
}

inline void penalise_repetition(std::vector<double>& logits, const std::vector<Index>& seen, double penalty) {
  std::vector<bool> done(logits.size());
  for (const Index token : seen) {
    const auto i = static_cast<std::size_t>(token);
    if (i >= logits.size() || done[i]) continue;
    done[i] = true;
    logits[i] = logits[i] > 0 ? logits[i] / penalty : logits[i] * penalty;
  }
}

/// Bars every token that would end an n-gram which has occurred.
inline void bar_ngrams(std::vector<double>& logits, const std::vector<Index>& seen, Index n) {
  const auto size = static_cast<std::size_t>(n);
  if (seen.size() + 1 < size) return;
  const auto last = seen.end() - static_cast<std::ptrdiff_t>(size - 1);
  for (std::size_t i = 0; i + size <= seen.size(); ++i) {
    const auto begin = seen.begin() + static_cast<std::ptrdiff_t>(i);
    const Index next = seen[i + size - 1];
    if (std::equal(last, seen.end(), begin) && next >= 0 && static_cast<std::size_t>(next) < logits.size())
      logits[static_cast<std::size_t>(next)] = no_logit;
  }
}

inline void keep_top_k(std::vector<double>& logits, Index k) {
  if (k >= static_cast<Index>(logits.size())) return;
  auto sorted = logits;
  const auto at = sorted.begin() + static_cast<std::ptrdiff_t>(k - 1);
  std::nth_element(sorted.begin(), at, sorted.end(), std::greater<>());
  const double least = *at;
  for (double& logit : logits)
    if (logit < least) logit = no_logit;
}

inline void keep_top_p(std::vector<double>& logits, double top_p) {
  const auto p = probabilities(logits);
  const auto order = ascending(logits);
  double below = 0;
  for (std::size_t i = 0; i + 1 < order.size(); ++i) {
    below += p[order[i]];
    if (below > 1 - top_p) break;
    logits[order[i]] = no_logit;
  }
}

inline void keep_min_p(std::vector<double>& logits, double min_p) {
  const auto p = probabilities(logits);
  const double least = min_p * *std::max_element(p.begin(), p.end());
  for (std::size_t i = 0; i < p.size(); ++i)
    if (p[i] < least) logits[i] = no_logit;
}

}  // namespace detail

/// The penalties alone, on logits or log-probabilities; `seen` are the tokens so far, prompt included.
inline void apply_penalties(std::vector<double>& logits, const std::vector<Index>& seen,
                            const SamplingOptions& options) {
  if (options.repetition_penalty != 1) detail::penalise_repetition(logits, seen, options.repetition_penalty);
  if (options.no_repeat_ngram > 0) detail::bar_ngrams(logits, seen, options.no_repeat_ngram);
}

/// All of it: what a draw takes the softmax of. A token that is left out has -infinity.
inline void process_logits(std::vector<double>& logits, const std::vector<Index>& seen,
                           const SamplingOptions& options) {
  apply_penalties(logits, seen, options);
  if (options.temperature != 1)
    for (double& logit : logits) logit /= options.temperature;
  if (options.top_k > 0) detail::keep_top_k(logits, options.top_k);
  if (options.top_p < 1) detail::keep_top_p(logits, options.top_p);
  if (options.min_p > 0) detail::keep_min_p(logits, options.min_p);
}

/// The token at u in [0, 1) of the cumulated softmax of the logits; one with probability 0 is never drawn.
/// Throws NumericError where no token is left.
inline Index draw_token(const std::vector<double>& logits, double u) {
  const auto p = detail::probabilities(logits);
  double below = 0;
  Index last = -1;
  for (std::size_t i = 0; i < p.size(); ++i) {
    if (!(p[i] > 0)) continue;
    last = static_cast<Index>(i);
    below += p[i];
    if (u < below) break;
  }
  MOLE_CHECK_AS(NumericError, last >= 0, "sampling: no token is left to draw");
  return last;
}

}  // namespace mole
