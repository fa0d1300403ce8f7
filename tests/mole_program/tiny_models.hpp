#pragma once
// Tiny models with random weights and the goldens' tokenizers, as folders of Hugging Face.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include <mole/core/random.hpp>
#include <mole/io/json.hpp>
#include <mole/io/safetensors.hpp>
#include <mole/models/llama/gguf.hpp>

#include "text/gguf_vocabulary.hpp"

namespace program_test {

namespace fs = std::filesystem;
using mole::Index;

inline fs::path golden_tokenizer(const std::string& name) {
  return fs::path(MOLE_TEST_DATA) / "golden/lm/tokenizers" / name;
}

/// Collects random tensors.
class RandomWeights {
 public:
  explicit RandomWeights(std::uint64_t seed) : generator_{seed} {}

  void matrix(const std::string& name, Index rows, Index columns, double deviation = 0.2) {
    const auto stream = generator_.next();
    std::vector<float> values(static_cast<std::size_t>(rows * columns));
    for (std::size_t i = 0; i < values.size(); ++i)
      values[i] = static_cast<float>(deviation * mole::normal(stream, static_cast<Index>(i)));
    tensors.push_back({name, {rows, columns}, values});
  }
  void ones(const std::string& name, Index n) {
    tensors.push_back({name, {n}, std::vector<float>(static_cast<std::size_t>(n), 1.0F)});
  }
  void write(const fs::path& folder) const {
    mole::SafetensorsWriter writer;
    writer.metadata("format", "pt");
    for (const auto& tensor : tensors) writer.add(tensor.name, mole::Dtype::F32, tensor.shape, tensor.values);
    writer.write(folder / "model.safetensors");
  }

  struct Weight {
    std::string name;
    mole::Shape shape;
    std::vector<float> values;
  };
  std::vector<Weight> tensors;

 private:
  mole::Generator generator_;
};

/// A Llama of two blocks.
struct TinyLlama {
  static constexpr Index vocabulary = 612, layers = 2, inner = 24;
  Index width, head;
  RandomWeights weights;

