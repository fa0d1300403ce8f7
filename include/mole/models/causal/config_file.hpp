#pragma once
// What the config.json of every decoder-only model holds.

#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include <mole/core/error.hpp>
#include <mole/core/quote.hpp>
#include <mole/io/json.hpp>
#include <mole/models/causal/config.hpp>
#include <mole/models/quantisation.hpp>
#include <mole/models/t5/config_file.hpp>

namespace mole {

namespace detail {

/// The largest vocabulary, width or length that is read, and the most layers.
inline constexpr Index most_of_config = Index{1} << 30, most_layers = 10'000;
/// The widest head: a model makes its table of angles before any weight is looked at.
inline constexpr Index most_of_head = 65'536;

/// A size that every configuration must say.
inline Index needed_size(const ConfigFields& fields, const std::string& source, const char* name,
                         Index most = most_of_config) {
  MOLE_CHECK_FORMAT(fields.has(name), source, name, "is missing");
  return fields.integer(name, 1, 1, most);
}

/// No weight may be larger than any memory: a product that overflows would pass for a small one later.
inline void check_product(const std::string& source, const char* fields, Index a, Index b) {
  constexpr Index most = Index{1} << 40;
  MOLE_CHECK_FORMAT(a <= most / b, source, fields, "comes to", a, "x", b, "; at most", most, "is supported");
}

/// bos, pad and eos: each a number or null, eos also a list.
template <class Config>
void read_special_tokens(const ConfigFields& fields, Index bos, Index pad, Index eos, Config& config) {
  const Index last = config.vocab_size - 1;
  config.bos_token_id = fields.integer("bos_token_id", bos, -1, last);
  config.pad_token_id = fields.integer("pad_token_id", pad, -1, last);
  config.eos_token_ids.clear();
  for (const Index token : fields.integers("eos_token_id", eos, -1, last))
    if (token >= 0) config.eos_token_ids.push_back(token);
}

}  // namespace detail

/// The "model_type" of a model's folder. Throws FormatError, naming the file, where config.json is no object
/// with one; Error where it cannot be read.
inline std::string read_model_type(const std::filesystem::path& folder) {
  const auto path = folder / "config.json";
  const auto json = read_json_object(path);
  const std::string source = message(path) + ":";
  const std::string type = detail::ConfigFields(json, source).text("model_type", "");
  MOLE_CHECK_FORMAT(!type.empty(), source, "there is no model_type");
  return type;
}

}  // namespace mole
