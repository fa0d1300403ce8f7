#pragma once
// Greedy and beam decoding of a sequence-to-sequence model with cached keys and values; the tokens equal
// those of Hugging Face's generate().

#include <algorithm>
#include <cmath>
#include <concepts>
#include <limits>
#include <type_traits>
#include <utility>
#include <vector>

#include <mole/core/order.hpp>
#include <mole/experts/mixer.hpp>
#include <mole/models/token_batch.hpp>
#include <mole/nn/kv_cache.hpp>

namespace mole {

/// How generate() searches.
struct GenerateOptions {
  Index max_new_tokens = 64;  ///< beyond the start token
  Index beams = 1;            ///< 1 is greedy
  double length_penalty = 1;  ///< a finished beam scores sum of log p / length^penalty
};

namespace detail {

template <class T, class B>
void select_sequences(MolePass<T, B>& pass, const Tensor<Index, B>& index) {
  for (auto& mask : pass.masks)
    mask = {mole::select_sequences(mask.real, index), mole::select_sequences(mask.prompt, index)};
  for (auto& gate : pass.gates)
    if (gate)
      gate = GateValue<T, B>{mole::select_sequences(gate->weights, index),
                             mole::select_sequences(gate->dense, index)};
  pass.weights = mole::select_sequences(pass.weights, index);
  if (pass.sets.empty()) return;
  std::vector<Index> sets;
  for (const Index s : index.to_host()) sets.push_back(pass.sets[static_cast<std::size_t>(s)]);
  pass.sets = std::move(sets);
}

/// Log-probabilities of one row of logits. Throws NumericError where there are none: a logit is NaN or infinite.
template <class T>
std::vector<double> log_probabilities(const T* logits, Index n) {
  double top = detail::minus_infinity<double>(), sum = 0;
  for (Index j = 0; j < n; ++j) top = std::max(top, static_cast<double>(logits[j]));
  for (Index j = 0; j < n; ++j) sum += std::exp(static_cast<double>(logits[j]) - top);
  MOLE_CHECK_AS(
      NumericError, is_finite(top) && is_finite(sum),
      "generate: the logits hold NaN or infinity, so that no token is the likeliest. The weights or an "
      "expert hold NaN, or the model goes beyond its type's range: half ends at 65504, use bf16 or float");
  std::vector<double> result(static_cast<std::size_t>(n));
  for (Index j = 0; j < n; ++j)
    result[static_cast<std::size_t>(j)] = static_cast<double>(logits[j]) - top - std::log(sum);
  return result;
}

/// A hypothesis: its tokens and its score.
struct Beam {
  double score = 0;
  std::vector<Index> tokens;
};

/// The beams of one sequence.
struct BeamSearch {
  std::vector<Beam> running, finished;
  bool open = true;  ///< whether a running beam may still beat the worst finished one

