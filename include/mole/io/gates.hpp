#pragma once
// Trained gates of any router: one safetensors file, tied by digests to the adapters they were trained with.
//
//   tensors    what the router keeps, under its own names: <scope>[@memory].gate.weight [features, N], or of a gate of rank m
//              .gate.weight.u [features, m] and .v [m, N], and .gate.log_temperature [] of MoLE, classifier.<i>.weight and .bias of X-LoRA, none of Arrow; where
//              input_scale is not unit, the frozen .gate.input_mean [features] and .gate.input_factor [features],
//              [] for common (X-LoRA: classifier.input_mean and classifier.input_factor)
//   metadata   format, version, router; the router's options, one text each; experts and digests of the
//              adapters in order; gates: name and experts of each, in order; note.<key>: whatever a program
//              wants to remember beside them
// Version 1 wrote the options of Arrow and X-LoRA as one JSON text, and the gates' experts for MoLE only where
// they were fewer than all. Version 2 had no input_scale, version 3 no gate_rank. Such files are read too, as of unit and
// of gates that are whole.

#include <algorithm>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <filesystem>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include <mole/experts/mixer.hpp>
#include <mole/experts/routers/registry.hpp>
#include <mole/io/json.hpp>
#include <mole/io/peft.hpp>
#include <mole/io/safetensors.hpp>

namespace mole {

/// The version that save_gates() writes, and the latest that read_gates() reads.
inline constexpr int gates_file_version = 4;

/// What a gates file says before any of its tensors is read.
struct GatesFile {
  RouterOptions options;             ///< but for where training started: temperature of MoLE, seed of X-LoRA
  std::vector<std::string> experts;  ///< the adapters' names, in order
  std::vector<std::string> digests;  ///< Adapter::digest of each
  std::vector<std::pair<std::string, std::vector<std::string>>> gates;  ///< name and experts, in order
  std::map<std::string, std::string> notes;  ///< what a program left beside them (save_gates)
  bool lists_all_gates = true;  ///< else `gates` has only those that hold fewer experts than the file
  std::shared_ptr<const SafetensorsFile> stored;

  std::string source() const { return message(stored->path()) + ":"; }
};

namespace detail {

inline constexpr std::string_view note_prefix = "note.";

/// The metadata of a gates file, each text required unless it is asked for with find().
class GatesMetadata {
 public:
  explicit GatesMetadata(const SafetensorsFile& file)
      : metadata_(file.metadata()), source_(message(file.path()) + ":") {}

  const std::string* find(const std::string& key) const {
    const auto found = metadata_.find(key);
    return found == metadata_.end() ? nullptr : &found->second;
  }
  const std::string& text(const std::string& key) const {
    const auto* const found = find(key);
    MOLE_CHECK_FORMAT(found, where(key), "is missing");
    return *found;
  }
  Json json(const std::string& key) const { return parse_json(text(key), where(key)); }
  std::vector<std::string> names(const Json& list, const std::string& key) const {
    std::vector<std::string> names;
    bool texts = list.is_array();
    for (std::size_t i = 0; texts && i < list.size(); ++i)
      if ((texts = list[i].is_string())) names.push_back(list[i].get<std::string>());
    MOLE_CHECK_FORMAT(texts, where(key), "should be a list of texts");
    return names;
  }
  std::string where(const std::string& key) const { return source_ + " metadata '" + key + "'"; }
  const std::string& source() const { return source_; }

