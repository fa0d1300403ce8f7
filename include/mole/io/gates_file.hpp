#pragma once
// Trained gates: one safetensors file, tied by digests to the adapters that they were trained with. Files of
// the other routers (xlora_file.hpp, router_file.hpp) share its frame: metadata format, version, router,
// experts and digests.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <filesystem>
#include <map>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include <mole/core/error.hpp>
#include <mole/core/shape.hpp>
#include <mole/io/dtype.hpp>
#include <mole/io/json.hpp>
#include <mole/io/peft.hpp>
#include <mole/io/safetensors.hpp>

namespace mole {

/// One gate: weight is [features, n_experts], row-major; the temperature is exp(log_tau).
struct GateData {
  Index features = 0, n_experts = 0;
  std::vector<double> weight;
  double log_tau = 0;
  std::vector<std::string>
      experts;  ///< the columns' experts, where they are fewer than the file's; else empty
};

/// What a gates file holds. `scope`, `input` and `pooling` are the policies' names.
struct GatesFile {
  int version = 1;
  std::string scope, input, pooling;
  std::vector<std::string> experts;       ///< the adapters' names, in order
  std::vector<std::string> digests;       ///< Adapter::digest of each
  Index top_k = 0;                        ///< 0: every gate counts
  Index length = 0;                       ///< tokens of a sequence, for flatten pooling
  std::map<std::string, GateData> gates;  ///< by scope, or scope@memory for the gate on a decoder's memory
  std::filesystem::path path;             ///< where it was read from, for messages
};

/// The version that write_gates() writes and the latest that read_gates() reads.
inline constexpr int gates_file_version = 1;

namespace detail {

inline constexpr std::string_view gate_weight_end = ".gate.weight";
inline constexpr std::string_view gate_temperature_end = ".gate.log_temperature";

inline bool finite_values(const std::vector<double>& values) {
  return std::all_of(values.begin(), values.end(), [](double value) { return std::isfinite(value); });
}

// Whether `gate` can belong to the file: E is ArgumentError on the way out, FormatError on the way in.
template <class E>
void check_gate(const GatesFile& file, const std::string& name, const GateData& gate,
                const std::string& source) {
  const std::string where = source + " gate '" + name + "'";
  const auto& experts = gate.experts.empty() ? file.experts : gate.experts;
  MOLE_CHECK_AS(E, gate.features > 0 && gate.n_experts > 0, where, "is empty");
  MOLE_CHECK_AS(E, static_cast<Index>(gate.weight.size()) == Shape({gate.features, gate.n_experts}).size(),
                where, "needs", gate.features, "x", gate.n_experts, "weights, got", gate.weight.size());
  MOLE_CHECK_AS(E, gate.n_experts == static_cast<Index>(experts.size()), where, "has", gate.n_experts,
                "columns for", experts.size(), "experts");
  for (const auto& expert : gate.experts)
    MOLE_CHECK_AS(E, std::find(file.experts.begin(), file.experts.end(), expert) != file.experts.end(), where,
                  "names the expert", "'" + expert + "', which the file does not list");
  MOLE_CHECK_AS(E, std::set<std::string>(experts.begin(), experts.end()).size() == experts.size(), where,
                "names an expert twice");
  MOLE_CHECK_AS(E, finite_values(gate.weight) && std::isfinite(gate.log_tau), where,
                "holds NaN or infinite values");
}

template <class E>
void check_gates(const GatesFile& file, const std::string& source) {
  MOLE_CHECK_AS(E, !file.experts.empty() && !file.gates.empty(), source, "no experts or no gates");
  MOLE_CHECK_AS(E, file.digests.size() == file.experts.size(), source, file.digests.size(), "digests for",
                file.experts.size(), "experts");
  MOLE_CHECK_AS(E, file.top_k >= 0 && file.top_k <= static_cast<Index>(file.experts.size()), source,
                "top_k of", file.top_k, "among", file.experts.size(), "experts");
  for (const auto& [name, gate] : file.gates) check_gate<E>(file, name, gate, source);
}

inline std::vector<std::string> json_names(const nlohmann::json& json, const std::string& where) {
  MOLE_CHECK_FORMAT(json.is_array(), where, "should be a list of texts");
  std::vector<std::string> names;
  for (const auto& name : json) {
    MOLE_CHECK_FORMAT(name.is_string(), where, "should be a list of texts");
    names.push_back(name.get<std::string>());
  }
  return names;
}

// The texts under __metadata__, each required.
class GatesMetadata {
 public:
  GatesMetadata(const SafetensorsFile& file, const std::string& source) : file_(file), source_(source) {}
  const std::string& text(const std::string& key) const {
    const auto found = file_.metadata().find(key);
    MOLE_CHECK_FORMAT(found != file_.metadata().end(), where(key), "is missing");
    return found->second;
  }
  Index number(const std::string& key) const {
    const std::string& digits = text(key);
    const bool right =
        !digits.empty() && digits.size() <= 9 && digits.find_first_not_of("0123456789") == digits.npos;
    MOLE_CHECK_FORMAT(right, where(key), "should be a whole number and is '" + digits + "'");
    return std::stoll(digits);
  }
  nlohmann::json json(const std::string& key) const {
    return parse_json<nlohmann::json>(text(key), where(key));
  }
  std::string where(const std::string& key) const { return source_ + " metadata '" + key + "'"; }