  /// Extends the running beams by one token each; log_p holds a row a beam, `ends` the tokens that end one. Returns
  /// the beam each new one came from.
  std::vector<Index> step(const std::vector<std::vector<double>>& log_p, const std::vector<Index>& ends,
                          std::size_t last_length, double penalty) {
    struct Candidate {
      double score;
      std::size_t beam;
      Index token;
    };
    const std::size_t beams = running.size();
    std::vector<Candidate> candidates;
    for (std::size_t b = 0; b < beams; ++b)
      for (std::size_t j = 0; j < log_p[b].size(); ++j)
        candidates.push_back({running[b].score + log_p[b][j], b, static_cast<Index>(j)});
    // Even if each beam ends in every token that ends one, enough go on.
    const auto kept = std::min(candidates.size(), (1 + ends.size()) * beams);
    std::partial_sort(candidates.begin(), candidates.begin() + static_cast<std::ptrdiff_t>(kept),
                      candidates.end(),
                      [](const Candidate& a, const Candidate& b) { return a.score > b.score; });
    candidates.resize(kept);

    std::vector<Beam> next;
    std::vector<Index> origin;
    const std::size_t length = running.front().tokens.size() + 1;
    for (std::size_t i = 0; i < candidates.size(); ++i) {
      const auto& c = candidates[i];
      auto tokens = running[c.beam].tokens;
      tokens.push_back(c.token);
      const bool ended = std::find(ends.begin(), ends.end(), c.token) != ends.end();
      if (!ended && length < last_length) {
        if (next.size() == beams) continue;
        next.push_back({c.score, std::move(tokens)});
        origin.push_back(static_cast<Index>(c.beam));
      } else if (i < beams && open) {
        finished.push_back({c.score / std::pow(static_cast<double>(length - 1), penalty), std::move(tokens)});
      }
    }
    std::vector<double> keys;
    for (const auto& beam : finished) keys.push_back(-beam.score);
    std::vector<Beam> best_finished;
    for (const std::size_t i : ascending(keys))
      if (best_finished.size() < beams) best_finished.push_back(std::move(finished[i]));
    finished = std::move(best_finished);
    if (next.empty()) {
      open = false;
      return origin;
    }
    while (next.size() < beams) {
      next.push_back(next.back());
      next.back().score = -1e9;
      origin.push_back(origin.back());
    }
    running = std::move(next);
    const double best = running.front().score / std::pow(static_cast<double>(length - 1), penalty);
    open = open && (finished.size() < beams || best > finished.back().score);
    return origin;
  }
};

}  // namespace detail

/// A model whose encoder reads a batch and whose decoder writes on, token by token.
template <class M>
concept EncoderDecoder = requires(const M& model,
                                  const TokenBatch<typename M::Scalar, typename M::Device>& batch,
                                  const Tensor<Index, typename M::Device>& ids,
                                  MolePass<typename M::Scalar, typename M::Device>& pass,
                                  KvCache<typename M::Scalar, typename M::Device>* cache) {
  model.decode(ids, model.encode(batch, pass), pass, cache);
  { M::decoder_stream } -> std::convertible_to<std::size_t>;
  { model.config().vocab_size } -> std::convertible_to<Index>;
  { model.config().generation_tokens() } -> std::same_as<GenerationTokens>;
};

/// The tokens generated for each sequence of a batch, the start token first and the end token, if it came, last.
/// Afterwards the pass holds the gates that were used.
/// Throws ArgumentError for beams or max_new_tokens below 1, NumericError for logits that are NaN or infinite.
template <EncoderDecoder M, class T = typename M::Scalar, class B = typename M::Device>
std::vector<std::vector<Index>> generate(const M& model, const std::type_identity_t<TokenBatch<T, B>>& batch,
                                         MolePass<T, B>& pass, const GenerateOptions& options = {}) {
  MOLE_CHECK_ARG(options.beams >= 1 && options.max_new_tokens >= 1,
                 "generate: expected at least one beam and one token, got", options.beams, "and",
                 options.max_new_tokens);
  const NoGrad off;
  const auto& config = model.config();
  const Index S = batch.sequences(), beams = options.beams, rows = S * beams;
  auto memory = model.encode(batch, pass);
  if (beams > 1) {
    std::vector<Index> repeat;
    for (Index r = 0; r < rows; ++r) repeat.push_back(r / beams);
    const auto index = Tensor<Index, B>::from({rows}, repeat);
    memory = {select_sequences(memory.states, index), select_sequences(memory.mask, index)};
    detail::select_sequences(pass, index);
  }
  const auto special = config.generation_tokens();
  std::vector<detail::BeamSearch> searches(static_cast<std::size_t>(S));
  for (auto& search : searches) {
    search.running.assign(static_cast<std::size_t>(beams), {-1e9, {special.start}});
    search.running.front().score = 0;
  }
  KvCache<T, B> cache;
  std::vector<Index> tokens(static_cast<std::size_t>(rows), special.start);
  const auto last_length = static_cast<std::size_t>(options.max_new_tokens) + 1;
  auto any_open = [&] {
    return std::any_of(searches.begin(), searches.end(), [](const auto& s) { return s.open; });
  };
  while (any_open()) {
    if (model.layers().mixer) model.layers().mixer->next_step(M::decoder_stream, pass);
    const auto logits =
        model.decode(Tensor<Index, B>::from({rows, 1}, tokens), memory, pass, &cache).to_host();
    std::vector<Index> origin(static_cast<std::size_t>(rows));
    bool moved = false;
    for (Index s = 0; s < S; ++s) {
      auto& search = searches[static_cast<std::size_t>(s)];
      std::vector<Index> from;
      if (search.open) {
        std::vector<std::vector<double>> log_p;
        for (Index b = 0; b < beams; ++b)
          log_p.push_back(detail::log_probabilities(logits.data() + (s * beams + b) * config.vocab_size,
                                                    config.vocab_size));
        from = search.step(log_p, special.ends, last_length, options.length_penalty);
      }
      for (Index b = 0; b < beams; ++b) {
        const auto at = static_cast<std::size_t>(b);
        const auto row = static_cast<std::size_t>(s * beams + b);
        origin[row] = s * beams + (from.empty() ? b : from[at]);
        moved = moved || origin[row] != s * beams + b;
        tokens[row] = from.empty() ? special.pad : search.running[at].tokens.back();
      }
    }
    if (!moved) continue;
    const auto index = Tensor<Index, B>::from({rows}, origin);
    reorder(cache, index);
  }
  std::vector<std::vector<Index>> result;
  for (const auto& search : searches) result.push_back(search.finished.front().tokens);
  return result;
}

}  // namespace mole
