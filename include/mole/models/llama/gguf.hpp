#pragma once
// Llama, Mistral, Qwen2, Qwen3 and Gemma 1 from one GGUF file, under the names and in the layout of Hugging Face:
// adapters trained there fit.

#include <cmath>
#include <cstddef>
#include <filesystem>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <mole/io/gguf.hpp>
#include <mole/io/gguf_rows.hpp>
#include <mole/models/causal/config_file.hpp>
#include <mole/models/llama/model.hpp>
#include <mole/models/load_parameters.hpp>

namespace mole {

namespace detail {

/// A parameter's name in a GGUF file.
inline std::string gguf_name(const std::string& name) {
  if (name == "model.embed_tokens.weight") return "token_embd.weight";
  if (name == "model.norm.weight") return "output_norm.weight";
  if (name == "lm_head.weight") return "output.weight";
  static constexpr std::pair<std::string_view, std::string_view> parts[] = {
      {"input_layernorm", "attn_norm"},    {"self_attn.q_proj", "attn_q"},
      {"self_attn.k_proj", "attn_k"},      {"self_attn.v_proj", "attn_v"},
      {"self_attn.o_proj", "attn_output"}, {"self_attn.q_norm", "attn_q_norm"},
      {"self_attn.k_norm", "attn_k_norm"}, {"post_attention_layernorm", "ffn_norm"},
      {"mlp.gate_proj", "ffn_gate"},       {"mlp.up_proj", "ffn_up"},
      {"mlp.down_proj", "ffn_down"}};
  constexpr std::string_view layers = "model.layers.";
  const auto dot = name.find('.', layers.size()), last = name.rfind('.');
  const std::string number = name.substr(layers.size(), dot - layers.size());
  const std::string_view middle = std::string_view(name).substr(dot + 1, last - dot - 1);
  for (const auto& [theirs, ours] : parts)
    if (middle == theirs) return "blk." + number + "." + std::string(ours) + name.substr(last);
  throw ArgumentError(message("gguf_name: unknown parameter", quote(name)));
}

/// Rows as Hugging Face has them: within a head GGUF interleaves the two halves that are turned together.
template <class T>
void halve_heads(std::vector<T>& values, Index head_dim, Index heads) {
  const Index width = static_cast<Index>(values.size()) / (head_dim * heads), half = head_dim / 2;
  const auto stored = values;
  for (Index h = 0; h < heads; ++h)
    for (Index j = 0; j < half; ++j)
      for (Index s = 0; s < 2; ++s) {
        const auto from = stored.begin() + static_cast<std::ptrdiff_t>((h * head_dim + 2 * j + s) * width);
        std::copy(from, from + static_cast<std::ptrdiff_t>(width),
                  values.begin() + static_cast<std::ptrdiff_t>((h * head_dim + s * half + j) * width));
      }
}

/// head_count_kv is a number, or a list with one for each layer.
inline Index gguf_key_heads(const GgufFile& file, const std::string& key, Index otherwise) {
  const auto found = file.metadata().find(key);
  if (found == file.metadata().end() || !std::holds_alternative<std::vector<double>>(found->second))
    return file.integer(key, otherwise, 1, Index{1} << 20);
  const auto list = file.numbers(key);
  MOLE_CHECK_FORMAT(
      !list.empty() && list.front() >= 1 && list.front() <= 1e6 && list.front() == std::floor(list.front()),
      file.path(), key, "should list whole numbers from 1");
  for (const double heads : list)
    MOLE_CHECK_FORMAT(heads == list.front(), file.path(), key,
                      "differs from layer to layer, which is not supported");
  return static_cast<Index>(list.front());
}

}  // namespace detail

/// The configuration of a GGUF file. Throws FormatError, naming the key, for an architecture that is not known, with
/// those that are, or an impossible value.
inline LlamaConfig read_llama_gguf_config(const GgufFile& file) {
  const std::string source = message(file.path()) + ":";
  const std::string a = file.text("general.architecture", "");
  MOLE_CHECK_FORMAT(a == "llama" || a == "qwen2" || a == "qwen3" || a == "gemma", source, "architecture",
                    quote(a), "is not known; known are gemma, llama, qwen2 and qwen3");
  constexpr Index most = Index{1} << 30;
  const auto size = [&](const std::string& key, Index limit = Index{1} << 30) {
    MOLE_CHECK_FORMAT(file.has(a + key), source, a + key, "is missing");
    return file.integer(a + key, 0, 1, limit);
  };
  LlamaConfig config;
  config.model_type = a;
  config.hidden_size = size(".embedding_length");
  config.intermediate_size = size(".feed_forward_length");
  config.num_hidden_layers = size(".block_count", 10'000);
  config.num_attention_heads = size(".attention.head_count", Index{1} << 20);
  config.max_position_embeddings = size(".context_length");
  config.num_key_value_heads =
      detail::gguf_key_heads(file, a + ".attention.head_count_kv", config.num_attention_heads);
  MOLE_CHECK_FORMAT(config.num_attention_heads % config.num_key_value_heads == 0, source,
                    "head_count should be a multiple of head_count_kv");
  config.head_dim =
      file.integer(a + ".attention.key_length", config.hidden_size / config.num_attention_heads, 1, most);
  MOLE_CHECK_FORMAT(config.head_dim > 0 && config.head_dim % 2 == 0, source, "heads of", config.head_dim,
                    "cannot be turned in pairs");
  MOLE_CHECK_FORMAT(config.head_dim <= detail::most_of_head, source, "heads of", config.head_dim,
                    "are not read; the widest have", detail::most_of_head);
  for (const char* key : {".attention.value_length", ".rope.dimension_count"})
    MOLE_CHECK_FORMAT(file.integer(a + key, config.head_dim, 1, most) == config.head_dim, source, a + key,
                      "should be the width of a head,", config.head_dim);
  const auto table = file.at("token_embd.weight").shape;
  MOLE_CHECK_FORMAT(table.rank() == 2, source, "token_embd.weight should be a matrix and is", table);
  const Index tokens = static_cast<Index>(file.texts("tokenizer.ggml.tokens").size());
  config.vocab_size = file.integer(a + ".vocab_size", tokens > 0 ? tokens : table[0], 1, most);
  MOLE_CHECK_FORMAT(config.vocab_size > 0, source, "token_embd.weight holds no token");
  detail::check_product(source, "head_count x key_length", config.num_attention_heads, config.head_dim);
  for (const Index width : {config.vocab_size, config.intermediate_size, config.query_width()})
    detail::check_product(source, "a matrix's width x embedding_length", width, config.hidden_size);
  config.rms_norm_eps = file.number(a + ".attention.layer_norm_rms_epsilon", 1e-5);
  MOLE_CHECK_FORMAT(config.rms_norm_eps > 0 && config.rms_norm_eps < 1, source,
                    "layer_norm_rms_epsilon should be between 0 and 1 and is", config.rms_norm_eps);
  config.rope_theta = file.number(a + ".rope.freq_base", 10000);
  MOLE_CHECK_FORMAT(config.rope_theta > 0 && config.rope_theta < 1e15, source,
                    "rope.freq_base should be above 0 and below 1e+15 and is", config.rope_theta);
  const std::string scaling = file.text(a + ".rope.scaling.type", "none");
  MOLE_CHECK_FORMAT(scaling == "none" || scaling == "linear", source, "rope.scaling.type", quote(scaling),
                    "is not supported: known are none and linear");
  if (scaling == "linear") {
    config.rope_scaling.kind = RopeScaling::Kind::linear;
    config.rope_scaling.factor = file.number(a + ".rope.scaling.factor", 1);
    MOLE_CHECK_FORMAT(config.rope_scaling.factor > 0, source, "rope.scaling.factor should be above 0");
  }
  if (file.contains("rope_freqs.weight")) {
    const auto divisors = file.read<double>("rope_freqs.weight");
    bool fits = static_cast<Index>(divisors.size()) == config.head_dim / 2;
    for (const double divisor : divisors) fits = fits && divisor > 0 && is_finite(divisor);
    MOLE_CHECK_FORMAT(fits, source, "rope_freqs.weight should be", config.head_dim / 2, "numbers above 0");
    config.rope_scaling = llama3_of_divisors(divisors, config.rope_theta, config.head_dim);
  }
  const Index window = file.integer(a + ".attention.sliding_window", 0, 0, most);
  if (window > 0) config.windows.assign(static_cast<std::size_t>(config.num_hidden_layers), window);
  config.qkv_bias = file.contains("blk.0.attn_q.bias");
  config.output_bias = file.contains("blk.0.attn_output.bias");
  config.mlp_bias = file.contains("blk.0.ffn_gate.bias");
  config.qk_norm = file.contains("blk.0.attn_q_norm.weight");
  // Gemma's norms are stored with the one added.
  config.scale_embeddings = a == "gemma";
  config.activation = a == "gemma" ? "gelu_new" : "silu";
  config.tie_word_embeddings = !file.contains("output.weight");
  const Index last = config.vocab_size - 1;
  const auto token = [&](const char* name) {
    return file.integer("tokenizer.ggml." + std::string(name) + "_token_id", -1, 0, last);
  };
  config.bos_token_id = token("bos");
  config.pad_token_id = token("padding");
  for (const char* name : {"eos", "eot", "eom"})
    if (const Index id = token(name); id >= 0) config.eos_token_ids.push_back(id);
  return config;
}

namespace detail {

/// Looks at each tensor of a model without weights, then at those that are left over in the file, and reads none. What is
/// wrong goes to fault, see catch_fault().
template <class T, class B, class F>
void compare_with_gguf(Llama<T, B>& model, const GgufFile& file, F fault) {
  const std::string source = message(file.path()) + ":";
  std::set<std::string> known{"rope_freqs.weight"};
  model.visit([&](const std::string& name, const Shape& shape, Tensor<T, B>&) {
    catch_fault(fault, [&] {
      const auto stored = gguf_name(name);
      known.insert(stored);
      const auto& tensor = file.at(stored);
      MOLE_CHECK_FORMAT(tensor.shape == shape, source, "tensor", quote(stored), "has shape", tensor.shape,
                        "where the metadata say", shape);
      file.check_type(stored);
    });
  });
  for (const auto& [name, tensor] : file.tensors())
    catch_fault(fault, [&, &name = name] {
      MOLE_CHECK_FORMAT(known.contains(name) || name.ends_with(".attn_rot_embd.weight"), source, "tensor",
                        quote(name), "has no place in a", model.config().model_type);
    });
}

}  // namespace detail

/// What load_llama_gguf() would refuse of the file's tensors, each by its name: missing ones, others', those of another
/// shape or of a type that is not read. Reads no tensor.    Throws as read_llama_gguf_config() does.
template <class T, class B>
std::vector<std::string> llama_gguf_faults(const GgufFile& file) {
  Llama<T, B> model(read_llama_gguf_config(file));
  std::vector<std::string> faults;
  detail::list_faults(faults, [&](const auto& fault) { detail::compare_with_gguf(model, file, fault); });
  return faults;
}

/// The model in a GGUF file, its blocks as plain numbers unless the options say otherwise: then every matrix of another
/// type than F32 stays packed, the token table too. NaN or infinite weights are told in *warnings where given.
/// Throws FormatError, naming file and tensor, for a tensor that is missing, has no place, another shape or a type
/// that is not read; Error where the file cannot be read.
template <class T, class B>
Llama<T, B> load_llama_gguf(const std::shared_ptr<const GgufFile>& shared,
                            std::vector<std::string>* warnings = nullptr, const LoadOptions& options = {}) {
  const auto& file = *shared;
  const std::string source = message(file.path()) + ":";
  const auto config = read_llama_gguf_config(file);
  Llama<T, B> model(config);
  detail::compare_with_gguf(model, file, [](const FormatError&) { throw; });
  const bool interleaved = config.model_type == "llama";
  model.visit([&](const std::string& name, const Shape& shape, Tensor<T, B>& tensor) {
    const auto stored = detail::gguf_name(name);
    Index heads = 0;
    if (interleaved && name.find(".q_proj.") != name.npos) heads = config.num_attention_heads;
    if (interleaved && name.find(".k_proj.") != name.npos) heads = config.num_key_value_heads;
    const bool plain = file.at(stored).type == static_cast<std::uint32_t>(GgufType::F32);
    if (options.keep_packed && shape.rank() == 2 && !plain) {
      const Index head_dim = heads > 0 ? config.head_dim : 0;
      return detail::set_packed(model, name, std::make_shared<const GgufRows>(shared, stored, head_dim),
                                options, tensor);
    }
    auto values = file.template read<T>(stored);
    bool finite = true;
    for (const T value : values) finite = finite && is_finite(static_cast<double>(value));
    if (!finite && warnings)
      warnings->push_back(message(source, "tensor", quote(stored), "holds NaN or infinite values"));
    if (heads > 0) detail::halve_heads(values, config.head_dim, heads);
    tensor = Tensor<T, B>::from(shape, values);
  });
  return model;
}

}  // namespace mole
