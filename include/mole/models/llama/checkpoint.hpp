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

namespace detail {

/// See load_llama(), which fills it.
template <class T, class B>
OpenedModel<Llama<T, B>> open_llama(const std::filesystem::path& folder, std::vector<std::string>* warnings,
                                    const LoadOptions& options) {
  auto config = read_llama_config(folder / "config.json");
  const auto file = std::make_shared<const Checkpoint>(folder);
  config.tie_word_embeddings = head_is_tied(*file, "lm_head.weight", "model.embed_tokens.weight",
                                            config.tie_word_embeddings, warnings);
  const bool tied = config.tie_word_embeddings;
  return {Llama<T, B>(config),
          file,
          {.ignored =
               [tied](const std::string& name) {
                 return name.ends_with(".rotary_emb.inv_freq") || (tied && name == "lm_head.weight");
               },
           .model = config.model_type,
           .packed = [file](const std::string& name) { return bitsandbytes_weight(file, name); },
           .options = options}};
}

}  // namespace detail

/// The model in a folder: config.json and its weights in one safetensors file or in several. Weights that look
/// wrong are told in *warnings where given. Weights of bitsandbytes are read, in 4 bits and in 8. Throws FormatError,
/// naming file and tensor or field, for what does not fit together; Error where a file cannot be read.
template <class T, class B>
Llama<T, B> load_llama(const std::filesystem::path& folder, std::vector<std::string>* warnings = nullptr,
                       const LoadOptions& options = {}) {
  return detail::loaded(detail::open_llama<T, B>(folder, warnings, options), warnings);
}

/// What load_llama() would refuse of the folder's tensors, each with its file and name: missing ones, others' and those
/// of another shape. Reads no tensor.    Throws as load_llama() does for the rest.
template <class T, class B>
std::vector<std::string> llama_faults(const std::filesystem::path& folder) {
  auto opened = detail::open_llama<T, B>(folder, nullptr, {});
  return parameter_faults(opened.model, *opened.file, opened.names);
}

}  // namespace mole