 private:
  const std::map<std::string, std::string>& metadata_;
  std::string source_;
};

/// The options of router O that a file of a version holds. Throws FormatError for one that is missing or bad.
template <class O>
O read_options(const GatesMetadata& metadata, int version, Index n_experts) {
  Json together;
  if (metadata.find("options")) {
    together = metadata.json("options");
    MOLE_CHECK_FORMAT(together.is_object(), metadata.where("options"), "should be an object");
  }
  O options;
  const auto refuse = [](const std::string& where, const ArgumentError& error) {
    throw FormatError(message(where, error.what()));
  };
  O::fields(options, [&](const char* key, auto& field, int since = 1) {
    std::string text;
    if (const auto inside = together.find(key); together.is_object() && inside != together.end())
      text = inside->is_string() ? inside->template get<std::string>() : json_text(*inside);
    else if (const auto* const found = metadata.find(key))
      text = *found;
    else if (version < since)
      return;
    else
      metadata.text(key);
    try {
      read_field(text, field);
    } catch (const ArgumentError& error) {
      refuse(metadata.where(key), error);
    }
  });
  try {
    check_router(options, n_experts);
  } catch (const ArgumentError& error) {
    refuse(metadata.source() + " its options cannot be used:", error);
  }
  return options;
}

/// Name and experts of each gate, as far as the file says. Throws FormatError for experts that it does not list.
inline void read_gate_list(const GatesMetadata& metadata, int version, GatesFile& file) {
  file.lists_all_gates = version > 1 || metadata.find("gates");
  if (file.lists_all_gates) {
    const auto list = metadata.json("gates");
    MOLE_CHECK_FORMAT(list.is_array(), metadata.where("gates"), "should be a list");
    for (const auto& gate : list) {
      MOLE_CHECK_FORMAT(
          gate.is_object() && gate.contains("name") && gate["name"].is_string() && gate.contains("experts"),
          metadata.where("gates"), "should be a list of gates with name and experts");
      file.gates.emplace_back(gate["name"].get<std::string>(), metadata.names(gate["experts"], "gates"));
    }
  } else if (metadata.find("gate_experts")) {
    const auto fewer = metadata.json("gate_experts");
    MOLE_CHECK_FORMAT(fewer.is_object(), metadata.where("gate_experts"), "should be an object");
    for (const auto& [name, experts] : fewer.items())
      file.gates.emplace_back(name, metadata.names(experts, "gate_experts"));
  }
  for (const auto& [name, experts] : file.gates) {
    for (const auto& expert : experts)
      MOLE_CHECK_FORMAT(std::find(file.experts.begin(), file.experts.end(), expert) != file.experts.end(),
                        metadata.source(), "the gate", name, "names the expert", "'" + expert + "'",
                        "which the file does not list");
    MOLE_CHECK_FORMAT(std::set<std::string>(experts.begin(), experts.end()).size() == experts.size(),
                      metadata.source(), "the gate", name, "names an expert twice");
  }
}

template <class T, class B>
std::vector<std::pair<std::string, std::vector<std::string>>> gate_list(const Mixer<T, B>& mixer) {
  std::vector<std::pair<std::string, std::vector<std::string>>> list;
  for (const auto& placed : mixer.gates()) {
    list.emplace_back(placed.name, std::vector<std::string>());
    for (const Index expert : placed.gate.experts)
      list.back().second.push_back(mixer.names()[static_cast<std::size_t>(expert)]);
  }
  return list;
}

inline std::string joined(const std::vector<std::string>& parts) {
  std::string text;
  for (const auto& part : parts) text += (text.empty() ? "" : ", ") + part;
  return text;
}

/// What is wrong with the numbers of a tensor of this name; nullptr if nothing is.
inline const char* wrong_with(const std::string& name, const std::vector<double>& values) {
  const bool logarithm = name.ends_with(".log_temperature");
  for (const double value : values) {
    if (!is_finite(value)) return "holds NaN or infinite values";
    if (logarithm && std::abs(value) > 1e-3 - std::log(least_temperature))
      return "holds a temperature beyond 1e-30 or 1e30, with which no gate can be computed";
  }
  return nullptr;
}

/// Throws FormatError unless the file holds just these tensors in these shapes.
inline void check_stored(const GatesFile& file, const std::vector<NamedShape>& wanted) {
  std::set<std::string> known;
  for (const auto& [name, shape] : wanted) {
    MOLE_CHECK_FORMAT(file.stored->contains(name), file.source(), "lacks the tensor", "'" + name + "'",
                      "; the gates belong to another model or other adapters");
    const auto& there = file.stored->at(name).shape;
    MOLE_CHECK_FORMAT(there == shape, file.source(), "has", name, "as", there, "where this model needs",
                      shape);
    known.insert(name);
  }
  for (const auto& name : file.stored->names())
    MOLE_CHECK_FORMAT(known.count(name) > 0, file.source(), "holds the tensor", "'" + name + "'",
                      "which this model has no gate for");
}

/// Throws FormatError, naming the option, unless the file's router and options are the mixer's.
template <class T, class B>
void check_same_router(const GatesFile& file, const AnyRouter<T, B>& here) {
  constexpr const char* remedy = "; attach the adapters with attach_gates() or the options of this file";
  std::visit(
      [&]<class O>(const O& options) {
        MOLE_CHECK_FORMAT(std::string_view(O::name) == here.name(), file.source(), "is of the router",
                          O::name, "and the model is set up with", here.name(), remedy);
        const auto own = here.options();
        std::size_t i = 0;
        O::fields(options, [&](const char* key, const auto& field, int = 1) {
          MOLE_CHECK_FORMAT(field_text(field) == own[i].second, file.source(), "the gates were trained with",
                            key, field_text(field), "and the model is set up with", own[i].second, remedy);
          ++i;
        });
      },
      file.options);
}

/// Throws FormatError unless the file's gates are the mixer's, with the same experts in the same columns.
template <class T, class B>
void check_same_gates(const GatesFile& file, const Mixer<T, B>& mixer) {
  const auto here = gate_list(mixer);
  MOLE_CHECK_FORMAT(!file.lists_all_gates || here.size() == file.gates.size(), file.source(), "has",
                    file.gates.size(), "gates and this model", here.size(),
                    "; they belong to another model or other adapters");
  for (std::size_t i = 0; i < file.gates.size(); ++i) {
    const auto& name = file.gates[i].first;
    const auto& experts = file.gates[i].second;
    const auto found = file.lists_all_gates ? here.begin() + static_cast<std::ptrdiff_t>(i)
                                            : std::find_if(here.begin(), here.end(),
                                                           [&](const auto& g) { return g.first == name; });
    MOLE_CHECK_FORMAT(found != here.end() && found->first == name, file.source(), "has the gate",
                      "'" + name + "'", "which this model does not have at that place");
    MOLE_CHECK_FORMAT(found->second == experts, file.source(), "has the gate", name, "with the experts",
                      joined(experts), "where this model has", joined(found->second));
  }
}

}  // namespace detail

/// Writes a mixer's gates, whichever its router is, with all that load_gates() checks, atomically. They are
/// stored as float, or double where T is. `notes` are texts that the file keeps for the caller. Throws
/// ArgumentError for values that load_gates() would refuse and where the scale of what the gates read has not been
/// measured; Error where the file cannot be written.
template <class T, class B>
void save_gates(const std::filesystem::path& path, const Mixer<T, B>& mixer,
                const std::map<std::string, std::string>& notes = {}) {
  SafetensorsWriter writer;
  MOLE_CHECK_ARG(mixer.is_measured(),
                 "save_gates: the scale of what the gates read has not been measured; call "
                 "standardise_gates(batches) first");
  const auto tensors = mixer.tensors();
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const auto& name = mixer.stored()[i].name;
    const auto host = tensors[i].to_host();
    const std::vector<double> values(host.begin(), host.end());
    const char* const wrong = detail::wrong_with(name, values);
    MOLE_CHECK_ARG(!wrong, "save_gates:", name, wrong ? wrong : "");
    writer.add(name, std::same_as<T, double> ? Dtype::F64 : Dtype::F32, tensors[i].shape(), values);
  }
  writer.metadata("format", "mole-gates");
  writer.metadata("version", std::to_string(gates_file_version));
  writer.metadata("router", mixer.router().name());
  for (const auto& [key, text] : mixer.router().options()) writer.metadata(key, text);
  writer.metadata("experts", detail::json_text(Json(mixer.names())));
  writer.metadata("digests", detail::json_text(Json(mixer.digests())));
  auto gates = Json::array();
  for (const auto& [name, experts] : detail::gate_list(mixer))
    gates.push_back({{"name", name}, {"experts", experts}});
  writer.metadata("gates", detail::json_text(gates));
  for (const auto& [key, text] : notes) writer.metadata(std::string(detail::note_prefix) + key, text);
  writer.write(path);
}

