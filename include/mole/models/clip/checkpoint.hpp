#pragma once
// CLIP checkpoints in the layout of transformers: config.json and model.safetensors.

#include <filesystem>
#include <string>
#include <vector>

#include <mole/models/clip/config_file.hpp>
#include <mole/models/clip/model.hpp>
#include <mole/models/load_parameters.hpp>

namespace mole {

namespace detail {

/// transformers 5 writes a text tower alone without text_model. before its names; earlier ones wrote it. Both
/// have text_projection.weight so.
inline ParameterNames clip_names() {
  ParameterNames names;
  names.in_file = [](const std::string& name) {
    const std::string prefix = "text_model.";
    std::vector<std::string> list{name};
    if (name.starts_with(prefix)) list.push_back(name.substr(prefix.size()));
    return list;
  };
  // Old files store 0, 1, 2, ...
  names.ignored = [](const std::string& name) { return name.ends_with("embeddings.position_ids"); };
  return names;
}

}  // namespace detail

/// The CLIPModel in a folder. Throws FormatError, naming file and tensor, as read_clip_config() and
/// load_parameters() do, and for files of two saves; Error where a file cannot be read.
template <class T, class B>
Clip<T, B> load_clip(const std::filesystem::path& folder, std::vector<std::string>* warnings = nullptr) {
  const auto opened = detail::open_folder(folder, "model", read_clip_config, detail::clip_config_digest);
  Clip<T, B> model(opened.first);
  load_parameters(model, opened.second, detail::clip_names(), warnings);
  return model;
}

/// The CLIPTextModel in a folder, such as text_encoder/ of Stable Diffusion, with or without text_model.
/// before its tensors' names. variant: "fp16" reads model.fp16.safetensors. Throws as load_clip() does.
template <class T, class B>
ClipText<T, B> load_clip_text(const std::filesystem::path& folder,
                              std::vector<std::string>* warnings = nullptr, const std::string& variant = "") {
  const auto opened = detail::open_folder(folder, variant.empty() ? "model" : "model." + variant,
                                          read_clip_text_config, detail::clip_text_config_digest);
  ClipText<T, B> model(opened.first);
  load_parameters(model, opened.second, detail::clip_names(), warnings);
  return model;
}

/// Write the model as transformers loads it. Both files are complete on the disk before either is put in place, and
/// loading refuses one of them beside another. Throw Error where a file cannot be written.
template <class T, class B>
void save_clip(const std::filesystem::path& folder, Clip<T, B>& model, Dtype stored_as) {
  save_parameters(folder, "model", model, clip_config_json(model.config()), stored_as,
                  detail::clip_config_digest(model.config()));
}
template <class T, class B>
void save_clip_text(const std::filesystem::path& folder, ClipText<T, B>& model, Dtype stored_as) {
  save_parameters(folder, "model", model, clip_text_config_json(model.config()), stored_as,
                  detail::clip_text_config_digest(model.config()));
}

}  // namespace mole
