#include "mole/model_files.hpp"

#include <algorithm>
#include <cstddef>
#include <filesystem>
#include <memory>
#include <set>
#include <span>

#include <mole/core/error.hpp>
#include <mole/core/fingerprint.hpp>
#include <mole/io/bitsandbytes.hpp>
#include <mole/io/checkpoint.hpp>
#include <mole/io/gguf.hpp>
#include <mole/models/causal/load.hpp>
#include <mole/models/t5/config_file.hpp>

namespace program {

namespace {

/// What add_to_digest() adds.
void add_tensor(mole::Fingerprint& digest, const StoredTensor& tensor, const std::byte* data) {
  constexpr Index end = 1024;
  digest.add(std::string_view(tensor.name)).add(std::string_view(tensor.type));
  for (const Index extent : tensor.shape) digest.add(static_cast<std::uint64_t>(extent));
  const Index first = std::min(end, tensor.bytes);
  digest.add(std::span(data, static_cast<std::size_t>(first)));
  digest.add(std::span(data + tensor.bytes - first, static_cast<std::size_t>(first)));
}

template <class Number>
std::pair<std::string, std::string> setting(const char* name, const Number& value) {
  return {name, mole::message(value)};
}

void take(ModelFiles& files, const mole::LlamaConfig& c) {
  files.layers = c.num_hidden_layers;
  files.width = c.hidden_size;
  files.settings = {setting("heads", c.num_attention_heads),
                    setting("key and value heads", c.num_key_value_heads),
                    setting("width of a head", c.head_dim),
                    setting("feed-forward width", c.intermediate_size),
                    setting("RoPE theta", c.rope_theta),
                    {"head", c.tie_word_embeddings ? "tied to the token table" : "its own"}};
}

ModelFacts causal_facts(const mole::CausalConfig& c) {
  return {c.model_type, false, c.vocab_size, c.max_position_embeddings, c.eos_token_ids};
}

void read_config(ModelFiles& files, const std::string& type) {
  const auto config = files.path / "config.json";
  if (mole::detail::is_t5_type(type)) {
    const auto c = mole::read_t5_config(config);
    files.facts = {type, true, c.vocab_size, 0, c.end_tokens()};
    files.layers = c.num_layers + c.num_decoder_layers;
    files.width = c.d_model;
    files.settings = {setting("heads", c.num_heads),
                      setting("width of a head", c.d_kv),
                      setting("feed-forward width", c.d_ff),
                      {"feed-forward", c.activation + (c.gated ? ", gated" : "")}};
    return;
  }
  mole::CausalConfig tokens;
  if (type == "opt") {
    const auto c = mole::read_opt_config(config);
    files.layers = c.num_hidden_layers;
    files.width = c.hidden_size;
    files.settings = {setting("heads", c.num_attention_heads), setting("feed-forward width", c.ffn_dim)};
    tokens = c;
  } else {
    const auto known = mole::causal_model_types();
    std::string names = "t5, mt5";
    for (const auto& name : known) names += ", " + name;
    MOLE_CHECK_FORMAT(mole::detail::is_llama_type(type), mole::message(config) + ": model_type",
                      '"' + type + '"', "is not known; known are", names);
    const auto c = mole::read_llama_config(config);
    take(files, c);
    tokens = c;
  }
  const auto generation = files.path / "generation_config.json";
  if (std::filesystem::exists(generation)) tokens = mole::read_generation_tokens(generation, tokens);
  files.facts = causal_facts(tokens);
}

void read_gguf(ModelFiles& files) {
  const mole::GgufFile file(files.path);
  const auto config = mole::read_llama_gguf_config(file);
  take(files, config);
  files.facts = causal_facts(config);
  files.tensors = gguf_tensors(file);
  mole::Fingerprint digest;
  for (const auto& tensor : files.tensors) add_tensor(digest, tensor, file.at(tensor.name).data);
  files.digest = digest.hex();
}

}  // namespace

std::vector<StoredTensor> gguf_tensors(const mole::GgufFile& file) {
  std::vector<StoredTensor> tensors;
  for (const auto& [name, tensor] : file.tensors()) {
    const auto* format = mole::gguf_format(tensor.type);
    tensors.push_back({name, format ? std::string(format->name) : mole::message("ggml type", tensor.type),
                       tensor.shape, tensor.bytes,
                       format && format->type != mole::GgufType::F32 && tensor.shape.rank() == 2});
  }
  return tensors;
}

void add_to_digest(mole::Fingerprint& digest, const mole::Checkpoint& checkpoint, const std::string& name) {
  const auto& file = checkpoint.file_of(name);
  if (const auto unread = file.unread().find(name); unread != file.unread().end()) {
    const auto& tensor = unread->second;
    add_tensor(digest, {name, std::string(tensor.dtype), tensor.shape, tensor.bytes}, tensor.data);
    return;
  }
  const auto& view = file.at(name);
  add_tensor(digest, {name, std::string(mole::dtype_name(view.dtype)), view.shape, view.bytes}, view.data);
}

Index ModelFiles::parameters() const {
  Index sum = 0;
  for (const auto& tensor : tensors) sum += tensor.shape.size();
  return sum;
}

Index ModelFiles::bytes() const {
  Index sum = 0;
  for (const auto& tensor : tensors) sum += tensor.bytes;
  return sum;
}

Index ModelFiles::bytes_in_memory(bool quantised, Index number) const {
  Index sum = 0;
  for (const auto& tensor : tensors)
    sum += quantised && tensor.quantised ? tensor.bytes : tensor.shape.size() * number;
  return sum;
}

ModelFiles read_model_files(const std::filesystem::path& path) {
  ModelFiles files;
  files.path = path;
  MOLE_CHECK_AS(mole::Error, std::filesystem::exists(path), path,
                "is not there; give a model's folder or a GGUF file");
  if (path.extension() == ".gguf") {
    read_gguf(files);
    return files;
  }
  MOLE_CHECK_AS(mole::Error, std::filesystem::is_directory(path), path,
                "is no model: expected a folder with config.json and its weights, or a GGUF file");
  MOLE_CHECK_AS(mole::Error, std::filesystem::exists(path / "config.json"), path,
                "is no model: it holds no config.json");
  read_config(files, mole::read_model_type(path));
  const auto shared = std::make_shared<const mole::Checkpoint>(path);
  const auto& checkpoint = *shared;
  std::set<std::string> parts;  // of quantised weights, which are one tensor to people
  for (const auto& name : checkpoint.names())
    if (const auto weight = mole::bitsandbytes_weight(shared, name); weight.rows) {
      files.tensors.push_back(
          {name, std::string(weight.rows->format()), weight.rows->shape(), weight.rows->bytes(), true});
      parts.insert(name);
      parts.insert(weight.parts.begin(), weight.parts.end());
    }
  mole::Fingerprint digest;
  for (const auto& name : checkpoint.names()) {
    if (parts.contains(name)) {
      add_to_digest(digest, checkpoint, name);
      continue;
    }
    const auto& file = checkpoint.file_of(name);
    if (const auto unread = file.unread().find(name); unread != file.unread().end()) {
      files.tensors.push_back(
          {name, std::string(unread->second.dtype), unread->second.shape, unread->second.bytes});
      continue;
    }
    const auto& view = file.at(name);
    files.tensors.push_back({name, std::string(mole::dtype_name(view.dtype)), view.shape, view.bytes});
    add_tensor(digest, files.tensors.back(), view.data);
  }
  files.digest = digest.hex();
  return files;
}

}  // namespace program
