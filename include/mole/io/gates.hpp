#pragma once
// Trained gates of any router, between files and models: gates_file.hpp tells what a file holds.

#include <algorithm>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <filesystem>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include <mole/experts/mixer.hpp>
#include <mole/io/gates_file.hpp>
#include <mole/io/peft.hpp>
#include <mole/nn/lora.hpp>

namespace mole {

namespace detail {

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

/// What is wrong with the numbers of a router's tensor of this name; nullptr if nothing is.
template <class T, class B>
const char* wrong_with(const AnyRouter<T, B>& router, const Tensor<T, B>& tensor, const std::string& name,
                       const std::vector<double>& values) {
  // Of rows of length 1, a mean has no number beyond 1 but by rounding.
  constexpr double most_of_unit = 1 + 1e-6;
  const bool logarithm = name.ends_with(".log_temperature");
  bool factor = false, mean = false;
  for (const auto& scale : router.scales()) {
    factor = factor || scale.factor.node_pointer() == tensor.node_pointer();
    mean = mean || scale.mean.node_pointer() == tensor.node_pointer();
  }
  mean = mean && router.reads_unit_rows();
  for (const double value : values) {
    if (!is_finite(value)) return "holds NaN or infinite values";
    if (!fits_in<T>(value)) return "holds values beyond this model's numbers; load the model in wider ones";
    if (logarithm && std::abs(value) > 1e-3 - std::log(least_temperature))
      return "holds a temperature beyond 1e-30 or 1e30, with which no gate can be computed";
    if (factor && value < 0) return "holds a factor below 0";
    if (mean && std::abs(value) > most_of_unit)
      return "holds a mean beyond -1 or 1, which inputs of length 1 cannot have";
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
    const char* const wrong = detail::wrong_with(mixer.router(), tensors[i], name, values);
    MOLE_CHECK_ARG(!wrong, "save_gates:", name, wrong ? wrong : "");
    writer.add(name, std::same_as<T, double> ? Dtype::F64 : Dtype::F32, tensors[i].shape(), values);
  }
  writer.metadata("format", "mole-gates");
  writer.metadata("version", std::to_string(gates_file_version));
  writer.metadata("router", mixer.router().name());
  for (const auto& [key, text] : mixer.router().options()) writer.metadata(key, text);
  writer.metadata("experts", detail::json_text(detail::json_value(mixer.names())));
  writer.metadata("digests", detail::json_text(detail::json_value(mixer.digests())));
  auto gates = detail::json_list();
  for (const auto& [name, experts] : detail::gate_list(mixer))
    detail::add_value(gates, detail::json_object({{"name", name}, {"experts", experts}}));
  writer.metadata("gates", detail::json_text(gates));
  for (const auto& [key, text] : notes) writer.metadata(std::string(detail::note_prefix) + key, text);
  writer.write(path);
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
  std::vector<Tensor<T, B>> values;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const auto& name = mixer.stored()[i].name;
    const auto host = file.stored->template read<double>(name);
    const char* const wrong = wrong_with(router, tensors[i], name, host);
    MOLE_CHECK_FORMAT(!wrong, file.source(), "tensor '" + name + "'", wrong ? wrong : "");
    values.push_back(Tensor<T, B>::from(tensors[i].shape(), std::vector<T>(host.begin(), host.end())));
  }
  for (std::size_t i = 0; i < tensors.size(); ++i) tensors[i].assign(values[i]);
}

}  // namespace detail

/// Sets a mixer's gates to those of a file. Throws FormatError, and changes nothing, when the file is of another
/// router or other options than the mixer's, was made with other adapters (by name, order or digest) or for
/// another model, or holds NaN, values that are infinite as numbers of type T, temperatures beyond 1e-30 or 1e30, a
/// factor of the input below 0, or a mean beyond -1 or 1 of an input of length 1.
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

namespace detail {

template <class Model, class Experts>
void attach_checked(Model& model, const Experts& experts, const std::vector<LoraSet>& sets,
                    const GatesFile& file) {
  check_gates_match(file, sets);
  try {
    model.attach(experts, file.options,
                 [&](const std::vector<NamedShape>& wanted) { check_stored(file, wanted); });
    load_gates(file, model.mixer());
  } catch (const ShapeError& error) {
    model.layers().mixer.reset();
    throw FormatError(message(file.source(), "its options ask for gates that cannot be:", error.what()));
  } catch (...) {
    model.layers().mixer.reset();
    throw;
  }
}

}  // namespace detail

/// Attaches adapters to a model by saved gates and loads these: the model as it was when save_gates() was
/// called. Nothing is made for the gates before the file's own tensors have the shapes that they need. Throws
/// FormatError before anything changes for other adapters than the gates' (by name, order or digest); where the
/// rest does not fit, as load_gates() or attach() throw, nothing stays attached. What was merged stays.
template <class Model>
void attach_gates(Model& model, const std::vector<LoraSet>& adapters, const GatesFile& file) {
  detail::attach_checked(model, adapters, adapters, file);
}
/// The same with experts that are not all in memory.
template <class Model>
void attach_gates(Model& model, const PagedExperts<typename Model::Scalar>& experts, const GatesFile& file) {
  detail::attach_checked(model, experts, experts.sets, file);
}

}  // namespace mole
