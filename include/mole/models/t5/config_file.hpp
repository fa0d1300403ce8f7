#pragma once
// The config.json of a Hugging Face T5, v1.0 and v1.1 / FLAN.

#include <cstdint>
#include <filesystem>
#include <limits>
#include <string>
#include <string_view>
#include <utility>

#include <nlohmann/json.hpp>

#include <mole/core/error.hpp>
#include <mole/core/shape.hpp>
#include <mole/io/json.hpp>
#include <mole/models/t5/config.hpp>

namespace mole {

namespace detail {

// The fields of a JSON object, each checked for its type; a missing or null one has its default.
class ConfigFields {
 public:
  ConfigFields(const nlohmann::json& json, std::string source) : json_(json), source_(std::move(source)) {}

  bool has(const char* name) const { return json_.contains(name) && !json_.at(name).is_null(); }

  Index integer(const char* name, Index otherwise, Index least, Index most) const {
    if (!has(name)) return otherwise;
    const auto& value = json_.at(name);
    const bool fits = value.is_number_integer() &&
                      !(value.is_number_unsigned() &&
                        value.get<std::uint64_t>() > std::uint64_t{std::numeric_limits<Index>::max()}) &&
                      value.get<Index>() >= least && value.get<Index>() <= most;
    MOLE_CHECK_FORMAT(fits, source_, name, "should be a whole number from", least, "to", most, "and is",
                      value);
    return value.get<Index>();
  }
  double number(const char* name, double otherwise) const {
    if (!has(name)) return otherwise;
    MOLE_CHECK_FORMAT(json_.at(name).is_number(), source_, name, "should be a number and is", json_.at(name));
    return json_.at(name).get<double>();
  }
  bool flag(const char* name, bool otherwise) const {
    if (!has(name)) return otherwise;
    MOLE_CHECK_FORMAT(json_.at(name).is_boolean(), source_, name, "should be true or false and is",
                      json_.at(name));
    return json_.at(name).get<bool>();
  }
  std::string text(const char* name, const std::string& otherwise) const {
    if (!has(name)) return otherwise;
    MOLE_CHECK_FORMAT(json_.at(name).is_string(), source_, name, "should be text and is", json_.at(name));
    return json_.at(name).get<std::string>();
  }

 private:
  const nlohmann::json& json_;
  std::string source_;
};

// The library's name of a Hugging Face activation; empty if it has none.
inline std::string t5_activation(std::string_view name) {
  if (name == "swish") return "silu";
  if (name == "gelu_pytorch_tanh") return "gelu_new";
  return name == "relu" || name == "gelu" || name == "gelu_new" || name == "silu" ? std::string(name) : "";
}

inline void read_t5_feed_forward(const ConfigFields& fields, const std::string& source, T5Config& config) {
  const std::string layout = fields.text("feed_forward_proj", "relu");
  config.gated = layout.starts_with("gated-");
  const std::string named = config.gated ? layout.substr(6) : layout;
  config.activation = t5_activation(layout == "gated-gelu" ? "gelu_new" : named);
  MOLE_CHECK_FORMAT(!config.activation.empty(), source, "feed_forward_proj",
                    "'" + layout + "' is not supported:",
                    "expected relu, gelu, gelu_new or silu, or one of them after gated-");
  MOLE_CHECK_FORMAT(fields.flag("is_gated_act", config.gated) == config.gated, source,
                    "is_gated_act contradicts feed_forward_proj", "'" + layout + "'");
  const std::string activation = fields.text("dense_act_fn", config.activation);
  // transformers lets dense_act_fn win: the exact GELU, gated, has no other way to be written.
  if (layout == "gated-gelu" && activation == "gelu") config.activation = "gelu";
  MOLE_CHECK_FORMAT(t5_activation(activation) == config.activation, source, "dense_act_fn",
                    "'" + activation + "' contradicts feed_forward_proj '" + layout + "'");
}

}  // namespace detail

/// Reads config.json. Missing numbers have the defaults of transformers. Throws FormatError, naming file and
/// field, for another architecture or an impossible value; Error where the file cannot be read.
inline T5Config read_t5_config(const std::filesystem::path& path) {
  const auto json = read_json(path);
  const std::string source = message(path) + ":";
  MOLE_CHECK_FORMAT(json.is_object(), source, "expected a JSON object");
  const detail::ConfigFields fields(json, source);
  MOLE_CHECK_FORMAT(fields.text("model_type", "t5") == "t5", source, "model_type should be t5 and is",
                    fields.text("model_type", "t5"));
  MOLE_CHECK_FORMAT(!fields.has("quantization_config"), source,
                    "quantization_config is not supported: save the model unquantized");
  constexpr Index most = 1 << 30;
  T5Config config;
  config.vocab_size = fields.integer("vocab_size", 32128, 1, most);
  config.d_model = fields.integer("d_model", 512, 1, most);
  config.d_kv = fields.integer("d_kv", 64, 1, most);
  config.d_ff = fields.integer("d_ff", 2048, 1, most);
  config.num_heads = fields.integer("num_heads", 8, 1, most);
  config.num_layers = fields.integer("num_layers", 6, 1, 100'000);
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
  detail::read_t5_feed_forward(fields, source, config);
  config.tie_word_embeddings = fields.flag("tie_word_embeddings", true);
  // Before transformers 5, T5 scaled the output exactly where it tied the embeddings.
  config.scale_decoder_outputs = fields.flag("scale_decoder_outputs", config.tie_word_embeddings);
  const Index last = config.vocab_size - 1;
  config.pad_token_id = fields.integer("pad_token_id", 0, 0, last);
  config.eos_token_id = fields.integer("eos_token_id", 1, 0, last);
  config.decoder_start_token_id = fields.integer("decoder_start_token_id", config.pad_token_id, 0, last);
  return config;
}

/// Writes a config.json that transformers loads as a T5ForConditionalGeneration, atomically. Throws
/// ArgumentError for an activation that transformers does not know; Error where the file cannot be written.
inline void write_t5_config(const std::filesystem::path& path, const T5Config& config) {
  const std::string& act = config.activation;
  MOLE_CHECK_ARG(detail::t5_activation(act) == act && !act.empty(), "write_t5_config: unknown activation",
                 "'" + act + "': expected relu, gelu, gelu_new or silu");
  const bool gelu = act == "gelu" || act == "gelu_new";
  write_json(path, {{"architectures", nlohmann::json::array({"T5ForConditionalGeneration"})},
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
                    {"eos_token_id", config.eos_token_id},
                    {"decoder_start_token_id", config.decoder_start_token_id}});
}

}  // namespace mole
