#pragma once
// Any decoder-only model: from its folder, by the model_type of its config.json, or from a GGUF file.

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include <mole/io/mapped_file.hpp>
#include <mole/models/causal/generation_config.hpp>
#include <mole/models/llama/checkpoint.hpp>
#include <mole/models/llama/gguf.hpp>
#include <mole/models/opt/checkpoint.hpp>

namespace mole {

/// The model types that load_causal() knows.
inline const std::vector<std::string>& causal_model_types() {
  static const std::vector<std::string> types{"gemma", "llama", "mistral", "opt", "qwen2", "qwen3"};
  return types;
}

namespace detail {

[[noreturn]] inline void refuse_model_type(const std::filesystem::path& folder, const std::string& type) {
  std::string known;
  for (const auto& name : causal_model_types()) known += (known.empty() ? "" : ", ") + name;
  throw FormatError(message(message(folder / "config.json") + ": model_type", quote(type),
                            "is not known; known are", known));
}

}  // namespace detail

/// What load_causal() would refuse of the tensors of a folder or a GGUF file, each with its file and name: missing ones,
/// others' and those of another shape. Reads no tensor.    Throws as load_causal() does for the rest.
template <class T, class B>
std::vector<std::string> causal_faults(const std::filesystem::path& folder) {
  if (folder.extension() == ".gguf") return llama_gguf_faults<T, B>(GgufFile(folder));
  const std::string type = read_model_type(folder);
  if (type == "opt") return opt_faults<T, B>(folder);
  if (detail::is_llama_type(type)) return llama_faults<T, B>(folder);
  detail::refuse_model_type(folder, type);
}

/// The decoder-only model in a folder or a GGUF file. What generation_config.json says of bos, pad and eos wins over
/// config.json. Weights that look wrong are told in *warnings where given. A file of blocks, GGUF or bitsandbytes, is
/// read as numbers unless the options say otherwise.
/// Throws FormatError for a model_type that is not known, with those that are, and as the family's own function
/// does; Error where a file cannot be read.
template <class T, class B>
std::unique_ptr<CausalModel<T, B>> load_causal(const std::filesystem::path& folder,
                                               std::vector<std::string>* warnings = nullptr,
                                               const LoadOptions& options = {}) {
  if (folder.extension() == ".gguf")
    return std::make_unique<Llama<T, B>>(
        load_llama_gguf<T, B>(std::make_shared<const GgufFile>(folder), warnings, options));
  const std::string type = read_model_type(folder);
  std::unique_ptr<CausalModel<T, B>> model;
  if (type == "opt") {
    model = std::make_unique<Opt<T, B>>(load_opt<T, B>(folder, warnings, options));
  } else if (detail::is_llama_type(type)) {
    model = std::make_unique<Llama<T, B>>(load_llama<T, B>(folder, warnings, options));
  } else {
    detail::refuse_model_type(folder, type);
  }
  const auto generation = folder / "generation_config.json";
  if (detail::file_exists(generation)) {
    const auto& config = model->config();
    auto tokens = read_generation_tokens(generation, config);
    model->set_tokens(tokens.bos_token_id, tokens.pad_token_id, std::move(tokens.eos_token_ids));
  }
  return model;
}

}  // namespace mole