  TinyLlama(Index d, std::uint64_t seed) : width(d), head(d / 2), weights(seed) {
    weights.matrix("model.embed_tokens.weight", vocabulary, width, 0.5);
    for (Index i = 0; i < layers; ++i) {
      const std::string block = "model.layers." + std::to_string(i) + ".";
      weights.ones(block + "input_layernorm.weight", width);
      weights.ones(block + "post_attention_layernorm.weight", width);
      weights.matrix(block + "self_attn.q_proj.weight", 2 * head, width);
      weights.matrix(block + "self_attn.k_proj.weight", head, width);
      weights.matrix(block + "self_attn.v_proj.weight", head, width);
      weights.matrix(block + "self_attn.o_proj.weight", width, 2 * head);
      weights.matrix(block + "mlp.gate_proj.weight", inner, width);
      weights.matrix(block + "mlp.up_proj.weight", inner, width);
      weights.matrix(block + "mlp.down_proj.weight", width, inner);
    }
    weights.ones("model.norm.weight", width);
  }
};

/// It as a folder with the goldens' qwen2 tokenizer, which knows chatml.
inline void write_llama(const fs::path& folder, Index width = 16, std::uint64_t seed = 1) {
  fs::create_directories(folder);
  const TinyLlama llama(width, seed);
  mole::write_json(folder / "config.json", {{"model_type", "llama"},
                                            {"vocab_size", llama.vocabulary},
                                            {"hidden_size", width},
                                            {"intermediate_size", llama.inner},
                                            {"num_hidden_layers", llama.layers},
                                            {"num_attention_heads", 2},
                                            {"num_key_value_heads", 1},
                                            {"head_dim", llama.head},
                                            {"rms_norm_eps", 1e-5},
                                            {"max_position_embeddings", 96},
                                            {"tie_word_embeddings", true},
                                            {"eos_token_id", 2},
                                            {"pad_token_id", 0}});
  llama.weights.write(folder);
  fs::copy_file(golden_tokenizer("qwen2.tokenizer.json"), folder / "tokenizer.json");
}

/// It as a GGUF file, without a tokenizer, its matrices in F16 if they are to be `halves`.
inline void write_llama_gguf(const fs::path& path, Index width = 16, std::uint64_t seed = 1,
                             bool halves = false) {
  TinyLlama llama(width, seed);
  text_test::GgufVocabulary file;
  const auto number = [&](const char* key, Index value) {
    file.number(std::string("llama.") + key, static_cast<std::uint32_t>(value));
  };
  file.text("general.architecture", "llama");
  number("block_count", llama.layers);
  number("context_length", 96);
  number("embedding_length", width);
  number("feed_forward_length", llama.inner);
  number("attention.head_count", 2);
  number("attention.head_count_kv", 1);
  number("attention.key_length", llama.head);
  number("attention.value_length", llama.head);
  number("vocab_size", llama.vocabulary);
  file.real("llama.attention.layer_norm_rms_epsilon", 1e-5F);
  file.number("tokenizer.ggml.eos_token_id", 2);
  file.number("tokenizer.ggml.padding_token_id", 0);
  std::vector<text_test::GgufFloats> tensors;
  for (auto& weight : llama.weights.tensors) {
    // Within a head GGUF interleaves the two halves that are turned together.
    if (weight.name.ends_with("q_proj.weight") || weight.name.ends_with("k_proj.weight")) {
      const auto stored = weight.values;
      const Index heads = weight.shape[0] / llama.head, half = llama.head / 2;
      for (Index h = 0; h < heads; ++h)
        for (Index j = 0; j < half; ++j)
          for (Index s = 0; s < 2; ++s)
            std::copy_n(stored.begin() + (h * llama.head + s * half + j) * width, width,
                        weight.values.begin() + (h * llama.head + 2 * j + s) * width);
    }
    std::vector<std::uint64_t> extents;
    for (const Index extent : weight.shape)
      extents.insert(extents.begin(), static_cast<std::uint64_t>(extent));
    tensors.push_back({mole::detail::gguf_name(weight.name), extents, weight.values,
                       halves && extents.size() == 2 ? 1U : 0U});
  }
  file.write(path, tensors);
}

/// A T5 of one block on each side with a tokenizer.json, or with the goldens' spiece.model.
inline void write_t5(const fs::path& folder, bool sentencepiece, const std::string& type = "t5") {
  fs::create_directories(folder);
  const Index vocabulary = sentencepiece ? 2300 : 712, width = 16, inner = 24;
  mole::write_json(folder / "config.json", {{"model_type", type},
                                            {"vocab_size", vocabulary},
                                            {"d_model", width},
                                            {"d_kv", 8},
                                            {"d_ff", inner},
                                            {"num_heads", 2},
                                            {"num_layers", 1},
                                            {"num_decoder_layers", 1},
                                            {"relative_attention_num_buckets", 8},
                                            {"relative_attention_max_distance", 16},
                                            {"layer_norm_epsilon", 1e-6},
                                            {"dropout_rate", 0.0},
                                            {"feed_forward_proj", "gated-gelu"},
                                            {"tie_word_embeddings", false},
                                            {"pad_token_id", 0},
                                            {"eos_token_id", sentencepiece ? 1 : 2},
                                            {"decoder_start_token_id", 0},
                                            {"is_encoder_decoder", true}});
  RandomWeights weights(3);
  weights.matrix("shared.weight", vocabulary, width, 0.5);
  weights.matrix("lm_head.weight", vocabulary, width, 0.2);
  for (const std::string half : {"encoder", "decoder"}) {
    const std::string block = half + ".block.0.layer.";
    const auto attention = [&](const std::string& number, const std::string& kind) {
      for (const char* part : {"q", "k", "v", "o"})
        weights.matrix(block + number + "." + kind + "." + part + ".weight", width, width);
      weights.ones(block + number + ".layer_norm.weight", width);
    };
    attention("0", "SelfAttention");
    weights.matrix(block + "0.SelfAttention.relative_attention_bias.weight", 8, 2);
    if (half == "decoder") attention("1", "EncDecAttention");
    const std::string last = half == "decoder" ? "2" : "1";
    weights.matrix(block + last + ".DenseReluDense.wi_0.weight", inner, width);
    weights.matrix(block + last + ".DenseReluDense.wi_1.weight", inner, width);
    weights.matrix(block + last + ".DenseReluDense.wo.weight", width, inner);
    weights.ones(block + last + ".layer_norm.weight", width);
    weights.ones(half + ".final_layer_norm.weight", width);
  }
  weights.write(folder);
  if (sentencepiece)
    fs::copy_file(golden_tokenizer("t5.spiece.model"), folder / "spiece.model");
  else
    fs::copy_file(golden_tokenizer("llama2_json.tokenizer.json"), folder / "tokenizer.json");
}

}  // namespace program_test