/// What a gates file says of itself. Throws FormatError, naming file and metadata, for a file that is no gates
/// file, of a router or version that this library does not know, or with options that are missing or out of
/// range; Error where it cannot be read.
inline GatesFile read_gates(const std::filesystem::path& path) {
  GatesFile file;
  file.stored = std::make_shared<const SafetensorsFile>(path);
  const detail::GatesMetadata metadata(*file.stored);
  const auto* const format = metadata.find("format");
  MOLE_CHECK_FORMAT(format && *format == "mole-gates", metadata.source(),
                    "is no gates file: its metadata 'format' is not mole-gates");
  Index version = 0;
  try {
    detail::read_field(metadata.text("version"), version);
  } catch (const ArgumentError& error) {
    throw FormatError(message(metadata.where("version"), error.what()));
  }
  MOLE_CHECK_FORMAT(version >= 1 && version <= gates_file_version, metadata.source(), "version", version,
                    "is not supported, only up to", gates_file_version);
  file.experts = metadata.names(metadata.json("experts"), "experts");
  file.digests = metadata.names(metadata.json("digests"), "digests");
  MOLE_CHECK_FORMAT(!file.experts.empty(), metadata.source(), "names no experts");
  MOLE_CHECK_FORMAT(file.digests.size() == file.experts.size(), metadata.source(), file.digests.size(),
                    "digests for", file.experts.size(), "experts");
  for (const auto& [key, text] : file.stored->metadata())
    if (key.starts_with(detail::note_prefix)) file.notes[key.substr(detail::note_prefix.size())] = text;
  // The first gates files were all MoLE's and did not say so.
  const std::string router = metadata.find("router") ? metadata.text("router") : "mole";
  std::vector<std::string> names;
  const bool known = detail::any_router([&]<class O>(const O&) {
    names.push_back(O::name);
    if (router != O::name) return false;
    file.options =
        detail::read_options<O>(metadata, static_cast<int>(version), static_cast<Index>(file.experts.size()));
    return true;
  });
  MOLE_CHECK_FORMAT(known, metadata.where("router"), "is '" + router + "', and this library knows",
                    detail::joined(names));
  detail::read_gate_list(metadata, static_cast<int>(version), file);
  return file;
}

