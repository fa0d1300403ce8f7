#pragma once
// A golden checkpoint with its tensors edited.

#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include <mole/io/safetensors.hpp>

#include "io/folder.hpp"

namespace stored_model {

using mole::Dtype;
using mole::SafetensorsFile;
using mole::SafetensorsWriter;
using mole::Shape;

struct Stored {
  Shape shape;
  std::vector<double> values;
};
using Tensors = std::map<std::string, Stored>;

inline Tensors read_all(const std::filesystem::path& path) {
  const SafetensorsFile file(path);
  Tensors tensors;
  for (const auto& name : file.names()) tensors[name] = {file.at(name).shape, file.read<double>(name)};
  return tensors;
}

// A copy of a golden checkpoint with its tensors edited.
inline void copy_model(const std::string& golden_name, const std::filesystem::path& to,
                       const std::function<void(Tensors&)>& edit) {
  std::filesystem::create_directories(to);
  const auto from = io_test::golden("hf/" + golden_name + "/base");
  std::filesystem::copy_file(from / "config.json", to / "config.json");
  auto tensors = read_all(from / "model.safetensors");
  edit(tensors);
  SafetensorsWriter writer;
  for (const auto& [name, tensor] : tensors) writer.add(name, Dtype::F32, tensor.shape, tensor.values);
  writer.write(to / "model.safetensors");
}

}  // namespace stored_model
