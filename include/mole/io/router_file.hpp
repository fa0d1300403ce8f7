#pragma once
// Any router in one kind of file: MoLE's gates (gates_file.hpp), X-LoRA's classifier (xlora_file.hpp), or
// Arrow, which has no parameters: its options, and the names and digests of its adapters.

#include <filesystem>
#include <string>
#include <variant>
#include <vector>

#include <nlohmann/json.hpp>

#include <mole/io/attach.hpp>
#include <mole/io/gates_file.hpp>
#include <mole/io/xlora_file.hpp>

namespace mole {

/// What has to be known of a saved router before it is attached.
struct RouterFile {
  RouterOptions options;             ///< but for where training started: temperature of MoLE, seed of X-LoRA
  std::vector<std::string> experts;  ///< the adapters' names, in order
  std::vector<std::string> digests;  ///< Adapter::digest of each
  std::filesystem::path path;
};

namespace detail {

inline nlohmann::json router_json(const ArrowOptions& options) {
  return {{"top_k", options.top_k}, {"temperature", options.temperature}};
}

inline ArrowOptions arrow_options(const GatesFrame& frame) {
  const RouterJson json(frame);
  MOLE_CHECK_FORMAT(frame.stored.names().empty(), frame.source, "holds the tensor",
                    "'" + frame.stored.names().front() + "'; Arrow has no parameters");
  return json.made_by([&] {
    const ArrowOptions options{json.whole("top_k"), json.number("temperature")};
    check_router(options, static_cast<Index>(frame.adapters().experts.size()));
    return options;
  });
}

inline void load_arrow(const std::filesystem::path& path, const ArrowOptions& here,
                       const std::vector<std::string>& names, const std::vector<std::string>& digests) {
  const GatesFrame frame(path);
  const auto there = arrow_options(frame);
  check_gates_match(frame.adapters(), names, digests);
  MOLE_CHECK_FORMAT(router_json(there) == router_json(here), frame.source, "is of Arrow with",
                    json_text(router_json(there)), "and the model is set up with",
                    json_text(router_json(here)), "; attach the adapters with read_router() of this file");
}

}  // namespace detail

/// Writes a mixer's router, whichever it is, with all that load_router() checks, atomically.
/// Throws ArgumentError for parameters that are not finite, Error where the file cannot be written.
template <class T, class B>
void save_router(const std::filesystem::path& path, const Mixer<T, B>& mixer) {
  const auto& router = mixer.router();
  if (std::holds_alternative<GateOptions>(router)) return save_gates(path, mixer);
  if (std::holds_alternative<XLoraOptions>(router)) return save_xlora(path, mixer);
  SafetensorsWriter writer;
  detail::add_gates_frame(writer, router_name(router), mixer.names(), mixer.digests());
  writer.metadata("options", detail::json_text(detail::router_json(std::get<ArrowOptions>(router))));
  writer.write(path);
}

/// Which router a file holds, with its options and adapters. Throws FormatError, naming file and metadata,
/// for a file that is no gates file, of a router or version that this library does not know, or with options
/// that are missing, out of range or do not fit its tensors; Error where it cannot be read.
inline RouterFile read_router(const std::filesystem::path& path) {
  const detail::GatesFrame frame(path);
  const auto adapters = frame.adapters();
  RouterFile file{GateOptions{}, adapters.experts, adapters.digests, path};
  if (frame.router == "mole")
    file.options = gate_options(read_gates(path));
  else if (frame.router == "xlora")
    file.options = detail::xlora_options(frame);
  else
    file.options = detail::arrow_options(frame);
  return file;
}

/// Sets a mixer's parameters to those of a file. Throws FormatError, and changes nothing, when the file is of
/// another router or other options than the mixer's, was made with other adapters (by name, order or digest)
/// or for another model, or is damaged.
template <class T, class B>
void load_router(const std::filesystem::path& path, Mixer<T, B>& mixer) {
  const std::string here = router_name(mixer.router());
  const std::string there = detail::GatesFrame(path).router;
  MOLE_CHECK_FORMAT(here == there, message(path) + ":", "is of the router", there,
                    "and the model is set up with", here,
                    "; attach the adapters with read_router() of this file");
  if (here == "mole")
    load_gates(path, mixer);
  else if (here == "xlora")
    load_xlora(path, mixer);
  else
    detail::load_arrow(path, std::get<ArrowOptions>(mixer.router()), mixer.names(), mixer.digests());
}

/// Attaches adapters to a model by a saved router and loads it: the model as it was when save_router() was
/// called. Throws FormatError before anything changes for other adapters than the router's (by name, order or
/// digest); where the rest does not fit, as load_router() or attach() throw, nothing stays attached.
template <class Model>
void attach_router(Model& model, const std::vector<LoraSet>& adapters, const RouterFile& file) {
  GatesFile made;
  made.path = file.path;
  made.experts = file.experts;
  made.digests = file.digests;
  std::vector<std::string> names, digests;
  for (const auto& adapter : adapters) {
    names.push_back(adapter.name);
    digests.push_back(adapter.digest);
  }
  check_gates_match(made, names, digests);
  try {
    model.attach(adapters, file.options);
    load_router(file.path, model.mixer());
  } catch (...) {
    model.detach();
    throw;
  }
}

}  // namespace mole
