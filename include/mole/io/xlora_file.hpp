#pragma once
// A trained X-LoRA classifier: one safetensors file, tied by digests to the adapters it was trained with.
//
//   classifier.<i>.weight [to, from], classifier.<i>.bias [to]    its layers in order
//   metadata: format mole-xlora, version, options, gates (name and experts of each, in the order of the last
//   layer's columns), experts and digests of the adapters

#include <cstddef>
#include <filesystem>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include <mole/io/gates_file.hpp>
#include <mole/io/safetensors.hpp>
#include <mole/nn/mixer.hpp>

namespace mole {

/// The version that save_xlora() writes and the latest that load_xlora() reads.
inline constexpr int xlora_file_version = 1;

namespace detail {

inline nlohmann::json xlora_json(const XLoraOptions& options) {
  return {{"scope", to_string(options.scope)},
          {"pooling", to_string(options.pooling)},
          {"depth", options.depth},
          {"width", options.width},
          {"softmax", options.softmax},
          {"temperature", options.temperature},
          {"top_k", options.top_k},
          {"renormalize", static_cast<int>(options.renormalize)},
          {"weight", options.weight},
          {"first_pass", options.first_pass}};
}

template <class T, class B>
nlohmann::json xlora_gates(const Mixer<T, B>& mixer) {
  auto gates = nlohmann::json::array();
  for (const auto& placed : mixer.gates()) {
    auto experts = nlohmann::json::array();
    for (const Index expert : placed.gate.experts)
      experts.push_back(mixer.names()[static_cast<std::size_t>(expert)]);
    gates.push_back({{"name", placed.name}, {"experts", std::move(experts)}});
  }
  return gates;
}

inline std::string xlora_tensor(std::size_t parameter) {
  return "classifier." + std::to_string(parameter / 2) + (parameter % 2 == 0 ? ".weight" : ".bias");
}

/// A file that says it is a classifier's, of a version that is known.
class XLoraFile {
 public:
  explicit XLoraFile(const std::filesystem::path& path)
      : stored(path), source(message(path) + ":"), metadata(stored, source) {
    MOLE_CHECK_FORMAT(stored.metadata().contains("format") && metadata.text("format") == "mole-xlora", source,
                      "holds no X-LoRA classifier: its metadata 'format' is not mole-xlora");
    const Index version = metadata.number("version");
    MOLE_CHECK_FORMAT(version >= 1 && version <= xlora_file_version, source, "version", version,
                      "is not supported, only up to", xlora_file_version);
  }
  XLoraFile(const XLoraFile&) = delete;

  SafetensorsFile stored;
  std::string source;
  GatesMetadata metadata;
};

}  // namespace detail

/// Writes the classifier of a mixer with all that load_xlora() checks, atomically. Throws ArgumentError when
/// the mixer's router is another, Error where the file cannot be written.
template <class T, class B>
void save_xlora(const std::filesystem::path& path, const Mixer<T, B>& mixer) {
  const auto* options = std::get_if<XLoraOptions>(&mixer.router());
  MOLE_CHECK_ARG(options, "save_xlora: these experts are routed by", router_name(mixer.router()),
                 "and have no classifier");
  SafetensorsWriter writer;
  const auto parameters = mixer.parameters();
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    const auto host = parameters[i].to_host();
    writer.add(detail::xlora_tensor(i), std::same_as<T, double> ? Dtype::F64 : Dtype::F32,
               parameters[i].shape(), std::vector<double>(host.begin(), host.end()));
  }
  writer.metadata("format", "mole-xlora");
  writer.metadata("version", std::to_string(xlora_file_version));
  writer.metadata("options", detail::json_text(detail::xlora_json(*options)));
  writer.metadata("gates", detail::json_text(detail::xlora_gates(mixer)));
  writer.metadata("experts", detail::json_text(nlohmann::json(mixer.names())));
  writer.metadata("digests", detail::json_text(nlohmann::json(mixer.digests())));
  writer.write(path);
}

/// The options a classifier was trained with, but for the seed of its start. Throws FormatError for a file
/// that is not a classifier's or options that this library does not know.
inline XLoraOptions xlora_options(const std::filesystem::path& path) {
  const detail::XLoraFile file(path);
  const auto json = file.metadata.json("options");
  const auto where = file.metadata.where("options");
  XLoraOptions options;
  try {
    options.scope = parse_scope(json.at("scope").get<std::string>());
    options.pooling = parse_pooling(json.at("pooling").get<std::string>());
    options.depth = json.at("depth").get<Index>();
    options.width = json.at("width").get<Index>();
    options.softmax = json.at("softmax").get<bool>();
    options.temperature = json.at("temperature").get<double>();
    options.top_k = json.at("top_k").get<Index>();
    const int how = json.at("renormalize").get<int>();
    MOLE_CHECK_ARG(how >= 0 && how <= 2, "renormalize is", how);
    options.renormalize = static_cast<Renormalize>(how);
    options.weight = json.at("weight").get<double>();
    options.first_pass = json.at("first_pass").get<double>();
  } catch (const nlohmann::json::exception& error) {
    throw FormatError(message(where, "cannot be read:", error.what()));
  } catch (const ArgumentError& error) {
    throw FormatError(message(where, "cannot be read:", error.what()));
  }
  return options;
}

/// Sets a mixer's classifier to that of a file. Throws ArgumentError when the mixer's router is another;
/// FormatError, and changes nothing, when the file was made with other adapters (by name, order or digest),
/// other options or another model.
template <class T, class B>
void load_xlora(const std::filesystem::path& path, Mixer<T, B>& mixer) {
  const auto* options = std::get_if<XLoraOptions>(&mixer.router());
  MOLE_CHECK_ARG(options, "load_xlora: these experts are routed by", router_name(mixer.router()),
                 "and have no classifier; attach them with xlora_options() of the file");
  const detail::XLoraFile file(path);
  GatesFile made;
  made.path = path;
  made.experts = detail::json_names(file.metadata.json("experts"), file.metadata.where("experts"));
  made.digests = detail::json_names(file.metadata.json("digests"), file.metadata.where("digests"));
  MOLE_CHECK_FORMAT(made.digests.size() == made.experts.size(), file.source, made.digests.size(),
                    "digests for", made.experts.size(), "experts");
  check_gates_match(made, mixer.names(), mixer.digests());
  const auto there = file.metadata.json("options"), here = detail::xlora_json(*options);
  MOLE_CHECK_FORMAT(there == here, file.source, "was trained with", detail::json_text(there),
                    "and the model is set up with", detail::json_text(here),
                    "; attach the adapters with xlora_options() of this file");
  MOLE_CHECK_FORMAT(file.metadata.json("gates") == detail::xlora_gates(mixer), file.source,
                    "was trained for other layers than this model's");
  const auto parameters = mixer.parameters();
  MOLE_CHECK_FORMAT(file.stored.names().size() == parameters.size(), file.source, "has",
                    file.stored.names().size(), "tensors where", parameters.size(), "are needed");
  std::vector<Tensor<T, B>> values;
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    const auto name = detail::xlora_tensor(i);
    MOLE_CHECK_FORMAT(file.stored.at(name).shape == parameters[i].shape(), file.source, "has", name, "as",
                      file.stored.at(name).shape, "where this model needs", parameters[i].shape());
    const auto host = file.stored.read<double>(name);
    values.push_back(Tensor<T, B>::from(parameters[i].shape(), std::vector<T>(host.begin(), host.end())));
  }
  for (std::size_t i = 0; i < parameters.size(); ++i) parameters[i].assign(values[i]);
}

}  // namespace mole