/// Throws FormatError, saying which adapter, unless the gates were trained with these adapters, by name and
/// digest, in this order.
inline void check_gates_match(const GatesFile& file, const std::vector<std::string>& names,
                              const std::vector<std::string>& digests) {
  MOLE_CHECK_FORMAT(names == file.experts, file.source(), "the gates were trained with the adapters",
                    detail::joined(file.experts), "in this order, and were given", detail::joined(names));
  for (std::size_t i = 0; i < names.size(); ++i)
    MOLE_CHECK_FORMAT(digests[i] == file.digests[i], file.source(),
                      "the gates were trained with another adapter", "'" + names[i] + "':", "its digest was",
                      file.digests[i], "and is now", digests[i],
                      "(load the adapter that they were trained with, or train the gates again)");
}

/// The same for adapters as loaded, or as a model sees them.
template <class A>
void check_gates_match(const GatesFile& file, const std::vector<A>& adapters) {
  std::vector<std::string> names, digests;
  for (const auto& adapter : adapters) {
    names.push_back(adapter.name);
    digests.push_back(adapter.digest);
  }
  check_gates_match(file, names, digests);
}

namespace detail {

/// Fills a router like the mixer's, with gates in the same places, from a file. Throws as load_gates().
template <class T, class B>
void fill_router(const GatesFile& file, const Mixer<T, B>& mixer, const AnyRouter<T, B>& router) {
  check_same_router(file, mixer.router());
  check_gates_match(file, mixer.names(), mixer.digests());
  check_same_gates(file, mixer);
  check_stored(file, mixer.stored());
  const auto tensors = router.tensors();
  const auto scales = router.scales();
  std::vector<Tensor<T, B>> values;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const auto& name = mixer.stored()[i].name;
    const auto host = file.stored->template read<double>(name);
    const char* const wrong = wrong_with(name, host);
    MOLE_CHECK_FORMAT(!wrong, file.source(), "tensor '" + name + "'", wrong ? wrong : "");
    const bool factor = std::any_of(scales.begin(), scales.end(), [&](const auto& scale) {
      return scale.factor.node_pointer() == tensors[i].node_pointer();
    });
    MOLE_CHECK_FORMAT(!factor || std::all_of(host.begin(), host.end(), [](double v) { return v >= 0; }),
                      file.source(), "tensor '" + name + "'", "holds a factor below 0");
    values.push_back(Tensor<T, B>::from(tensors[i].shape(), std::vector<T>(host.begin(), host.end())));
  }
  for (std::size_t i = 0; i < tensors.size(); ++i) tensors[i].assign(values[i]);
}

}  // namespace detail

