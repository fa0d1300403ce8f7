#pragma once
// A small T5 with adapters for files of gates, and files of gates that are changed.

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include <mole/backends/cpu.hpp>
#include <mole/io/gates.hpp>
#include <mole/io/lora_set.hpp>
#include <mole/models/t5/checkpoint.hpp>

#include "io/folder.hpp"
#include "testing.hpp"

namespace io_test {

using mole::Cpu;
using mole::Dtype;
using mole::Index;
using mole::LoraSet;
using mole::Mixer;
using mole::MolePass;
using mole::NoGrad;
using mole::SafetensorsFile;
using mole::SafetensorsWriter;
using mole::Shape;
using mole::T5;
using mole::Tensor;

/// a adapts q and v, b all of attention, c also the feed-forward layers: most gates hold fewer than three experts.
inline std::vector<LoraSet> gate_adapters() {
  std::vector<LoraSet> sets;
  for (const std::string name : {"a", "b", "c"})
    sets.push_back(mole::lora_set(mole::load_adapter(golden("hf/t5_flan/adapter_" + name), name)));
  return sets;
}

template <class T = double>
T5<T, Cpu> gate_base() {
  return mole::load_t5<T, Cpu>(golden("hf/t5_flan/base"));
}

template <class T>
void randomize(const Mixer<T, Cpu>& mixer) {
  std::uint64_t stream = 1;
  for (const auto& parameter : mixer.parameters())
    parameter.assign(Tensor<T, Cpu>::randn(parameter.shape(), {stream++, 5}));
}

template <class T>
std::vector<std::vector<double>> numbers(const Mixer<T, Cpu>& mixer) {
  std::vector<std::vector<double>> list;
  for (const auto& parameter : mixer.parameters()) list.push_back(mole::testing::doubles(parameter));
  return list;
}

inline std::vector<double> logits(const T5<double, Cpu>& model) {
  const NoGrad off;
  MolePass<double, Cpu> pass;
  return model
      .logits({Tensor<Index, Cpu>::from({1, 4}, {5, 3, 9, 1}), {}, Tensor<Index, Cpu>::from({1, 2}, {4, 1})},
              pass)
      .to_host();
}

/// A copy of the file "good" in a folder, changed and written to "bad": metadata, and tensors by name. An empty
/// text leaves the metadata out, an empty shape with no values the tensor.
struct Tensors {
  Shape shape;
  std::vector<double> values;
};
inline void write_changed(const Folder& folder, const std::map<std::string, std::string>& metadata,
                          const std::map<std::string, Tensors>& tensors = {}) {
  const SafetensorsFile good(folder / "good");
  auto texts = good.metadata();
  for (const auto& [key, text] : metadata) texts[key] = text;
  SafetensorsWriter writer;
  for (const auto& [key, text] : texts)
    if (!text.empty()) writer.metadata(key, text);
  for (const auto& name : good.names())
    if (tensors.count(name) == 0) writer.add(name, Dtype::F64, good.at(name).shape, good.read<double>(name));
  for (const auto& [name, tensor] : tensors)
    if (!tensor.values.empty()) writer.add(name, Dtype::F64, tensor.shape, tensor.values);
  writer.write(folder / "bad");
}

/// What a file of gates keeps of a mixer: its parameters, and the scales of their inputs.
template <class T>
std::vector<std::vector<double>> all_numbers(const Mixer<T, Cpu>& mixer) {
  std::vector<std::vector<double>> list;
  for (const auto& tensor : mixer.tensors()) list.push_back(mole::testing::doubles(tensor));
  return list;
}

/// The file "good" with these tensors changed is refused in words that hold these parts, and changes nothing.
inline void check_refused(const Folder& folder, Mixer<double, Cpu>& mixer,
                          const std::map<std::string, Tensors>& tensors,
                          const std::vector<std::string>& parts) {
  const auto before = all_numbers(mixer);
  write_changed(folder, {}, tensors);
  const auto text = error_of([&] { mole::load_gates(folder / "bad", mixer); });
  CAPTURE(text);
  CHECK(mentions(text, parts));
  CHECK(all_numbers(mixer) == before);
}

}  // namespace io_test
