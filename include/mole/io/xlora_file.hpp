#pragma once
// A trained X-LoRA classifier: a gates file of the router xlora, tied by digests to the adapters it was
// trained with.
//
//   classifier.<i>.weight [to, from], classifier.<i>.bias [to]    its layers in order
//   metadata: as every gates file, options, gates (name and experts of each, in the order of the last layer's
//   columns)

#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <variant>
#include <vector>

#include <nlohmann/json.hpp>

#include <mole/experts/mixer.hpp>
#include <mole/io/gates_file.hpp>
#include <mole/io/safetensors.hpp>

namespace mole {

namespace detail {

inline nlohmann::json router_json(const XLoraOptions& options) {
  return {{"scope", to_string(options.scope)},
          {"pooling", to_string(options.pooling)},
          {"depth", options.depth},
          {"width", options.width},
          {"softmax", options.softmax},
          {"temperature", options.temperature},
          {"top_k", options.top_k},
          {"renormalize", to_string(options.renormalize)},
          {"weight", options.weight},
          {"first_pass", options.first_pass}};
}

/// The metadata 'options' of a router, each required and of its own type.
class RouterJson {
 public:
  explicit RouterJson(const GatesFrame& frame)
      : json_(frame.metadata.json("options")), where_(frame.metadata.where("options")) {
    MOLE_CHECK_FORMAT(json_.is_object(), where_, "should be an object");
  }
  std::string text(const char* key) const {
    MOLE_CHECK_FORMAT(at(key).is_string(), where_, key, "should be a text and is", json_text(at(key)));
    return at(key).get<std::string>();
  }
  bool flag(const char* key) const {
    MOLE_CHECK_FORMAT(at(key).is_boolean(), where_, key, "should be true or false and is",
                      json_text(at(key)));
    return at(key).get<bool>();
  }
  Index whole(const char* key) const {
    // Beyond 2^31 nothing fits a memory.
    const bool right =
        at(key).is_number_unsigned() && at(key).get<std::uint64_t>() < (std::uint64_t{1} << 31);
    MOLE_CHECK_FORMAT(right, where_, key, "should be a whole number from 0 to 2^31 and is",
                      json_text(at(key)));
    return at(key).get<Index>();
  }
  double number(const char* key) const {
    MOLE_CHECK_FORMAT(at(key).is_number() && std::isfinite(at(key).get<double>()), where_, key,
                      "should be a finite number and is", json_text(at(key)));
    return at(key).get<double>();
  }
  /// What `make` returns; what it refuses is the file's fault.
  template <class F>
  auto made_by(F make) const {
    try {
      return make();
    } catch (const ArgumentError& error) {
      throw FormatError(message(where_, "cannot be used:", error.what()));
    }
  }

