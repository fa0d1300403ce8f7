#pragma once
// The config.json of OPT.

#include <filesystem>
#include <string>

#include <mole/models/causal/config_file.hpp>
#include <mole/models/opt/config.hpp>

namespace mole {

/// Reads the config.json of an opt. Missing options have the defaults of transformers; sizes must be there.
/// Throws FormatError, naming file and field, for another architecture, an impossible value, weights of an unknown quantisation,
/// or what no released OPT is (enable_bias or layer_norm_elementwise_affine false); Error where the file cannot
/// be read.
inline OptConfig read_opt_config(const std::filesystem::path& path) {
  const auto json = read_json_object(path);
  const std::string source = message(path) + ":";
  const detail::ConfigFields fields(json, source);
  OptConfig config;
  config.model_type = fields.text("model_type", "opt");
  MOLE_CHECK_FORMAT(config.model_type == "opt", source, "model_type should be opt and is",
                    quote(config.model_type));
  detail::check_quantisation(json, source);
  for (const char* name : {"enable_bias", "layer_norm_elementwise_affine"})
    MOLE_CHECK_FORMAT(fields.flag(name, true), source, name, "false is not supported");
  const auto size = [&](const char* name, Index most = detail::most_of_config) {
    return detail::needed_size(fields, source, name, most);
  };
  config.vocab_size = size("vocab_size");
  config.hidden_size = size("hidden_size");
  config.ffn_dim = size("ffn_dim");
  config.num_hidden_layers = size("num_hidden_layers", detail::most_layers);
  config.num_attention_heads = size("num_attention_heads");
  config.word_embed_proj_dim =
      fields.integer("word_embed_proj_dim", config.hidden_size, 1, detail::most_of_config);
  config.max_position_embeddings = fields.integer("max_position_embeddings", 2048, 1, detail::most_of_config);
  MOLE_CHECK_FORMAT(config.hidden_size % config.num_attention_heads == 0, source, "hidden_size",
                    config.hidden_size, "should be a multiple of num_attention_heads",
                    config.num_attention_heads);
  detail::check_product(source, "vocab_size x hidden_size", config.vocab_size, config.hidden_size);
  detail::check_product(source, "ffn_dim x hidden_size", config.ffn_dim, config.hidden_size);
  detail::check_product(source, "hidden_size x hidden_size", config.hidden_size, config.hidden_size);
  detail::check_product(source, "max_position_embeddings x hidden_size", config.max_position_embeddings,
                        config.hidden_size);
  detail::check_product(source, "word_embed_proj_dim x hidden_size", config.word_embed_proj_dim,
                        config.hidden_size);
  config.initializer_range = fields.number("init_std", 0.02);
  config.norm_before = fields.flag("do_layer_norm_before", true);
  config.final_norm = !fields.flag("_remove_final_layer_norm", false);
  config.tie_word_embeddings = fields.flag("tie_word_embeddings", true);
  const std::string activation = fields.text("activation_function", "relu");
  config.activation = detail::t5_activation(activation);
  MOLE_CHECK_FORMAT(!config.activation.empty(), source, "activation_function", quote(activation),
                    "is not supported: expected relu, gelu, gelu_new or silu");
  detail::read_special_tokens(fields, 2, 1, 2, config);
  return config;
}

}  // namespace mole
