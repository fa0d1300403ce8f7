#pragma once
// What a file of trained gates says: of any router, one safetensors file, tied by digests to the adapters that they were
// trained with. gates.hpp writes such files and gives their gates to models.
//
//   tensors    what the router keeps, under its own names: <scope>[@memory].gate.weight [features, N], or of a gate of
//              rank m .gate.weight.u [features, m] and .v [m, N], and .gate.log_temperature [] of MoLE, classifier.<i>.weight
//              and .bias of X-LoRA, none of Arrow; where input_scale is not unit, the frozen .gate.input_mean
//              [features] and .gate.input_factor [features], [] for common (X-LoRA: classifier.input_mean and
//              classifier.input_factor)
//   metadata   format, version, router; the router's options, one text each; experts and digests of the
//              adapters in order; gates: name and experts of each, in order; note.<key>: whatever a program
//              wants to remember beside them
// Version 1 wrote the options of Arrow and X-LoRA as one JSON text, and the gates' experts for MoLE only where
// they were fewer than all. Version 2 had no input_scale, version 3 no gate_rank. Such files are read too, as of unit and
// of gates that are whole.

#include <algorithm>
#include <cstddef>
#include <filesystem>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <mole/experts/routers/registry.hpp>
#include <mole/io/json.hpp>
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
      if ((texts = values_of(list)[i].is_string())) names.push_back(text_of(values_of(list)[i]));
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
    if (const auto* const inside = find_field(together, key))
      text = inside->is_string() ? text_of(*inside) : json_text(*inside);
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
    for (const auto& gate : values_of(list)) {
      const auto *const name = find_field(gate, "name"), *const experts = find_field(gate, "experts");
      MOLE_CHECK_FORMAT(name && name->is_string() && experts, metadata.where("gates"),
                        "should be a list of gates with name and experts");
      file.gates.emplace_back(text_of(*name), metadata.names(*experts, "gates"));
    }
  } else if (metadata.find("gate_experts")) {
    const auto fewer = metadata.json("gate_experts");
    MOLE_CHECK_FORMAT(fewer.is_object(), metadata.where("gate_experts"), "should be an object");
    for (const auto& [name, experts] : fields_of(fewer))
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

inline std::string joined(const std::vector<std::string>& parts) {
  std::string text;
  for (const auto& part : parts) text += (text.empty() ? "" : ", ") + part;
  return text;
}

}  // namespace detail

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

}  // namespace mole
