#pragma once
// Decoding of a decoder-only model with cached keys and values: greedy, beams and draws; the tokens of the first
// two equal those of Hugging Face's generate().

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <functional>
#include <type_traits>
#include <utility>
#include <vector>

#include <mole/models/causal/model.hpp>
#include <mole/models/causal/sampling.hpp>
#include <mole/models/generate.hpp>

namespace mole {

/// How generate() writes on.
struct CausalGenerateOptions {
  Index max_new_tokens = 64;  ///< beyond the prompt
  Index beams = 1;            ///< 1: greedy, or draws
  double length_penalty = 1;  ///< a finished beam scores sum of log p / length^penalty, of the new tokens
  SamplingOptions sampling = {};
  std::function<void(Index row, Index token)> on_token = {};  ///< is told each token at once; not with beams
};

/// What was written to each row of a batch.
struct Generated {
  std::vector<std::vector<Index>> tokens;  ///< the new ones; the end token, if it came, last
  std::vector<double> scores;              ///< with beams, of the best one
};

namespace detail {

/// A batch's tokens on the host.
struct Prompts {
  std::vector<std::vector<Index>> tokens;  ///< without padding
  std::vector<std::vector<bool>> real;     ///< [S][L]; empty where no token is padding
};

template <class T, class B>
Prompts read_prompts(const TokenBatch<T, B>& batch) {
  const Index S = batch.ids.size(0), L = batch.ids.size(1);
  const auto ids = batch.ids.to_host();
  const auto mask = batch.mask.defined() ? batch.mask.to_host() : std::vector<T>();
  Prompts prompts;
  for (Index s = 0; s < S; ++s) {
    std::vector<Index> row;
    std::vector<bool> real;
    for (Index l = 0; l < L; ++l) {
      const auto i = static_cast<std::size_t>(s * L + l);
      real.push_back(mask.empty() || static_cast<double>(mask[i]) != 0);
      if (real.back()) row.push_back(ids[i]);
      MOLE_CHECK_ARG(real.back() || row.empty(), "generate: row", s,
                     "is padded after its first token; pad prompts on the left (pad_left)");
    }
    MOLE_CHECK_ARG(!row.empty(), "generate: row", s, "holds no token; a prompt has at least one");
    prompts.tokens.push_back(std::move(row));
    if (!mask.empty()) prompts.real.push_back(std::move(real));
  }
  return prompts;
}

/// The mask [rows, n] of prompts and what was written after them, each `times` in a row.
template <class T, class B>
Tensor<T, B> written_mask(const Prompts& prompts, Index n, Index times) {
  if (prompts.real.empty()) return {};
  std::vector<T> mask;
  for (const auto& real : prompts.real)
    for (Index i = 0; i < times; ++i)
      for (Index l = 0; l < n; ++l)
        mask.push_back(l >= static_cast<Index>(real.size()) || real[static_cast<std::size_t>(l)] ? T(1)
                                                                                                 : T(0));
  return Tensor<T, B>::from({static_cast<Index>(prompts.real.size()) * times, n}, mask);
}

/// Row r of logits. Throws NumericError for a NaN or where no token is possible.
template <class T>
std::vector<double> logit_row(const std::vector<T>& logits, Index r, Index V) {
  const auto begin = logits.begin() + static_cast<std::ptrdiff_t>(r * V);
  std::vector<double> row(begin, begin + static_cast<std::ptrdiff_t>(V));
  double top = no_logit;
  for (const double logit : row) {
    MOLE_CHECK_AS(NumericError, !is_nan(logit), "generate: the logits of row", r,
                  "are NaN; the weights or the gates hold NaN or infinite values");
    top = std::max(top, logit);
  }
  MOLE_CHECK_AS(NumericError, is_finite(top), "generate: the logits of row", r, "are infinite");
  return row;
}

inline bool is_end(const std::vector<Index>& ends, Index token) {
  return std::find(ends.begin(), ends.end(), token) != ends.end();
}

/// What fills a row that has ended while others go on.
inline Index fill_token(const CausalConfig& config) {
  if (config.pad_token_id >= 0) return config.pad_token_id;
  return config.eos_token_ids.empty() ? 0 : config.eos_token_ids.front();
}

template <class T, class B>
Generated generate_single(const CausalModel<T, B>& model, const TokenBatch<T, B>& batch, MolePass<T, B>& pass,
                          const CausalGenerateOptions& options) {
  const auto& config = model.config();
  const Index S = batch.sequences(), L = batch.ids.size(1), V = config.vocab_size;
  const auto prompts = read_prompts(batch);
  Generated result{std::vector<std::vector<Index>>(static_cast<std::size_t>(S)), {}};
  std::vector<bool> ended(static_cast<std::size_t>(S));
  CausalCache<T, B> cache;
  auto ids = batch.ids;
  auto seen = prompts.tokens;
  for (Index t = 0; t < options.max_new_tokens; ++t) {
    const auto logits = model.next_logits(ids, written_mask<T, B>(prompts, L + t, 1), pass, cache).to_host();
    std::vector<Index> next(static_cast<std::size_t>(S), fill_token(config));
    bool open = false;
    for (Index s = 0; s < S; ++s) {
      const auto row = static_cast<std::size_t>(s);
      if (ended[row]) continue;
      auto scores = logit_row(logits, s, V);
      if (options.sampling.draw) {
        process_logits(scores, seen[row], options.sampling);
        // A stream for each row: what one says does not change what the others do.
        next[row] = draw_token(scores, uniform({options.sampling.seed, static_cast<std::uint64_t>(s)}, t));
      } else {
        apply_penalties(scores, seen[row], options.sampling);
        next[row] = static_cast<Index>(std::max_element(scores.begin(), scores.end()) - scores.begin());
      }
      seen[row].push_back(next[row]);
      result.tokens[row].push_back(next[row]);
      if (options.on_token) options.on_token(s, next[row]);
      ended[row] = is_end(config.eos_token_ids, next[row]);
      open = open || !ended[row];
    }
    if (!open) break;
    ids = Tensor<Index, B>::from({S, 1}, next);
  }
  return result;
}

template <class T, class B>
Generated generate_beams(const CausalModel<T, B>& model, const TokenBatch<T, B>& batch, MolePass<T, B>& pass,
                         const CausalGenerateOptions& options) {
  const auto& config = model.config();
  const Index S = batch.sequences(), L = batch.ids.size(1), V = config.vocab_size, beams = options.beams;
  const Index rows = S * beams;
  const auto prompts = read_prompts(batch);
  // The search counts from a start token, which a beam's tokens begin with.
  std::vector<BeamSearch> searches(static_cast<std::size_t>(S));
  for (auto& search : searches) {
    search.running.assign(static_cast<std::size_t>(beams), {-1e9, {-1}});
    search.running.front().score = 0;
  }
  const auto last_length = static_cast<std::size_t>(options.max_new_tokens) + 1;
  CausalCache<T, B> cache;
  auto ids = batch.ids;
  for (Index t = 0; t < options.max_new_tokens; ++t) {
    const Index times = t == 0 ? 1 : beams;  // the prompt is read once for all its beams
    const auto logits =
        model.next_logits(ids, written_mask<T, B>(prompts, L + t, times), pass, cache).to_host();
    std::vector<Index> origin(static_cast<std::size_t>(rows)), tokens(origin.size(), fill_token(config));
    bool moved = t == 0, open = false;
    for (Index s = 0; s < S; ++s) {
      auto& search = searches[static_cast<std::size_t>(s)];
      std::vector<Index> from;
      if (search.open) {
        std::vector<std::vector<double>> log_p;
        for (Index b = 0; b < beams; ++b) {
          const auto row = logit_row(logits, t == 0 ? s : s * beams + b, V);
          log_p.push_back(log_probabilities(row.data(), V));
          auto seen = prompts.tokens[static_cast<std::size_t>(s)];
          const auto& written = search.running[static_cast<std::size_t>(b)].tokens;
          seen.insert(seen.end(), written.begin() + 1, written.end());
          apply_penalties(log_p.back(), seen, options.sampling);
        }
        from = search.step(log_p, config.eos_token_ids, last_length, options.length_penalty);
      }
      open = open || search.open;
      for (Index b = 0; b < beams; ++b) {
        const auto row = static_cast<std::size_t>(s * beams + b);
        const Index beam = from.empty() ? b : from[static_cast<std::size_t>(b)];
        origin[row] = t == 0 ? s : s * beams + beam;
        moved = moved || beam != b;
        if (!from.empty()) tokens[row] = search.running[static_cast<std::size_t>(b)].tokens.back();
      }
    }
    if (!open) break;
    const auto index = Tensor<Index, B>::from({rows}, origin);
    if (moved) reorder(cache, index);
    if (t == 0) select_sequences(pass, index);
    ids = Tensor<Index, B>::from({rows, 1}, tokens);
  }
  Generated result;
  for (const auto& search : searches) {
    const auto& best = search.finished.front();
    result.tokens.emplace_back(best.tokens.begin() + 1, best.tokens.end());
    result.scores.push_back(best.score);
  }
  return result;
}

}  // namespace detail

/// Writes on after each prompt of a batch, which is padded on the left, until a token ends the text. The gates of
/// sequences are made from the prompts. Afterwards the pass holds the gates that were used, those of each beam.
/// A row's tokens are counted for the penalties without its padding.
/// Throws ArgumentError for prompts that are empty or padded on the right, or options out of range; NumericError
/// for logits that are NaN or infinite.
template <class T, class B>
Generated generate(const CausalModel<T, B>& model, const std::type_identity_t<TokenBatch<T, B>>& batch,
                   std::type_identity_t<MolePass<T, B>>& pass, const CausalGenerateOptions& options = {}) {
  MOLE_CHECK_ARG(options.beams >= 1 && options.max_new_tokens >= 1,
                 "generate: expected at least one beam and one token, got", options.beams, "and",
                 options.max_new_tokens);
  MOLE_CHECK_ARG(options.beams == 1 || !options.sampling.draw, "generate: draws take one beam, got",
                 options.beams);
  options.sampling.check();
  const NoGrad off;
  return options.beams == 1 ? detail::generate_single(model, batch, pass, options)
                            : detail::generate_beams(model, batch, pass, options);
}

}  // namespace mole
