#pragma once
// Adapters of one kind of slot, written for tests.

#include <filesystem>
#include <string>
#include <vector>

#include <mole/io/json.hpp>
#include <mole/io/peft.hpp>

#include "io/folder.hpp"

namespace io_test {

using mole::Json;

inline const std::string slot = "encoder.block.0.layer.0.SelfAttention.q";

inline Json config_json() {
  return {{"peft_type", "LORA"}, {"r", 2}, {"lora_alpha", 4}, {"target_modules", {"q", "v"}}};
}

struct Matrix {
  std::string name;
  mole::Shape shape;
};

// An adapter of rank 2 from 3 to 5 features, its tensors as given, all ones.
inline void write_adapter(const std::filesystem::path& folder, const Json& config,
                          const std::vector<Matrix>& matrices, mole::Dtype dtype = mole::Dtype::F32,
                          double value = 1) {
  std::filesystem::create_directories(folder);
  write_text(folder / "adapter_config.json", config.dump());
  mole::SafetensorsWriter writer;
  for (const auto& [name, shape] : matrices)
    writer.add(name, dtype, shape, std::vector<double>(static_cast<std::size_t>(shape.size()), value));
  writer.write(folder / "adapter_model.safetensors");
}

inline std::vector<Matrix> pair_of(const std::string& name, mole::Index rank = 2) {
  return {{"base_model.model." + name + ".lora_A.weight", {rank, 3}},
          {"base_model.model." + name + ".lora_B.weight", {5, rank}}};
}

}  // namespace io_test
