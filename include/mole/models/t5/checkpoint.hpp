#pragma once
// T5 checkpoints in Hugging Face's layout: config.json and model.safetensors, or the shards of its index.

#include <cmath>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <mole/core/error.hpp>
#include <mole/core/fingerprint.hpp>
#include <mole/core/quote.hpp>
#include <mole/io/atomic_file.hpp>
#include <mole/io/checkpoint.hpp>
#include <mole/io/config_digest.hpp>
#include <mole/io/dtype.hpp>
#include <mole/io/json.hpp>
#include <mole/io/safetensors.hpp>
#include <mole/models/load_parameters.hpp>
#include <mole/models/t5/config_file.hpp>
#include <mole/models/t5/model.hpp>

namespace mole {

namespace detail {

// What f(name, shape) is called with for every tensor that a T5 of this configuration has, but for the table of
// tokens. A model of one block each tells: one of 100,000 blocks would take memory before a look at the file.
template <class T, class B, class F>
void visit_t5_tensors(const T5Config& config, F f) {
  constexpr std::size_t number = 14;  // in encoder.block.0 and decoder.block.0
  T5Config one = config;
  one.num_layers = one.num_decoder_layers = 1;
  T5<T, B> sample(one);
  sample.visit([&](const std::string& name, const Shape& shape, Tensor<T, B>&) {
    const bool encoder = name.starts_with("encoder.block.0."), decoder = name.starts_with("decoder.block.0.");
    // The first block alone has the table of distances.
    if ((!encoder && !decoder) || name.find("relative_attention_bias") != name.npos) {
      if (name != "shared.weight") f(name, shape);
      return;
    }
    const Index blocks = encoder ? config.num_layers : config.num_decoder_layers;
    for (Index i = 0; i < blocks; ++i)
      f(name.substr(0, number) + std::to_string(i) + name.substr(number + 1), shape);
  });
}

inline void check_t5_tensor(const Checkpoint& file, const std::string& name, const Shape& shape) {
  check_parameter(file, stored_name(file, name, {.model = "T5"}), shape);
}

// The name of the token table that encoder and decoder share: shared.weight, or where a file has only copies
// of it, one of those. A copy with other numbers is a table of its own, which this T5 has no place for.
inline std::string t5_token_table(const Checkpoint& file, const Shape& shape) {
  std::string table;
  for (const char* name : {"shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight"}) {
    if (!file.contains(name)) continue;
    check_t5_tensor(file, name, shape);
    if (table.empty()) table = name;
    MOLE_CHECK_FORMAT(same_numbers(file.at(name), file.at(table)), message(file.file_of(name).path()) + ":",
                      "tensor", name, "differs from", table,
                      "; encoder and decoder with token tables of their own are not supported");
  }
  if (table.empty()) check_t5_tensor(file, "shared.weight", shape);
  return table;
}

// Looks at each tensor of the configuration but the table of tokens, then at those that are left over in the file, and
// reads none. What is wrong goes to fault, see catch_fault(). Returns the weights that bitsandbytes has quantised.
template <class T, class B, class F>
std::map<std::string, std::shared_ptr<const PackedRows>> compared_t5_tensors(
    const std::shared_ptr<const Checkpoint>& shared, const T5Config& config, F fault) {
  const auto& file = *shared;
  std::map<std::string, std::shared_ptr<const PackedRows>> packed;
  // Releases before transformers 4 stored a table of distances that no T5 reads.
  std::set<std::string> known{"shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight",
                              "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"};
  visit_t5_tensors<T, B>(config, [&](const std::string& name, const Shape& shape) {
    catch_fault(fault, [&] {
      known.insert(name);
      if (const auto weight = bitsandbytes_weight(shared, name); weight.rows) {
        known.insert(weight.parts.begin(), weight.parts.end());
        check_packed(message(file.file_of(name).path()) + ": tensor " + quote(name), *weight.rows, shape);
        packed[name] = weight.rows;
        return;
      }
      check_t5_tensor(file, name, shape);
    });
  });
  // Some programs mark a file by a tensor without numbers.
  for (const auto& name : file.names())
    catch_fault(fault, [&] {
      MOLE_CHECK_FORMAT(known.count(name) > 0 || file.is_empty(name),
                        message(file.file_of(name).path()) + ":", "tensor", quote(name),
                        "has no place in a T5 of this config.json");
    });
  return packed;
}

// Throws FormatError for the first of these.
template <class T, class B>
std::map<std::string, std::shared_ptr<const PackedRows>> check_t5_tensors(
    const std::shared_ptr<const Checkpoint>& shared, const T5Config& config) {
  return compared_t5_tensors<T, B>(shared, config, [](const FormatError&) { throw; });
}

inline constexpr const char* generation_digest_key = "mole.generation_digest";

inline std::string generation_digest(const GenerationTokens& tokens) {
  return Fingerprint().add(std::string_view(t5_generation_json(tokens).dump())).hex();
}

// Reads the generation_config.json that belongs to the weights: the one whose tokens have the digest that they name,
// or where they name none whatever is there. As with read_paired_config(), it may still be a temporary file.
inline void read_paired_generation(const std::filesystem::path& generation, const Checkpoint& file,
                                   T5Config& config, std::vector<std::string>* warnings) {
  const bool there = file_exists(generation);
  const auto wanted = file.metadata().find(generation_digest_key);
  if (wanted == file.metadata().end()) {
    if (there) read_t5_generation_config(generation, config, warnings);
    return;
  }
  auto candidates = temporaries_of(generation);
  if (there) candidates.insert(candidates.begin(), generation);
  for (const auto& candidate : candidates) {
    T5Config found = config;
    std::vector<std::string> told;
    try {
      read_t5_generation_config(candidate, found, &told);
    } catch (const Error&) {
      continue;  // not finished, or of another save
    }
    if (generation_digest(found.generation_tokens()) != wanted->second) continue;
    config = found;
    if (warnings) warnings->insert(warnings->end(), told.begin(), told.end());
    return;
  }
  throw FormatError(
      message(file.path(), "was saved with other tokens than", generation.filename(),
              "beside it names: it was changed or copied alone. Save both again, or bring back the "
              "other one"));
}

}  // namespace detail

/// The model in a folder, its weights in one file or in several (Checkpoint). Its head is lm_head.weight where the file
/// has one, else shared.weight, whatever the configuration says of tying. NaN or infinite weights are told in *warnings
/// where given, and so is what generate() does not take from generation_config.json (read_t5_generation_config()).
/// Weights of bitsandbytes are read, in 4 bits and in 8. All tensors are checked before the model takes memory. Throws
/// FormatError, naming file and tensor, for a missing or unexpected tensor or one of another shape than the
/// configuration's, token tables that differ, or files of two saves; Error where a file cannot be read.
template <class T, class B>
T5<T, B> load_t5(const std::filesystem::path& folder, std::vector<std::string>* warnings = nullptr,
                 const LoadOptions& options = {}) {
  auto opened = detail::open_folder(folder, "model", read_t5_config, detail::t5_config_digest);
  auto& config = opened.first;
  const auto shared = std::make_shared<const Checkpoint>(std::move(opened.second));
  const auto& file = *shared;
  detail::read_paired_generation(folder / "generation_config.json", file, config, warnings);
  config.tie_word_embeddings = !file.contains("lm_head.weight");
  const auto table = detail::t5_token_table(file, Shape{config.vocab_size, config.d_model});
  const auto packed = detail::check_t5_tensors<T, B>(shared, config);
  T5<T, B> model(config);
  model.visit([&](const std::string& name, const Shape& shape, Tensor<T, B>& tensor) {
    if (const auto found = packed.find(name); found != packed.end())
      return detail::set_packed(model, name, found->second, options, tensor);
    const auto& stored = name == "shared.weight" ? table : name;
    const auto values = file.template read<T>(stored);
    bool finite = true;
    for (const T value : values) finite = finite && is_finite(static_cast<double>(value));
    if (!finite && warnings)
      warnings->push_back(message(message(file.file_of(stored).path()) + ":", "tensor", stored,
                                  "holds NaN or infinite values"));
    tensor = Tensor<T, B>::from(shape, values);
  });
  return model;
}

/// What load_t5() would refuse of the folder's tensors, each with its file and name: missing ones, others' and those of
/// another shape. Reads none but token tables that are there twice.    Throws FormatError and Error as
/// load_t5() does for config.json and for weights that cannot be opened.
template <class T, class B>
std::vector<std::string> t5_faults(const std::filesystem::path& folder) {
  auto config = read_t5_config(folder / "config.json");
  const auto file = std::make_shared<const Checkpoint>(folder);
  config.tie_word_embeddings = !file->contains("lm_head.weight");
  std::vector<std::string> faults;
  try {
    detail::t5_token_table(*file, Shape{config.vocab_size, config.d_model});
  } catch (const FormatError& error) {
    faults.emplace_back(error.what());
  }
  detail::list_faults(faults,
                      [&](const auto& fault) { detail::compared_t5_tensors<T, B>(file, config, fault); });
  return faults;
}

/// Writes the model as transformers loads it (generation_config.json only where it says more than config.json, or
/// replaces one that is there), with what merge() put into its weights; the folder is made where there
/// is none. Attached experts and LoRAs in training are no part of it: they have save_gates() and save_adapter(). Both
/// files are complete on the disk before either is put in place, and load_t5() refuses one of them beside another.
/// Throws ArgumentError for an unknown activation, Error where a file cannot be written.
template <class T, class B>
void save_t5(const std::filesystem::path& folder, T5<T, B>& model, Dtype stored_as) {
  const std::string text = detail::json_text(t5_config_json(model.config()), 2) + "\n";
  SafetensorsWriter writer;
  writer.metadata("format", "pt");
  writer.metadata(detail::config_digest_key, detail::t5_config_digest(model.config()));
  std::map<std::string, Tensor<T, B>> merged;
  for (const auto& slot : model.layers().table.slots)
    if (slot.merged.defined()) merged.emplace(slot.name + ".weight", slot.merged);
  model.visit([&](const std::string& name, const Shape& shape, Tensor<T, B>& tensor) {
    const auto found = merged.find(name);
    MOLE_CHECK_ARG(found != merged.end() || tensor.defined(), "save_t5:", name,
                   "is kept packed; load the model as numbers to save it");
    writer.add(name, stored_as, shape, (found == merged.end() ? tensor : found->second).to_host());
  });
  // An old generation_config.json goes before config.json, and must not outlive its model.
  const auto generation = folder / "generation_config.json";
  const auto tokens = model.config().generation_tokens();
  const bool names_tokens = model.config().generation || detail::file_exists(generation);
  if (names_tokens) writer.metadata(detail::generation_digest_key, detail::generation_digest(tokens));
  std::error_code reason;
  std::filesystem::create_directories(folder, reason);
  MOLE_CHECK_AS(Error, !reason, folder, "cannot be made:", reason.message());
  AtomicFile weights(folder / "model.safetensors"), settings(folder / "config.json");
  writer.write(weights);
  settings.write(text);
  std::optional<AtomicFile> beside;
  if (names_tokens) {
    beside.emplace(generation).write(detail::json_text(t5_generation_json(tokens), 2) + "\n");
  }
  if (beside)
    AtomicFile::commit_together({&weights, &settings, &*beside});
  else
    AtomicFile::commit_together({&weights, &settings});
}

}  // namespace mole
