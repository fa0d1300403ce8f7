#pragma once
// The adapter_config.json of PEFT's LoRA: what it says of rank and scale, and the refusal, by name, of every
// option that would make the adapted layer anything but x W^T + s (x A^T) B^T.

#include <algorithm>
#include <array>
#include <cmath>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <mole/core/error.hpp>
#include <mole/core/quote.hpp>
#include <mole/core/shape.hpp>
#include <mole/io/config_digest.hpp>
#include <mole/io/json.hpp>

namespace mole {

/// The largest alpha that is read or written, by its size.
inline constexpr double max_lora_alpha = 1e9;

/// What PEFT's LoraConfig says of the mathematics and of where the adapter belongs. The defaults are PEFT's.
struct LoraConfig {
  Index rank = 8;
  double alpha = 8;
  bool rslora = false;  ///< the scale is alpha / sqrt(rank), not alpha / rank
  /// Ranks and alphas of the slots that a pattern matches; the first that matches counts.
  std::vector<std::pair<std::string, Index>> rank_pattern;
  std::vector<std::pair<std::string, double>> alpha_pattern;
  bool fan_in_fan_out =
      false;           ///< the base stores W transposed; A and B are [r, d_in], [d_out, r] all the same
  double dropout = 0;  ///< of the training; none when the adapter is used
  std::vector<std::string> target_modules;  ///< names, or ends of names after a dot
  std::string target_regex;                 ///< instead of the list, where the file gives one text
  std::string base_model_name_or_path;
  std::string task_type = "SEQ_2_SEQ_LM";
};

namespace detail {

// A field that must be off, and what it would change. `absent`: PEFT takes even an empty object as "on".
struct RefusedField {
  std::string_view name, changes;
  bool absent = false;
};

inline constexpr std::array<RefusedField, 14> refused_lora_fields{{
    {"use_dora", "the adapted weight is rescaled by learned magnitudes"},
    {"lora_bias", "the update has a bias of its own"},
    {"modules_to_save", "whole modules of the base are replaced"},
    {"layer_replication", "layers of the base are repeated"},
    {"target_parameters", "bare parameters of the base are adapted"},
    {"alora_invocation_tokens", "only the tokens after an invocation are adapted", true},
    {"trainable_token_indices", "rows of the embedding are replaced"},
    {"use_qalora", "the input is pooled in groups before A"},
    {"use_bdlora", "A or B is block-diagonal", true},
    {"arrow_config", "adapters are routed token by token", true},
    {"kasa_config", "the base's weights are truncated and a diagonal stands between A and B", true},
    {"monteclora_config", "A is perturbed by a sampler of its own", true},
    {"megatron_config", "the layers are Megatron's parallel ones"},
    {"quantization_config", "the base's weights are quantized"},
}};

// Read here, or of no effect on a trained adapter. VeLoRA compresses what the backward pass of its training
// keeps; the forward pass is the plain one.
inline constexpr std::array<std::string_view, 31> known_lora_fields{"alpha_pattern",
                                                                    "auto_mapping",
                                                                    "base_model_name_or_path",
                                                                    "bias",
                                                                    "corda_config",
                                                                    "ensure_weight_tying",
                                                                    "eva_config",
                                                                    "exclude_modules",
                                                                    "fan_in_fan_out",
                                                                    "inference_mode",
                                                                    "init_lora_weights",
                                                                    "layers_pattern",
                                                                    "layers_to_transform",
                                                                    "loftq_config",
                                                                    "lora_alpha",
                                                                    "lora_dropout",
                                                                    "lora_ga_config",
                                                                    "megatron_core",
                                                                    "peft_type",
                                                                    "peft_version",
                                                                    "qalora_group_size",
                                                                    "r",
                                                                    "rank_pattern",
                                                                    "revision",
                                                                    "runtime_config",
                                                                    "target_modules",
                                                                    "task_type",
                                                                    "use_rslora",
                                                                    "velora_config",
                                                                    "enable_lora",
                                                                    "merge_weights"};

// Python's bool(value).
inline bool truthy(const Json& value) {
  if (value.is_null()) return false;
  if (value.is_boolean()) return value.get<bool>();
  if (value.is_number()) return value.get<double>() != 0;
  if (value.is_string()) return !value.get_ref<const std::string&>().empty();
  return !value.empty();
}

[[noreturn]] inline void refuse_lora_field(const std::string& source, std::string_view name,
                                           const Json& value, std::string_view changes) {
  throw FormatError(message(source, std::string(name) + " is",
                            shown_json(value) + ", which is not supported:", changes,
                            "- convert the adapter to a plain LoRA first"));
}

// Initialisers that subtract from the base's weights (PiSSA, OLoRA, CorDA, LoftQ, LoRA-GA) leave an adapter
// that is right only beside the changed base. An unknown one may do so too.
inline void refuse_lora_initialiser(const std::string& source, const Json& value) {
  if (value.is_null() || value.is_boolean()) return;
  const std::string name = value.is_string() ? text_of(value) : "";
  for (const std::string_view plain : {"gaussian", "eva", "orthogonal", "mica"})
    if (name == plain) return;
  refuse_lora_field(source, "init_lora_weights", value, "the base's weights were changed before training");
}

inline void refuse_lora_variants(const Json& json, const std::string& source) {
  const auto* const type = find_field(json, "peft_type");
  MOLE_CHECK_FORMAT(type && is_text(*type, "LORA"), source, "peft_type should be \"LORA\" and is",
                    type ? shown_json(*type) : "missing");
  for (const auto& field : refused_lora_fields) {
    const auto* const value = find_field(json, field.name);
    if (!value) continue;
    const bool off =
        field.absent ? value->is_null() || (value->is_boolean() && !value->get<bool>()) : !truthy(*value);
    if (!off) refuse_lora_field(source, field.name, *value, field.changes);
  }
  if (const auto* bias = given_field(json, "bias"); bias && !is_text(*bias, "none"))
    refuse_lora_field(source, "bias", *bias, "biases of the base are replaced");
  if (const auto* init = find_field(json, "init_lora_weights")) refuse_lora_initialiser(source, *init);
}

inline void lora_field_is(bool right, const std::string& source, const std::string& name,
                          const char* expected, const Json& value) {
  MOLE_CHECK_FORMAT(right, source, name, "should be", expected, "and is", shown_json(value));
}

inline Index lora_rank(const std::string& source, const std::string& name, const Json& value) {
  const bool right = value.is_number_unsigned() && value.get<std::uint64_t>() >= 1 &&
                     value.get<std::uint64_t>() <= 1'000'000;
  lora_field_is(right, source, name, "a whole number from 1 to 1000000", value);
  return value.get<Index>();
}

inline double lora_alpha(const std::string& source, const std::string& name, const Json& value) {
  lora_field_is(value.is_number(), source, name, "a number", value);
  const bool right = std::abs(value.get<double>()) <= max_lora_alpha;
  lora_field_is(right, source, name, "a number of at most 1e9", value);
  return value.get<double>();
}

inline void read_lora_patterns(const Json& json, const std::string& source, LoraConfig& config) {
  for (const std::string name : {"rank_pattern", "alpha_pattern"}) {
    const auto* const patterns = given_field(json, name);
    if (!patterns) continue;
    lora_field_is(patterns->is_object(), source, name, "an object", *patterns);
    for (const auto& [key, value] : fields_of(*patterns)) {
      const std::string field = name + " " + quote(key);
      if (name == "rank_pattern")
        config.rank_pattern.emplace_back(key, lora_rank(source, field, value));
      else
        config.alpha_pattern.emplace_back(key, lora_alpha(source, field, value));
    }
  }
}

inline void read_lora_targets(const Json& json, const std::string& source, LoraConfig& config) {
  const auto* const targets = given_field(json, "target_modules");
  if (!targets) return;
  lora_field_is(targets->is_string() || targets->is_array(), source, "target_modules", "a list or a text",
                *targets);
  if (targets->is_string()) {
    config.target_regex = text_of(*targets);
    return;
  }
  for (const auto& name : values_of(*targets)) {
    lora_field_is(name.is_string(), source, "target_modules", "a list of texts", *targets);
    config.target_modules.push_back(text_of(name));
  }
}

}  // namespace detail

/// Reads adapter_config.json. Throws FormatError, naming file, field, value and what it would change, for
/// whatever is not plain LoRA. Fields that this version does not know and that are set are named in
/// `warnings`.
inline LoraConfig read_lora_config(const std::filesystem::path& path, std::vector<std::string>& warnings) {
  const auto json = read_json_object(path);
  const std::string source = message(path) + ":";
  detail::refuse_lora_variants(json, source);

  LoraConfig config;
  const auto take = [&](const char* name, const char* expected, bool (Json::*is)() const noexcept,
                        auto& value) {
    const auto* const found = detail::given_field(json, name);
    if (!found) return;
    detail::lora_field_is(((*found).*is)(), source, name, expected, *found);
    value = found->get<std::remove_reference_t<decltype(value)>>();
  };
  if (const auto* rank = detail::find_field(json, "r")) config.rank = detail::lora_rank(source, "r", *rank);
  if (const auto* alpha = detail::given_field(json, "lora_alpha"))
    config.alpha = detail::lora_alpha(source, "lora_alpha", *alpha);
  take("lora_dropout", "a number", &Json::is_number, config.dropout);
  take("use_rslora", "true or false", &Json::is_boolean, config.rslora);
  take("fan_in_fan_out", "true or false", &Json::is_boolean, config.fan_in_fan_out);
  take("base_model_name_or_path", "text", &Json::is_string, config.base_model_name_or_path);
  config.task_type.clear();
  take("task_type", "text", &Json::is_string, config.task_type);
  detail::read_lora_patterns(json, source, config);
  detail::read_lora_targets(json, source, config);

  const auto known = [](const std::string& name) {
    const auto& plain = detail::known_lora_fields;
    const auto& refused = detail::refused_lora_fields;
    return std::find(plain.begin(), plain.end(), name) != plain.end() ||
           std::any_of(refused.begin(), refused.end(), [&](const auto& field) { return field.name == name; });
  };
  // A hostile file has thousands of them.
  constexpr std::size_t told = 20;
  std::size_t unknown = 0;
  for (const auto& [name, value] : detail::fields_of(json)) {
    if (known(name) || !detail::truthy(value) || ++unknown > told) continue;
    warnings.push_back(message(source, shortened(name, 100), "is unknown and was ignored; its value is",
                               detail::shown_json(value)));
  }
  if (unknown > told)
    warnings.push_back(message(source, unknown - told, "further unknown fields were ignored"));
  return config;
}

/// The adapter_config.json of a plain LoRA that PEFT loads for inference, patterns in their order. An empty
/// task_type or base name becomes null.
inline Json lora_config_json(const LoraConfig& config) {
  const auto text = [](const std::string& value) {
    return value.empty() ? Json() : detail::json_value(value);
  };
  auto ranks = detail::json_object(), alphas = detail::json_object();
  for (const auto& [key, rank] : config.rank_pattern) detail::add_field(ranks, key, detail::json_value(rank));
  for (const auto& [key, alpha] : config.alpha_pattern)
    detail::add_field(alphas, key, detail::json_value(alpha));
  const auto targets =
      config.target_regex.empty() ? detail::json_value(config.target_modules) : text(config.target_regex);
  return detail::json_object({{"peft_type", "LORA"},
                              {"task_type", text(config.task_type)},
                              {"base_model_name_or_path", text(config.base_model_name_or_path)},
                              {"inference_mode", true},
                              {"r", config.rank},
                              {"lora_alpha", config.alpha},
                              {"use_rslora", config.rslora},
                              {"rank_pattern", ranks},
                              {"alpha_pattern", alphas},
                              {"fan_in_fan_out", config.fan_in_fan_out},
                              {"lora_dropout", config.dropout},
                              {"target_modules", targets},
                              {"bias", "none"},
                              {"init_lora_weights", true},
                              {"modules_to_save", Json()}});
}

namespace detail {

/// Of what gives an adapter's factors their meaning. Its base's name, for one, may be edited.
inline std::string lora_config_digest(const LoraConfig& config) {
  constexpr std::array<std::string_view, 7> fields{
      "r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern", "fan_in_fan_out", "target_modules"};
  return config_digest(lora_config_json(config), fields);
}

}  // namespace detail

}  // namespace mole
