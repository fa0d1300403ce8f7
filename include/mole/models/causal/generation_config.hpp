#pragma once
// generation_config.json: the tokens that end a text, and how a model's makers want it to write.

#include <filesystem>
#include <string>

#include <mole/models/causal/config_file.hpp>
#include <mole/models/causal/generate.hpp>

namespace mole {

/// A model's tokens as generation_config.json gives them; what it does not say stays as it is.
/// Throws FormatError, naming file and field, for a token outside the vocabulary; Error where the file cannot be
/// read.
inline CausalConfig read_generation_tokens(const std::filesystem::path& path, CausalConfig config) {
  const auto json = read_json_object(path);
  const std::string source = message(path) + ":";
  const detail::ConfigFields fields(json, source);
  const auto ends = config.eos_token_ids;
  detail::read_special_tokens(fields, config.bos_token_id, config.pad_token_id, -1, config);
  if (!fields.has("eos_token_id")) config.eos_token_ids = ends;
  return config;
}

/// How the file wants text to be written. As transformers does, a draw without a top_k keeps 50. The number of new
/// tokens and the seed are for the caller to choose, unless max_new_tokens is given.
/// Throws FormatError, naming file and field, for an impossible value; Error where the file cannot be read.
inline CausalGenerateOptions read_generation_options(const std::filesystem::path& path) {
  const auto json = read_json_object(path);
  const std::string source = message(path) + ":";
  const detail::ConfigFields fields(json, source);
  CausalGenerateOptions options;
  auto& sampling = options.sampling;
  constexpr Index most = detail::most_of_config;
  options.max_new_tokens = fields.integer("max_new_tokens", options.max_new_tokens, 1, most);
  options.beams = fields.integer("num_beams", 1, 1, 1000);
  options.length_penalty = fields.number("length_penalty", 1);
  sampling.draw = fields.flag("do_sample", false);
  sampling.repetition_penalty = fields.number("repetition_penalty", 1);
  sampling.no_repeat_ngram = fields.integer("no_repeat_ngram_size", 0, 0, most);
  if (sampling.draw) {
    sampling.temperature = fields.number("temperature", 1);
    sampling.top_k = fields.integer("top_k", 50, 0, most);
    sampling.top_p = fields.number("top_p", 1);
    sampling.min_p = fields.number("min_p", 0);
  }
  try {
    sampling.check();
  } catch (const ArgumentError& error) {
    throw FormatError(message(source, error.what()));
  }
  return options;
}

}  // namespace mole