 private:
  const nlohmann::json& at(const char* key) const {
    const auto found = json_.find(key);
    MOLE_CHECK_FORMAT(found != json_.end(), where_, "lacks", key);
    return *found;
  }
  nlohmann::json json_;
  std::string where_;
};

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

/// Options whose classifier the file holds: a model that is attached by them makes one of the same size.
inline XLoraOptions xlora_options(const GatesFrame& frame) {
  frame.check_router("xlora");
  const RouterJson json(frame);
  const auto options = json.made_by([&] {
    XLoraOptions read;
    read.scope = parse_scope(json.text("scope"));
    read.pooling = parse_pooling(json.text("pooling"));
    read.depth = json.whole("depth");
    read.width = json.whole("width");
    read.softmax = json.flag("softmax");
    read.temperature = json.number("temperature");
    read.top_k = json.whole("top_k");
    read.renormalize = parse_renormalize(json.text("renormalize"));
    read.weight = json.number("weight");
    read.first_pass = json.number("first_pass");
    check_router(read, static_cast<Index>(frame.adapters().experts.size()));
    return read;
  });
  const auto tensors = static_cast<Index>(frame.stored.names().size());
  MOLE_CHECK_FORMAT(tensors == 2 * options.depth, frame.source, "has", tensors, "tensors; a classifier of",
                    options.depth, "layers has", 2 * options.depth);
  for (Index i = 0; i + 1 < options.depth; ++i) {
    const auto bias = xlora_tensor(static_cast<std::size_t>(2 * i + 1));
    MOLE_CHECK_FORMAT(frame.stored.at(bias).shape == Shape{options.width}, frame.source,
                      "tensor '" + bias + "' is", frame.stored.at(bias).shape, "and the classifier's width",
                      options.width);
  }
  return options;
}

}  // namespace detail

/// Writes the classifier of a mixer with all that load_xlora() checks, atomically. Throws ArgumentError when
/// the mixer's router is another or its parameters are not finite, Error where the file cannot be written.
template <class T, class B>
void save_xlora(const std::filesystem::path& path, const Mixer<T, B>& mixer) {
  const auto* options = std::get_if<XLoraOptions>(&mixer.router());
  MOLE_CHECK_ARG(options, "save_xlora: these experts are routed by", router_name(mixer.router()),
                 "and have no classifier");
  SafetensorsWriter writer;
  const auto parameters = mixer.parameters();
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    const auto host = parameters[i].to_host();
    const std::vector<double> values(host.begin(), host.end());
    MOLE_CHECK_ARG(detail::finite_values(values), "save_xlora:", detail::xlora_tensor(i),
                   "holds NaN or infinite values");
    writer.add(detail::xlora_tensor(i), std::same_as<T, double> ? Dtype::F64 : Dtype::F32,
               parameters[i].shape(), values);
  }
  detail::add_gates_frame(writer, "xlora", mixer.names(), mixer.digests());
  writer.metadata("options", detail::json_text(detail::router_json(*options)));
  writer.metadata("gates", detail::json_text(detail::xlora_gates(mixer)));
  writer.write(path);
}

/// The options a classifier was trained with, but for the seed of its start. Throws FormatError for a file
/// of another router, and for options that this library does not know or that do not fit the file.
inline XLoraOptions xlora_options(const std::filesystem::path& path) {
  return detail::xlora_options(detail::GatesFrame(path));
}

/// Sets a mixer's classifier to that of a file. Throws ArgumentError when the mixer's router is another;
/// FormatError, and changes nothing, when the file was made with other adapters (by name, order or digest),
/// other options or another model, or holds NaN or infinite values.
template <class T, class B>
void load_xlora(const std::filesystem::path& path, Mixer<T, B>& mixer) {
  const auto* options = std::get_if<XLoraOptions>(&mixer.router());
  MOLE_CHECK_ARG(options, "load_xlora: these experts are routed by", router_name(mixer.router()),
                 "and have no classifier; attach them with xlora_options() of the file");
  const detail::GatesFrame frame(path);
  const auto there = detail::router_json(detail::xlora_options(frame)), here = detail::router_json(*options);
  check_gates_match(frame.adapters(), mixer.names(), mixer.digests());
  MOLE_CHECK_FORMAT(there == here, frame.source, "was trained with", detail::json_text(there),
                    "and the model is set up with", detail::json_text(here),
                    "; attach the adapters with xlora_options() of this file");
  MOLE_CHECK_FORMAT(frame.metadata.json("gates") == detail::xlora_gates(mixer), frame.source,
                    "was trained for other layers than this model's");
  const auto parameters = mixer.parameters();
  std::vector<Tensor<T, B>> values;
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    const auto name = detail::xlora_tensor(i);
    MOLE_CHECK_FORMAT(frame.stored.at(name).shape == parameters[i].shape(), frame.source, "has", name, "as",
                      frame.stored.at(name).shape, "where this model needs", parameters[i].shape());
    const auto host = frame.stored.read<double>(name);
    MOLE_CHECK_FORMAT(detail::finite_values(host), frame.source, "tensor '" + name + "'",
                      "holds NaN or infinite values");
    values.push_back(Tensor<T, B>::from(parameters[i].shape(), std::vector<T>(host.begin(), host.end())));
  }
  for (std::size_t i = 0; i < parameters.size(); ++i) parameters[i].assign(values[i]);
}

}  // namespace mole