 private:
  const SafetensorsFile& file_;
  const std::string& source_;
};

/// A file that says it is a gates file, of a version and a router that are known.
class GatesFrame {
 public:
  explicit GatesFrame(const std::filesystem::path& path)
      : stored(path), source(message(path) + ":"), metadata(stored, source) {
    MOLE_CHECK_FORMAT(stored.metadata().contains("format") && metadata.text("format") == "mole-gates", source,
                      "is no gates file: its metadata 'format' is not mole-gates");
    version = static_cast<int>(metadata.number("version"));
    MOLE_CHECK_FORMAT(version >= 1 && version <= gates_file_version, source, "version", version,
                      "is not supported, only up to", gates_file_version);
    // The first gates files were all MoLE's and did not say so.
    if (stored.metadata().contains("router")) router = metadata.text("router");
    MOLE_CHECK_FORMAT(router == "mole" || router == "arrow" || router == "xlora", metadata.where("router"),
                      "is '" + router + "'; this library knows mole, arrow and xlora");
  }
  GatesFrame(const GatesFrame&) = delete;

  void check_router(const std::string& wanted) const {
    MOLE_CHECK_FORMAT(router == wanted, source, "is of the router", router, "and", wanted,
                      "was asked for; read_router() and load_router() take a file of any router");
  }

  /// With the adapters alone: names, digests and path.
  GatesFile adapters() const {
    GatesFile file;
    file.path = stored.path();
    file.version = version;
    file.experts = json_names(metadata.json("experts"), metadata.where("experts"));
    file.digests = json_names(metadata.json("digests"), metadata.where("digests"));
    MOLE_CHECK_FORMAT(!file.experts.empty(), source, "names no experts");
    MOLE_CHECK_FORMAT(file.digests.size() == file.experts.size(), source, file.digests.size(), "digests for",
                      file.experts.size(), "experts");
    return file;
  }

