#pragma once
// Checkpoints of Llama and its relatives in Hugging Face's layout.

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include <mole/models/causal/checkpoint.hpp>
#include <mole/models/llama/config_file.hpp>
#include <mole/models/llama/model.hpp>
#include <mole/models/load_parameters.hpp>

namespace mole {

/// The model in a folder: config.json and its weights in one safetensors file or in several. Weights that look
/// wrong are told in *warnings where given. Weights of bitsandbytes are read, in 4 bits and in 8. Throws FormatError,
/// naming file and tensor or field, for what does not fit together; Error where a file cannot be read.
template <class T, class B>
Llama<T, B> load_llama(const std::filesystem::path& folder, std::vector<std::string>* warnings = nullptr,
                       const LoadOptions& options = {}) {
  auto config = read_llama_config(folder / "config.json");
  const auto shared = std::make_shared<const Checkpoint>(folder);
  const auto& file = *shared;
  config.tie_word_embeddings = detail::head_is_tied(file, "lm_head.weight", "model.embed_tokens.weight",
                                                    config.tie_word_embeddings, warnings);
  const bool tied = config.tie_word_embeddings;
  Llama<T, B> model(config);
  load_parameters(model, file,
                  {.ignored =
                       [tied](const std::string& name) {
                         return name.ends_with(".rotary_emb.inv_freq") || (tied && name == "lm_head.weight");
                       },
                   .model = config.model_type,
                   .packed = [shared](const std::string& name) { return bitsandbytes_weight(shared, name); },
                   .options = options},
                  warnings);
  return model;
}

}  // namespace mole
