#pragma once
// Between files and a model: adapters as the experts that a model attaches, and the gates of a mixer.

#include <cstddef>
#include <filesystem>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <mole/experts/mixer.hpp>
#include <mole/io/gates_file.hpp>
#include <mole/io/peft.hpp>

namespace mole {

/// The adapter as a model sees it. Its factors stay in the mapped file until they are asked for.
inline LoraSet lora_set(Adapter adapter) {
  const auto kept = std::make_shared<const Adapter>(std::move(adapter));
  LoraSet set{kept->name, kept->digest, {}, {}};
  for (const auto& [slot, entry] : kept->entries) set.slots.push_back(slot);
  set.factors = [kept](const std::string& slot) {
    const auto found = kept->entries.find(slot);
    MOLE_CHECK_ARG(found != kept->entries.end(), "adapter", kept->name, "does not adapt", slot);
    const LoraEntry& entry = found->second;
    return LoraFactors{entry.rank,
                       entry.d_in(),
                       entry.d_out(),
                       entry.scale,
                       entry.template read_a<double>(),
                       entry.template read_b<double>()};
  };
  return set;
}

/// Writes a mixer's gates with all that load_gates() checks, atomically. Throws Error where the file cannot
/// be written.
template <class T, class B>
void save_gates(const std::filesystem::path& path, const Mixer<T, B>& mixer) {
  const auto& options = mixer.options();
  GatesFile file;
  file.scope = to_string(options.scope);
  file.input = to_string(options.input);
  file.pooling = to_string(options.pooling);
  file.top_k = options.top_k;
  file.length = options.length;
  file.experts = mixer.names();
  file.digests = mixer.digests();
  for (const auto& placed : mixer.gates()) {
    const auto weight = placed.gate.weight.to_host();
    GateData data;
    data.features = placed.gate.weight.size(0);
    data.n_experts = placed.gate.n_experts();
    data.weight.assign(weight.begin(), weight.end());
    data.log_tau = static_cast<double>(placed.gate.log_tau.item());
    if (data.n_experts < mixer.n_experts())
      for (const Index expert : placed.gate.experts)
        data.experts.push_back(mixer.names()[static_cast<std::size_t>(expert)]);
    file.gates[placed.name] = std::move(data);
  }
  write_gates<T>(path, file);
}

/// The policies a gates file was trained with. The starting temperature is not among them: 1.
/// Throws FormatError for a policy that this library does not know, or flatten pooling without a length.
inline GateOptions gate_options(const GatesFile& file) {
  const std::string source = file.path.empty() ? "the gates:" : message(file.path) + ":";
  GateOptions options;
  try {
    options.scope = parse_scope(file.scope);
    options.input = parse_gate_input(file.input);
    options.pooling = parse_pooling(file.pooling);
  } catch (const ArgumentError& error) {
    throw FormatError(message(source, error.what()));
  }
  options.top_k = file.top_k;
  options.length = file.length;
  MOLE_CHECK_FORMAT(options.pooling != Pooling::flatten || options.length > 0, source,
                    "metadata 'length' is missing, which flatten pooling needs");
  return options;
}

/// Sets a mixer's gates to those of a file. Throws FormatError, and changes nothing, when the file was made
/// with other adapters (by name, order or digest) or other policies, or its gates are not the mixer's.
template <class T, class B>
void load_gates(const GatesFile& file, Mixer<T, B>& mixer) {
  const std::string source = file.path.empty() ? "the gates" : message(file.path) + ": the gates";
  check_gates_match(file, mixer.names(), mixer.digests());
  const auto& have = mixer.options();
  const auto want = gate_options(file);
  auto same = [&](const char* policy, const auto& there, const auto& here) {
    MOLE_CHECK_FORMAT(there == here, source, "were trained with", policy, there,
                      "and the model is set up with", here,
                      "; attach the adapters with gate_options() of this file");
  };
  same("scope", file.scope, std::string(to_string(have.scope)));
  same("input", file.input, std::string(to_string(have.input)));
  same("pooling", file.pooling, std::string(to_string(have.pooling)));
  same("top-k", want.top_k, have.top_k);
  same("length", want.length, have.length);

  std::set<std::string> known;
  for (const auto& placed : mixer.gates()) {
    const auto found = file.gates.find(placed.name);
    MOLE_CHECK_FORMAT(found != file.gates.end(), source, "lack the one of", placed.name,
                      "; they belong to another model or other adapters");
    const Shape there{found->second.features, found->second.n_experts};
    MOLE_CHECK_FORMAT(there == placed.gate.weight.shape(), source, "have", placed.name, "as", there,
                      "where this model needs", placed.gate.weight.shape());
    const auto& columns = found->second.experts.empty() ? file.experts : found->second.experts;
    for (std::size_t i = 0; i < columns.size(); ++i) {
      const auto& expert = mixer.names()[static_cast<std::size_t>(placed.gate.experts[i])];
      MOLE_CHECK_FORMAT(columns[i] == expert, source, "have", placed.name, "with the expert", columns[i],
                        "in column", i, "where this model has", expert);
    }
    known.insert(placed.name);
  }
  for (const auto& [name, data] : file.gates)
    MOLE_CHECK_FORMAT(known.count(name) > 0, source, "have one for", name, "which this model lacks");
  for (const auto& placed : mixer.gates()) {
    const auto& data = file.gates.at(placed.name);
    const std::vector<T> weight(data.weight.begin(), data.weight.end());
    placed.gate.weight.assign(Tensor<T, B>::from(placed.gate.weight.shape(), weight));
    placed.gate.log_tau.fill(static_cast<T>(data.log_tau));
  }
}

/// The same, from a file.
template <class T, class B>
void load_gates(const std::filesystem::path& path, Mixer<T, B>& mixer) {
  load_gates(read_gates(path), mixer);
}

}  // namespace mole
