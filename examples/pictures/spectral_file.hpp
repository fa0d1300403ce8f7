#pragma once
// SVDiff's experts on the disk: the shift of each layer's singular values.

#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

#include <mole/io/safetensors.hpp>
#include <mole/nn/slots.hpp>

namespace pictures {

/// The file of a subject's shifts, in the folder of its expert.
inline constexpr const char* spectral_file = "spectral_shifts.safetensors";

/// Writes a tensor `<layer>.delta` [k] a layer, as BF16.
template <class T, class B>
void save_shifts(const std::filesystem::path& path, const mole::SlotTable<T, B>& table,
                 const std::vector<mole::Tensor<T, B>>& shifts) {
  mole::SafetensorsWriter writer;
  writer.metadata("format", "pt");
  for (std::size_t i = 0; i < shifts.size(); ++i)
    writer.add(table.slots[i].name + ".delta", mole::Dtype::BF16, shifts[i].shape(), shifts[i].to_host());
  writer.write(path);
}

/// Reads them for a model's layers. Throws mole::FormatError for a layer that is missing, one too many, or of another
/// length than the layer has singular values.
template <class T, class B>
std::vector<mole::Tensor<T, B>> load_shifts(const std::filesystem::path& path,
                                            const mole::SlotTable<T, B>& table) {
  const mole::SafetensorsFile file(path);
  MOLE_CHECK_FORMAT(file.names().size() == table.slots.size(), path, "holds", file.names().size(),
                    "shifts; this base has", table.slots.size(), "layers");
  std::vector<mole::Tensor<T, B>> shifts;
  for (const auto& slot : table.slots) {
    const auto name = slot.name + ".delta";
    MOLE_CHECK_FORMAT(file.contains(name), path, "holds no", name + ": it is of another base");
    const mole::Shape expected{std::min(slot.shape[0], slot.shape[1])};
    MOLE_CHECK_FORMAT(file.at(name).shape == expected, path, name, "is", file.at(name).shape, "expected",
                      expected);
    const auto values = file.read<float>(name);
    shifts.push_back(mole::Tensor<T, B>::from(expected, std::vector<T>(values.begin(), values.end())));
  }
  return shifts;
}

}  // namespace pictures