  SafetensorsFile stored;
  std::string source;
  GatesMetadata metadata;
  int version = 0;
  std::string router = "mole";
};

/// What every gates file says of itself.
inline void add_gates_frame(SafetensorsWriter& writer, const std::string& router,
                            const std::vector<std::string>& experts,
                            const std::vector<std::string>& digests) {
  writer.metadata("format", "mole-gates");
  writer.metadata("version", std::to_string(gates_file_version));
  writer.metadata("router", router);
  writer.metadata("experts", json_text(nlohmann::json(experts)));
  writer.metadata("digests", json_text(nlohmann::json(digests)));
}

inline GateData read_gate(const SafetensorsFile& file, const std::string& name, const std::string& source) {
  const std::string weight = name + std::string(gate_weight_end),
                    tau = name + std::string(gate_temperature_end);
  for (const auto& tensor : {weight, tau})
    MOLE_CHECK_FORMAT(file.contains(tensor), source, "tensor '" + tensor + "' is missing");
  const Shape& shape = file.at(weight).shape;
  MOLE_CHECK_FORMAT(shape.rank() == 2, source, "tensor '" + weight + "' should be [features, experts] and is",
                    shape);
  MOLE_CHECK_FORMAT(file.at(tau).shape.size() == 1, source,
                    "tensor '" + tau + "' should be one number and is", file.at(tau).shape);
  GateData gate;
  gate.features = shape[0];
  gate.n_experts = shape[1];
  gate.weight = file.read<double>(weight);
  gate.log_tau = file.read<double>(tau).front();
  return gate;
}

}  // namespace detail

/// Writes gates atomically, weights stored as T, float or double. Throws ArgumentError for gates that do not
/// fit the experts or are not finite; Error where the file cannot be written.
template <class T = double>
requires std::floating_point<T>
void write_gates(const std::filesystem::path& path, const GatesFile& file) {
  detail::check_gates<ArgumentError>(file, "write_gates:");
  constexpr Dtype stored = std::same_as<T, double> ? Dtype::F64 : Dtype::F32;
  SafetensorsWriter writer;
  auto fewer = nlohmann::json::object();
  for (const auto& [name, gate] : file.gates) {
    writer.add(name + std::string(detail::gate_weight_end), stored, Shape{gate.features, gate.n_experts},
               gate.weight);
    writer.add(name + std::string(detail::gate_temperature_end), stored, Shape{},
               std::vector<double>{gate.log_tau});
    if (!gate.experts.empty()) fewer[name] = gate.experts;
  }
  detail::add_gates_frame(writer, "mole", file.experts, file.digests);
  writer.metadata("scope", file.scope);
  writer.metadata("input", file.input);
  writer.metadata("pooling", file.pooling);
  writer.metadata("top_k", std::to_string(file.top_k));
  if (file.length > 0) writer.metadata("length", std::to_string(file.length));
  if (!fewer.empty()) writer.metadata("gate_experts", detail::json_text(fewer));
  writer.write(path);
}

/// Reads gates. Throws FormatError, naming file and tensor or metadata, for a file that is no gates file, of
/// a later version, of another router than MoLE, or inconsistent; Error where it cannot be read.
inline GatesFile read_gates(const std::filesystem::path& path) {
  const detail::GatesFrame frame(path);
  frame.check_router("mole");
  const auto& stored = frame.stored;
  const auto& source = frame.source;
  const auto& metadata = frame.metadata;
  GatesFile file = frame.adapters();
  file.scope = metadata.text("scope");
  file.input = metadata.text("input");
  file.pooling = metadata.text("pooling");
  file.top_k = metadata.number("top_k");
  if (stored.metadata().contains("length")) file.length = metadata.number("length");

  for (const auto& tensor : stored.names()) {
    std::string_view name = tensor;
    const auto end =
        name.ends_with(detail::gate_weight_end) ? detail::gate_weight_end : detail::gate_temperature_end;
    MOLE_CHECK_FORMAT(name.ends_with(end), source, "tensor '" + tensor + "' is no part of a gate");
    name.remove_suffix(end.size());
    const std::string gate(name);
    if (!file.gates.contains(gate)) file.gates.emplace(gate, detail::read_gate(stored, gate, source));
  }
  if (stored.metadata().contains("gate_experts")) {
    const auto fewer = metadata.json("gate_experts");
    MOLE_CHECK_FORMAT(fewer.is_object(), metadata.where("gate_experts"), "should be an object");
    for (const auto& [name, experts] : fewer.items()) {
      const auto gate = file.gates.find(name);
      MOLE_CHECK_FORMAT(gate != file.gates.end(), metadata.where("gate_experts"), "names", name,
                        "which is no gate");
      gate->second.experts = detail::json_names(experts, metadata.where("gate_experts"));
    }
  }
  detail::check_gates<FormatError>(file, source);
  return file;
}

/// Throws FormatError, saying which adapter, unless the gates were trained with these adapters, by name and
/// digest, in this order.
inline void check_gates_match(const GatesFile& file, const std::vector<std::string>& names,
                              const std::vector<std::string>& digests) {
  const std::string source = file.path.empty() ? "the gates" : message(file.path) + ": the gates";
  const auto list = [](const std::vector<std::string>& parts) {
    std::string text;
    for (const auto& part : parts) text += (text.empty() ? "" : ", ") + part;
    return text;
  };
  if (names != file.experts)
    throw FormatError(message(source, "were trained with the adapters", list(file.experts),
                              "in this order, and were given", list(names)));
  for (std::size_t i = 0; i < names.size(); ++i)
    MOLE_CHECK_FORMAT(digests[i] == file.digests[i], source, "were trained with another adapter",
                      "'" + names[i] + "': its digest was", file.digests[i], "and is now", digests[i],
                      "(load the adapter that they were trained with, or train the gates again)");
}

/// The same for adapters as loaded.
inline void check_gates_match(const GatesFile& file, const std::vector<Adapter>& adapters) {
  std::vector<std::string> names, digests;
  for (const auto& adapter : adapters) {
    names.push_back(adapter.name);
    digests.push_back(adapter.digest);
  }
  check_gates_match(file, names, digests);
}

}  // namespace mole
