#pragma once
// The config.json of a Hugging Face T5, v1.0 and v1.1 / FLAN.

#include <array>
#include <filesystem>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <mole/core/error.hpp>
#include <mole/core/quote.hpp>
#include <mole/core/shape.hpp>
#include <mole/io/config_digest.hpp>
#include <mole/io/config_fields.hpp>
#include <mole/io/json.hpp>
#include <mole/models/quantisation.hpp>
#include <mole/models/t5/config.hpp>

namespace mole {

namespace detail {

// The library's name of a Hugging Face activation; empty if it has none.
inline std::string t5_activation(std::string_view name) {
  if (name == "swish") return "silu";
  if (name == "gelu_pytorch_tanh") return "gelu_new";
  return name == "relu" || name == "gelu" || name == "gelu_new" || name == "silu" ? std::string(name) : "";
}

/// Whether a configuration's model_type is one that read_t5_config() reads.
inline bool is_t5_type(std::string_view type) { return type == "t5" || type == "mt5"; }

// `otherwise`: what a configuration without feed_forward_proj means.
inline void read_t5_feed_forward(const ConfigFields& fields, const std::string& source,
                                 const std::string& otherwise, T5Config& config) {
  const std::string layout = fields.text("feed_forward_proj", otherwise);
  config.gated = layout.starts_with("gated-");
  const std::string named = config.gated ? layout.substr(6) : layout;
  config.activation = t5_activation(layout == "gated-gelu" ? "gelu_new" : named);
  MOLE_CHECK_FORMAT(
      !config.activation.empty(), source, "feed_forward_proj", quote(layout),
      "is not supported:", "expected relu, gelu, gelu_new or silu, or one of them after gated-");
  MOLE_CHECK_FORMAT(fields.flag("is_gated_act", config.gated) == config.gated, source,
                    "is_gated_act contradicts feed_forward_proj", quote(layout));
  const std::string activation = fields.text("dense_act_fn", config.activation);
  // transformers lets dense_act_fn win: the exact GELU, gated, has no other way to be written.
  if (layout == "gated-gelu" && activation == "gelu") config.activation = "gelu";
  MOLE_CHECK_FORMAT(t5_activation(activation) == config.activation, source, "dense_act_fn", quote(activation),
                    "contradicts feed_forward_proj", quote(layout));
}

// No weight may be larger than any memory: a product that overflows would pass for a small one later.
inline void check_t5_sizes(const T5Config& config, const std::string& source) {
  const auto at_most = [&](const char* fields, Index a, Index b, Index most) {
    MOLE_CHECK_FORMAT(a <= most / b, source, fields, "comes to", a, "x", b, "; at most", most,
                      "is supported");
  };
  constexpr Index width = Index{1} << 30, matrix = Index{1} << 40;
  at_most("num_heads x d_kv", config.num_heads, config.d_kv, width);
  at_most("vocab_size x d_model", config.vocab_size, config.d_model, matrix);
  at_most("d_ff x d_model", config.d_ff, config.d_model, matrix);
  at_most("num_heads x d_kv x d_model", config.inner(), config.d_model, matrix);
  at_most("relative_attention_num_buckets x num_heads", config.relative_attention_num_buckets,
          config.num_heads, matrix);
}

}  // namespace detail

/// Reads config.json of a T5, or of an mT5, which is a T5 v1.1. Missing numbers have the defaults of
/// transformers. Throws FormatError, naming file and field, for another architecture or an impossible value;
/// Error where the file cannot be read.
inline T5Config read_t5_config(const std::filesystem::path& path) {
  const auto json = read_json_object(path);
  const std::string source = message(path) + ":";
  const detail::ConfigFields fields(json, source);
  const std::string type = fields.text("model_type", "t5");
  const bool mt5 = type == "mt5";
  MOLE_CHECK_FORMAT(detail::is_t5_type(type), source, "model_type should be t5 or mt5 and is", quote(type));
  detail::check_quantisation(json, source);
  constexpr Index most = 1 << 30;
  T5Config config;
  config.vocab_size = fields.integer("vocab_size", mt5 ? 250112 : 32128, 1, most);
  config.d_model = fields.integer("d_model", 512, 1, most);
  config.d_kv = fields.integer("d_kv", 64, 1, most);
  config.d_ff = fields.integer("d_ff", mt5 ? 1024 : 2048, 1, most);
  config.num_heads = fields.integer("num_heads", mt5 ? 6 : 8, 1, most);
  config.num_layers = fields.integer("num_layers", mt5 ? 8 : 6, 1, 100'000);
  config.num_decoder_layers = fields.integer("num_decoder_layers", config.num_layers, 1, 100'000);
  // With fewer than 4 buckets no distance of the encoder has one of its own, and the logarithm is of
  // infinity.
  config.relative_attention_num_buckets = fields.integer("relative_attention_num_buckets", 32, 4, most);
  config.relative_attention_max_distance = fields.integer(
      "relative_attention_max_distance", 128, config.relative_attention_num_buckets / 2 + 1, most);
  config.layer_norm_epsilon = fields.number("layer_norm_epsilon", 1e-6);
  config.dropout_rate = fields.number("dropout_rate", 0.1);
  MOLE_CHECK_FORMAT(config.layer_norm_epsilon > 0 && config.layer_norm_epsilon < 1, source,
                    "layer_norm_epsilon should be between 0 and 1 and is", config.layer_norm_epsilon);
  MOLE_CHECK_FORMAT(config.dropout_rate >= 0 && config.dropout_rate < 1, source,
                    "dropout_rate should be from 0 to below 1 and is", config.dropout_rate);
  detail::check_t5_sizes(config, source);
  detail::read_t5_feed_forward(fields, source, mt5 ? "gated-gelu" : "relu", config);
  config.tie_word_embeddings = fields.flag("tie_word_embeddings", true);
  // Before transformers 5, T5 scaled the output exactly where it tied the embeddings; mT5 never does.
  config.scale_decoder_outputs = fields.flag("scale_decoder_outputs", !mt5 && config.tie_word_embeddings);
  const Index last = config.vocab_size - 1;
  config.pad_token_id = fields.integer("pad_token_id", 0, 0, last);
  const auto ends = fields.integers("eos_token_id", 1, 0, last);
  config.eos_token_id = ends.front();
  config.further_eos_token_ids.assign(ends.begin() + 1, ends.end());
  config.decoder_start_token_id = fields.integer("decoder_start_token_id", config.pad_token_id, 0, last);
  return config;
}

namespace detail {

// Options of generation_config.json that change a text and that generate() takes from its caller or lacks, with
// what they are where they change nothing.
inline const Json& neutral_generation() {
  static const Json neutral = json_object({{"do_sample", false},
                                           {"num_beams", Index{1}},
                                           {"length_penalty", 1.0},
                                           {"repetition_penalty", 1.0},
                                           {"early_stopping", false},
                                           {"no_repeat_ngram_size", Index{0}},
                                           {"min_length", Index{0}},
                                           {"max_length", Json()},
                                           {"max_new_tokens", Json()},
                                           {"min_new_tokens", Json()},
                                           {"forced_bos_token_id", Json()},
                                           {"forced_eos_token_id", Json()},
                                           {"suppress_tokens", Json()},
                                           {"bad_words_ids", Json()}});
  return neutral;
}

}  // namespace detail

/// Reads generation_config.json beside a config.json, with transformers' precedence: where the file is, generate()
/// goes by its tokens alone. Without an eos_token_id no token ends a text; without a decoder_start_token_id it
/// begins with bos_token_id, and where neither is given with config.json's start; padding is by the first end
/// token, or config.json's. Options that generate() does not take from the file are told in *warnings where given.
/// Throws FormatError, naming file and field, for a token that the vocabulary lacks or a file that is no JSON
/// object; Error where it cannot be read.
inline void read_t5_generation_config(const std::filesystem::path& path, T5Config& config,
                                      std::vector<std::string>* warnings = nullptr) {
  const auto json = read_json_object(path);
  const std::string source = message(path) + ":";
  const detail::ConfigFields fields(json, source);
  const Index last = config.vocab_size - 1;
  GenerationTokens tokens;
  if (fields.has("eos_token_id")) tokens.ends = fields.integers("eos_token_id", 0, 0, last);
  const Index start = fields.integer("bos_token_id", config.decoder_start_token_id, 0, last);
  tokens.start = fields.integer("decoder_start_token_id", start, 0, last);
  tokens.pad = fields.integer("pad_token_id", tokens.ends.empty() ? config.pad_token_id : tokens.ends.front(),
                              0, last);
  if (tokens != config.generation_tokens()) config.generation = tokens;
  if (!warnings) return;
  if (tokens.ends.empty())
    warnings->push_back(message(source, "names no eos_token_id: only the limit of tokens ends a text"));
  for (const auto& [name, neutral] : detail::fields_of(detail::neutral_generation()))
    if (const auto* given = detail::given_field(json, name); given && !detail::is_scalar(*given, neutral))
      warnings->push_back(message(source, name, "is", detail::shown_json(*given),
                                  "; generate() goes by GenerateOptions alone"));
}

/// The generation_config.json of these tokens.
inline Json t5_generation_json(const GenerationTokens& tokens) {
  auto json = detail::json_object({{"decoder_start_token_id", tokens.start}, {"pad_token_id", tokens.pad}});
  if (tokens.ends.size() == 1)
    detail::set_field(json, {"eos_token_id", tokens.ends.front()});
  else if (!tokens.ends.empty())
    detail::set_field(json, {"eos_token_id", tokens.ends});
  return json;
}

/// The config.json that transformers loads as a T5ForConditionalGeneration. Throws ArgumentError for an
/// activation that transformers does not know.
inline Json t5_config_json(const T5Config& config) {
  const std::string& act = config.activation;
  MOLE_CHECK_ARG(detail::t5_activation(act) == act && !act.empty(), "T5Config: unknown activation",
                 quote(act) + ": expected relu, gelu, gelu_new or silu");
  const bool gelu = act == "gelu" || act == "gelu_new";
  std::vector<Index> ends{config.eos_token_id};
  ends.insert(ends.end(), config.further_eos_token_ids.begin(), config.further_eos_token_ids.end());
  const auto end = ends.size() == 1 ? detail::json_value(ends.front()) : detail::json_value(ends);
  return detail::json_object({{"architectures", std::vector<std::string>{"T5ForConditionalGeneration"}},
                              {"model_type", "t5"},
                              {"is_encoder_decoder", true},
                              {"use_cache", true},
                              {"vocab_size", config.vocab_size},
                              {"d_model", config.d_model},
                              {"d_kv", config.d_kv},
                              {"d_ff", config.d_ff},
                              {"num_heads", config.num_heads},
                              {"num_layers", config.num_layers},
                              {"num_decoder_layers", config.num_decoder_layers},
                              {"relative_attention_num_buckets", config.relative_attention_num_buckets},
                              {"relative_attention_max_distance", config.relative_attention_max_distance},
                              {"layer_norm_epsilon", config.layer_norm_epsilon},
                              {"dropout_rate", config.dropout_rate},
                              {"feed_forward_proj", config.gated ? "gated-" + (gelu ? "gelu" : act) : act},
                              {"dense_act_fn", act},
                              {"is_gated_act", config.gated},
                              {"tie_word_embeddings", config.tie_word_embeddings},
                              {"scale_decoder_outputs", config.scale_decoder_outputs},
                              {"pad_token_id", config.pad_token_id},
                              {"eos_token_id", end},
                              {"decoder_start_token_id", config.decoder_start_token_id}});
}

/// Writes it, atomically. Throws as t5_config_json() does; Error where the file cannot be written.
inline void write_t5_config(const std::filesystem::path& path, const T5Config& config) {
  write_json(path, t5_config_json(config));
}

namespace detail {

/// Of what gives a T5's weights their meaning.
inline std::string t5_config_digest(const T5Config& config) {
  constexpr std::array<std::string_view, 17> fields{"vocab_size",
                                                    "d_model",
                                                    "d_kv",
                                                    "d_ff",
                                                    "num_heads",
                                                    "num_layers",
                                                    "num_decoder_layers",
                                                    "relative_attention_num_buckets",
                                                    "relative_attention_max_distance",
                                                    "layer_norm_epsilon",
                                                    "feed_forward_proj",
                                                    "dense_act_fn",
                                                    "tie_word_embeddings",
                                                    "scale_decoder_outputs",
                                                    "pad_token_id",
                                                    "eos_token_id",
                                                    "decoder_start_token_id"};
  return config_digest(t5_config_json(config), fields);
}

}  // namespace detail

}  // namespace mole