/// Sets a mixer's gates to those of a file. Throws FormatError, and changes nothing, when the file is of another
/// router or other options than the mixer's, was made with other adapters (by name, order or digest) or for
/// another model, or holds NaN, infinite values, temperatures beyond 1e-30 or 1e30, or a factor of the input below 0.
template <class T, class B>
void load_gates(const GatesFile& file, Mixer<T, B>& mixer) {
  detail::fill_router(file, mixer, mixer.router());
  mixer.take_scales();
}
/// The same, from a path.
template <class T, class B>
void load_gates(const std::filesystem::path& path, Mixer<T, B>& mixer) {
  load_gates(read_gates(path), mixer);
}

/// Adds the gates of a file to a model as a further set, for requests to choose by its number (Mixer::gate_set(name),
/// MolePass::sets), or in place of the set of that name. They do not train. Throws FormatError as load_gates() does, and
/// changes nothing then: the file must be of the router, options and experts that the model has.
template <class Model>
void add_gates(Model& model, const std::string& name, const GatesFile& file) {
  auto& mixer = model.mixer();
  auto set = mixer.new_set(model.layers().table, name);
  detail::fill_router(file, mixer, *set.router);
  mixer.add_set(std::move(set));
}

/// Attaches adapters to a model by saved gates and loads these: the model as it was when save_gates() was
/// called. Nothing is made for the gates before the file's own tensors have the shapes that they need. Throws
/// FormatError before anything changes for other adapters than the gates' (by name, order or digest); where the
/// rest does not fit, as load_gates() or attach() throw, nothing stays attached. What was merged stays.
template <class Model>
void attach_gates(Model& model, const std::vector<LoraSet>& adapters, const GatesFile& file) {
  check_gates_match(file, adapters);
  try {
    model.attach(adapters, file.options,
                 [&](const std::vector<NamedShape>& wanted) { detail::check_stored(file, wanted); });
    load_gates(file, model.mixer());
  } catch (const ShapeError& error) {
    model.layers().mixer.reset();
    throw FormatError(message(file.source(), "its options ask for gates that cannot be:", error.what()));
  } catch (...) {
    model.layers().mixer.reset();
    throw;
  }
}

}  // namespace mole
