#pragma once
// The weights of a decoder-only model from its folder, each checked before any takes memory.

#include <cmath>
#include <functional>
#include <set>
#include <string>
#include <vector>

#include <mole/core/error.hpp>
#include <mole/core/quote.hpp>
#include <mole/io/checkpoint.hpp>
#include <mole/io/dtype.hpp>
#include <mole/models/causal/model.hpp>

namespace mole::detail {

/// How a model's parameters are called in a file.
struct FileNames {
  std::function<std::string(const std::string&)> stored;  ///< a parameter's name there
  std::function<bool(const std::string&)> unused;         ///< tensors that no model reads
};

inline void check_parameter(const Checkpoint& file, const std::string& name, const Shape& shape,
                            const std::string& model) {
  MOLE_CHECK_FORMAT(file.contains(name), message(file.path()) + ":", "tensor", quote(name),
                    "is missing, which a", model, "of this config.json has");
  const std::string source = message(file.file_of(name).path()) + ":";
  const auto& view = file.at(name);
  MOLE_CHECK_FORMAT(view.shape == shape, source, "tensor", quote(name), "has shape", view.shape,
                    "where config.json says", shape);
  MOLE_CHECK_FORMAT(is_floating(view.dtype), source, "tensor", quote(name), "holds", view.dtype,
                    ", not real numbers: save the model unquantized");
}

/// Fills every parameter. NaN or infinite weights are told in *warnings where given. Throws FormatError, naming
/// file and tensor, for one that is missing, has no place, or has another shape.
template <class T, class B>
void load_parameters(CausalModel<T, B>& model, const Checkpoint& file, const FileNames& names,
                     std::vector<std::string>* warnings) {
  const std::string& type = model.config().model_type;
  std::set<std::string> known;
  model.visit([&](const std::string& name, const Shape& shape, Tensor<T, B>&) {
    const auto stored = names.stored(name);
    check_parameter(file, stored, shape, type);
    known.insert(stored);
  });
  // Some programs mark a file by a tensor without numbers.
  for (const auto& name : file.names())
    MOLE_CHECK_FORMAT(known.contains(name) || names.unused(name) || file.is_empty(name),
                      message(file.file_of(name).path()) + ":", "tensor", quote(name), "has no place in a",
                      type, "of this config.json");
  model.visit([&](const std::string& name, const Shape& shape, Tensor<T, B>& tensor) {
    const auto stored = names.stored(name);
    const auto values = file.template read<T>(stored);
    bool finite = true;
    for (const T value : values) finite = finite && is_finite(static_cast<double>(value));
    if (!finite && warnings)
      warnings->push_back(message(message(file.file_of(stored).path()) + ":", "tensor", quote(stored),
                                  "holds NaN or infinite values"));
    tensor = Tensor<T, B>::from(shape, values);
  });
}

/// Whether the head is the token table: where the configuration ties the two, and the file has no head of its
/// own. transformers keeps a head that differs, and warns; so does this.
inline bool head_is_tied(const Checkpoint& file, const std::string& head, const std::string& table, bool tied,
                         std::vector<std::string>* warnings) {
  if (!tied || !file.contains(head) || !file.contains(table)) return tied;
  if (same_numbers(file.at(head), file.at(table))) return true;
  if (warnings)
    warnings->push_back(message(message(file.path()) + ":",
                                "config.json ties the head to the token table, but", quote(head),
                                "has other numbers; it is used"));
  return false;
}

}  // namespace mole::detail
