#include "numbers/checkpoint.hpp"

#include <algorithm>
#include <cstddef>
#include <span>
#include <sstream>

#include <mole/io/safetensors.hpp>

#include "numbers/files.hpp"

namespace numbers {

namespace {

std::vector<double> flat(const Curves& curves) {
  std::vector<double> values = curves.step;
  for (const auto& [name, series] : curves.series) values.insert(values.end(), series.begin(), series.end());
  return values;
}

}  // namespace

void save_checkpoint(const std::filesystem::path& file, const std::string& fingerprint,
                     const RunState& state) {
  const auto& curves = state.curves;
  mole::SafetensorsWriter writer;
  writer.metadata("run", fingerprint);
  std::string names;
  for (const auto& [name, series] : curves.series) names += name + "\n";
  writer.metadata("curves", names);
  for (const auto& tensor : state.tensors)
    writer.add<float>(tensor.name, mole::Dtype::F32, tensor.shape, std::span<const float>(tensor.values));
  writer.add<Index>("steps", mole::Dtype::I64, mole::Shape{static_cast<Index>(state.steps.size())},
                    std::span<const Index>(state.steps));
  const auto values = flat(curves);
  writer.add<double>(
      "curves", mole::Dtype::F64,
      mole::Shape{static_cast<Index>(curves.series.size() + 1), static_cast<Index>(curves.step.size())},
      std::span<const double>(values));
  writer.write(file);
}

void load_checkpoint(const std::filesystem::path& path, const std::string& fingerprint, RunState& state) {
  const mole::SafetensorsFile file(path);
  const auto& metadata = file.metadata();
  const auto run = metadata.find("run");
  MOLE_CHECK_FORMAT(
      run != metadata.end() && run->second == fingerprint, path.string(),
      "was written by another run.\n  there:", run == metadata.end() ? "(unknown)" : run->second,
      "\n  here: ", fingerprint, "\nrepeat the options of that run, or start anew without --resume");
  for (auto& tensor : state.tensors) {
    MOLE_CHECK_FORMAT(file.contains(tensor.name) && file.at(tensor.name).shape == tensor.shape, path.string(),
                      "tensor", tensor.name, "is missing or not", tensor.shape);
    tensor.values = file.read<float>(tensor.name);
  }
  state.steps = file.read<Index>("steps");

  auto& curves = state.curves;
  const auto shape = file.at("curves").shape;
  const auto values = file.read<double>("curves");
  const auto listed = metadata.find("curves");
  const std::string known = listed == metadata.end() ? "" : listed->second;
  std::istringstream names(known);
  MOLE_CHECK_FORMAT(shape.rank() == 2 && shape[0] == std::ranges::count(known, '\n') + 1, path.string(),
                    "tensor curves has shape", shape, "for the curves", known);
  const auto points = static_cast<std::ptrdiff_t>(shape[1]);
  curves = {};
  curves.step.assign(values.begin(), values.begin() + points);
  std::string name;
  for (Index row = 1; row < shape[0] && std::getline(names, name); ++row)
    curves.series.emplace_back(
        name, std::vector<double>(values.begin() + row * points, values.begin() + (row + 1) * points));
}

void check_replaceable(const std::filesystem::path& file) {
  prepare_folder(file.has_parent_path() ? file.parent_path() : std::filesystem::path("."));
  MOLE_CHECK_ARG(!std::filesystem::exists(file) || std::filesystem::is_regular_file(file), "--checkpoint",
                 file.string(), "is not a regular file; choose another name");
}

}  // namespace numbers
