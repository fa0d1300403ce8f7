#pragma once
// T5 checkpoints in Hugging Face's layout: config.json and model.safetensors.

#include <cmath>
#include <filesystem>
#include <set>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include <mole/io/safetensors.hpp>
#include <mole/models/t5/config_file.hpp>
#include <mole/models/t5/model.hpp>

namespace mole {

/// The model in a folder. Its head is lm_head.weight where the file has one, else shared.weight, whatever the
/// configuration says of tying. NaN or infinite weights are told in *warnings where given.
/// Throws FormatError, naming file and tensor, for a missing or unexpected tensor or one of another shape
/// than the configuration's; Error where a file cannot be read.
template <class T, class B>
T5<T, B> load_t5(const std::filesystem::path& folder, std::vector<std::string>* warnings = nullptr) {
  auto config = read_t5_config(folder / "config.json");
  const SafetensorsFile file(folder / "model.safetensors");
  const std::string source = message(file.path()) + ":";
  config.tie_word_embeddings = !file.contains("lm_head.weight");
  T5<T, B> model(config);

  // Some checkpoints repeat the table that encoder and decoder share.
  std::set<std::string> known{"encoder.embed_tokens.weight", "decoder.embed_tokens.weight"};
  model.visit([&](const std::string& name, const Shape& shape, Tensor<T, B>& tensor) {
    MOLE_CHECK_FORMAT(file.contains(name), source, "tensor", name, "is missing");
    const auto& view = file.at(name);
    MOLE_CHECK_FORMAT(view.shape == shape, source, "tensor", name, "has shape", view.shape,
                      "where config.json says", shape);
    MOLE_CHECK_FORMAT(is_floating(view.dtype), source, "tensor", name, "holds", view.dtype,
                      ", not real numbers: save the model unquantized");
    const auto values = file.template read<T>(name);
    bool finite = true;
    for (const T value : values) finite = finite && std::isfinite(static_cast<double>(value));
    if (!finite && warnings)
      warnings->push_back(message(source, "tensor", name, "holds NaN or infinite values"));
    tensor = Tensor<T, B>::from(shape, values);
    known.insert(name);
  });
  for (const auto& name : file.names())
    MOLE_CHECK_FORMAT(known.count(name) > 0, source, "tensor", name,
                      "has no place in a T5 of this config.json");
  return model;
}

/// Writes the model as transformers loads it; the folder is made where there is none.
/// Throws ArgumentError for an unknown activation, Error where a file cannot be written.
template <class T, class B>
void save_t5(const std::filesystem::path& folder, T5<T, B>& model, Dtype stored_as) {
  SafetensorsWriter writer;
  writer.metadata("format", "pt");
  model.visit([&](const std::string& name, const Shape& shape, Tensor<T, B>& tensor) {
    writer.add(name, stored_as, shape, tensor.to_host());
  });
  std::error_code reason;
  std::filesystem::create_directories(folder, reason);
  MOLE_CHECK_AS(Error, !reason, folder, "cannot be made:", reason.message());
  // The large file first: where there is no room for it, the folder stays as it was.
  writer.write(folder / "model.safetensors");
  write_t5_config(folder / "config.json", model.config());
}

}  // namespace mole
