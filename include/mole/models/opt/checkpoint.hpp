#pragma once
// Checkpoints of OPT in Hugging Face's layout.

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include <mole/models/causal/checkpoint.hpp>
#include <mole/models/load_parameters.hpp>
#include <mole/models/opt/config_file.hpp>
#include <mole/models/opt/model.hpp>

namespace mole {

namespace detail {

/// See load_opt(), which fills it.
template <class T, class B>
OpenedModel<Opt<T, B>> open_opt(const std::filesystem::path& folder, std::vector<std::string>* warnings,
                                const LoadOptions& options) {
  auto config = read_opt_config(folder / "config.json");
  const auto file = std::make_shared<const Checkpoint>(folder);
  // The hub's first files hold the bare decoder.
  const bool bare = file->contains("decoder.embed_tokens.weight");
  const std::string table = bare ? "decoder.embed_tokens.weight" : "model.decoder.embed_tokens.weight";
  config.tie_word_embeddings =
      head_is_tied(*file, "lm_head.weight", table, config.tie_word_embeddings, warnings);
  const bool tied = config.tie_word_embeddings;
  return {Opt<T, B>(config),
          file,
          {.in_file =
               [bare](const std::string& name) {
                 const bool cut = bare && name.starts_with("model.");
                 return std::vector<std::string>{cut ? name.substr(std::string("model.").size()) : name};
               },
           .ignored = [tied](const std::string& name) { return tied && name == "lm_head.weight"; },
           .model = config.model_type,
           .packed = [file](const std::string& name) { return bitsandbytes_weight(file, name); },
           .options = options}};
}

}  // namespace detail

/// The model in a folder: config.json and its weights in one safetensors file or in several. Weights that look
/// wrong are told in *warnings where given. Weights of bitsandbytes are read, in 4 bits and in 8. Throws FormatError,
/// naming file and tensor or field, for what does not fit together; Error where a file cannot be read.
template <class T, class B>
Opt<T, B> load_opt(const std::filesystem::path& folder, std::vector<std::string>* warnings = nullptr,
                   const LoadOptions& options = {}) {
  return detail::loaded(detail::open_opt<T, B>(folder, warnings, options), warnings);
}

/// What load_opt() would refuse of the folder's tensors; see llama_faults().
template <class T, class B>
std::vector<std::string> opt_faults(const std::filesystem::path& folder) {
  auto opened = detail::open_opt<T, B>(folder, nullptr, {});
  return parameter_faults(opened.model, *opened.file, opened.names);
}

}  // namespace mole
