#pragma once
// The config.json of Llama, Mistral, Qwen2, Qwen3 and Gemma 1, in the spellings of transformers 4 and 5.

#include <filesystem>
#include <string>
#include <vector>

#include <mole/models/causal/config_file.hpp>
#include <mole/models/llama/config.hpp>

namespace mole {

namespace detail {

/// What a model_type of this family says by its name alone.
inline bool is_llama_type(const std::string& type) {
  return type == "llama" || type == "mistral" || type == "qwen2" || type == "qwen3" || type == "gemma";
}

/// A number above zero from rope's fields.
inline double rope_number(const ConfigFields& fields, const std::string& source, const char* name,
                          double otherwise) {
  const double value = fields.number(name, otherwise);
  MOLE_CHECK_FORMAT(value > 0 && value < 1e15, source, name, "should be above 0 and below 1e+15 and is",
                    value);
  return value;
}

/// rope_parameters (transformers 5), or rope_scaling beside rope_theta (transformers 4). Of both, transformers 5 takes
/// rope_scaling, unless it is empty.
inline void read_rope(const Json& json, const ConfigFields& fields, const std::string& source,
                      LlamaConfig& config) {
  const auto partial = [&](const ConfigFields& from) {
    MOLE_CHECK_FORMAT(from.number("partial_rotary_factor", 1) == 1, source, "partial_rotary_factor",
                      from.number("partial_rotary_factor", 1),
                      "is not supported: only whole heads are turned");
  };
  partial(fields);
  config.rope_theta = rope_number(fields, source, "rope_theta", config.rope_theta);
  const auto* const old = given_field(json, "rope_scaling");
  const char* const name = old && !old->empty() ? "rope_scaling" : "rope_parameters";
  const auto* const given = given_field(json, name);
  if (!given) return;
  const auto& rope = *given;
  MOLE_CHECK_FORMAT(rope.is_object(), source, name, "should be an object and is", shown_json(rope));
  const ConfigFields own(rope, source + " " + name + ":");
  partial(own);
  config.rope_theta = rope_number(own, source, "rope_theta", config.rope_theta);
  const std::string kind = own.text("rope_type", own.text("type", "default"));
  auto& scaling = config.rope_scaling;
  if (kind == "default") return;
  MOLE_CHECK_FORMAT(kind == "linear" || kind == "llama3", source, "rope_type", quote(kind),
                    "is not supported: known are default, linear and llama3");
  MOLE_CHECK_FORMAT(own.has("factor"), source, name, "of type", kind, "needs a factor");
  scaling.kind = kind == "linear" ? RopeScaling::Kind::linear : RopeScaling::Kind::llama3;
  scaling.factor = rope_number(own, source, "factor", 1);
  if (kind == "linear") return;
  scaling.low_freq_factor = rope_number(own, source, "low_freq_factor", 1);
  scaling.high_freq_factor = rope_number(own, source, "high_freq_factor", 4);
  scaling.original_max_position_embeddings = rope_number(own, source, "original_max_position_embeddings",
                                                         static_cast<double>(config.max_position_embeddings));
  MOLE_CHECK_FORMAT(scaling.high_freq_factor > scaling.low_freq_factor, source,
                    "high_freq_factor should be above low_freq_factor and is", scaling.high_freq_factor);
}

/// Which layers see a window of keys.
inline void read_windows(const Json& json, const ConfigFields& fields, const std::string& source,
                         LlamaConfig& config) {
  const bool mistral = config.model_type == "mistral";
  const bool qwen = config.model_type == "qwen2" || config.model_type == "qwen3";
  if (!mistral && !(qwen && fields.flag("use_sliding_window", false))) return;
  // Absent is transformers' default; null is none.
  const bool none = find_field(json, "sliding_window") && !fields.has("sliding_window");
  if (none) return;
  const Index window = fields.integer("sliding_window", 4096, 1, most_of_config);
  const auto layers = static_cast<std::size_t>(config.num_hidden_layers);
  config.windows.assign(layers, window);
  if (const auto* given = given_field(json, "layer_types")) {
    MOLE_CHECK_FORMAT(given->is_array() && given->size() == layers, source, "layer_types should list", layers,
                      "layers");
    const auto& types = values_of(*given);
    for (std::size_t i = 0; i < layers; ++i) {
      const bool slides = is_text(types[i], "sliding_attention");
      MOLE_CHECK_FORMAT(slides || is_text(types[i], "full_attention"), source, "layer_types: unknown type",
                        shown_json(types[i]), "; known are full_attention and sliding_attention");
      if (!slides) config.windows[i] = 0;
    }
  } else if (qwen) {
    const Index first = fields.integer("max_window_layers", 28, 0, most_layers);
    for (std::size_t i = 0; i < layers; ++i)
      if (static_cast<Index>(i) < first) config.windows[i] = 0;
  }
}

inline std::string llama_activation(const std::string& name) {
  if (name == "swish") return "silu";
  if (name == "gelu_pytorch_tanh") return "gelu_new";
  return name == "silu" || name == "gelu" || name == "gelu_new" || name == "relu" ? name : "";
}

}  // namespace detail

/// Reads the config.json of a llama, mistral, qwen2, qwen3 or gemma. Missing options have the defaults of
/// transformers; sizes must be there. Throws FormatError, naming file and field, for another architecture, an
/// impossible value, weights of an unknown quantisation or a kind of rotary scaling that is not known; Error where the file
/// cannot be read.
inline LlamaConfig read_llama_config(const std::filesystem::path& path) {
  const auto json = read_json_object(path);
  const std::string source = message(path) + ":";
  const detail::ConfigFields fields(json, source);
  LlamaConfig config;
  config.model_type = fields.text("model_type", "llama");
  const std::string& type = config.model_type;
  MOLE_CHECK_FORMAT(detail::is_llama_type(type), source,
                    "model_type should be llama, mistral, qwen2, qwen3 or gemma and is", quote(type));
  detail::check_quantisation(json, source);
  const bool gemma = type == "gemma", qwen = type == "qwen2" || type == "qwen3";
  const auto size = [&](const char* name, Index most = detail::most_of_config) {
    return detail::needed_size(fields, source, name, most);
  };
  constexpr Index most = detail::most_of_config;
  config.vocab_size = size("vocab_size");
  config.hidden_size = size("hidden_size");
  config.intermediate_size = size("intermediate_size");
  config.num_hidden_layers = size("num_hidden_layers", detail::most_layers);
  config.num_attention_heads = size("num_attention_heads");
  config.num_key_value_heads = fields.integer("num_key_value_heads", config.num_attention_heads, 1, most);
  MOLE_CHECK_FORMAT(config.num_attention_heads % config.num_key_value_heads == 0, source,
                    "num_attention_heads should be a multiple of num_key_value_heads and is",
                    config.num_attention_heads, "for", config.num_key_value_heads);
  if (!fields.has("head_dim") && !gemma && type != "qwen3")
    MOLE_CHECK_FORMAT(config.hidden_size % config.num_attention_heads == 0, source, "without head_dim,",
                      "hidden_size", config.hidden_size, "should be a multiple of num_attention_heads",
                      config.num_attention_heads);
  const Index own = gemma ? 256 : type == "qwen3" ? 128 : config.hidden_size / config.num_attention_heads;
  config.head_dim = fields.integer("head_dim", own, 1, detail::most_of_head);
  MOLE_CHECK_FORMAT(config.head_dim % 2 == 0, source, "head_dim should be even and is", config.head_dim);
  config.max_position_embeddings = fields.integer("max_position_embeddings",
                                                  type == "mistral" ? 131072
                                                  : qwen            ? 32768
                                                  : gemma           ? 8192
                                                                    : 2048,
                                                  1, most);
  config.initializer_range = fields.number("initializer_range", 0.02);
  config.rms_norm_eps = fields.number("rms_norm_eps", 1e-6);
  MOLE_CHECK_FORMAT(config.rms_norm_eps > 0 && config.rms_norm_eps < 1, source,
                    "rms_norm_eps should be between 0 and 1 and is", config.rms_norm_eps);
  detail::check_product(source, "num_attention_heads x head_dim", config.num_attention_heads,
                        config.head_dim);
  detail::check_product(source, "vocab_size x hidden_size", config.vocab_size, config.hidden_size);
  detail::check_product(source, "intermediate_size x hidden_size", config.intermediate_size,
                        config.hidden_size);
  detail::check_product(source, "num_attention_heads x head_dim x hidden_size", config.query_width(),
                        config.hidden_size);
  // Gemma's first files say "gelu" and mean the other one; hidden_activation came later.
  const std::string activation =
      gemma ? fields.text("hidden_activation", "gelu_pytorch_tanh") : fields.text("hidden_act", "silu");
  config.activation = detail::llama_activation(activation);
  MOLE_CHECK_FORMAT(!config.activation.empty(), source, "hidden_act", quote(activation),
                    "is not supported: expected silu, gelu, gelu_pytorch_tanh or relu");
  config.qkv_bias = type == "qwen2" || fields.flag("attention_bias", false);
  config.output_bias = type != "qwen2" && fields.flag("attention_bias", false);
  config.mlp_bias = fields.flag("mlp_bias", false);
  config.qk_norm = type == "qwen3";
  config.offset_norm = config.scale_embeddings = gemma;
  config.tie_word_embeddings = fields.flag("tie_word_embeddings", gemma);
  detail::read_rope(json, fields, source, config);
  detail::read_windows(json, fields, source, config);
  detail::read_special_tokens(fields, -1, -1, -1, config);
  return config;
}

}  // namespace mole
