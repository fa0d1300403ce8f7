#pragma once
// The hyperparameters of Llama and its relatives, under the names of their Hugging Face configurations.

#include <string>
#include <vector>

#include <mole/models/causal/config.hpp>

namespace mole {

/// How angles are stretched for texts longer than those of the training.
struct RopeScaling {
  enum class Kind { none, linear, llama3, divided };
  Kind kind = Kind::none;
  double factor = 1;
  double low_freq_factor = 1, high_freq_factor = 4;  ///< llama3
  double original_max_position_embeddings = 8192;    ///< llama3
  std::vector<double> divisors = {};  ///< divided: of each frequency, as GGUF files store llama3
};

/// Llama, Mistral, Qwen2, Qwen3 and Gemma 1 differ in these fields alone.
struct LlamaConfig : CausalConfig {
  Index hidden_size = 4096;         ///< d
  Index intermediate_size = 11008;  ///< f
  Index num_hidden_layers = 32;
  Index num_attention_heads = 32;  ///< H
  Index num_key_value_heads = 32;  ///< K, a divisor of H
  Index head_dim = 128;            ///< D, even; H D may differ from d
  double rms_norm_eps = 1e-6;
  std::string activation = "silu";  ///< "silu", "gelu_new" (Gemma) or "gelu"
  bool qkv_bias = false;            ///< biases on q, k, v
  bool output_bias = false;         ///< a bias on o
  bool mlp_bias = false;
  bool qk_norm = false;              ///< each head of q and k is normalised before it is turned
  bool offset_norm = false;          ///< norms multiply by 1 + w (Gemma)
  bool scale_embeddings = false;     ///< embeddings times sqrt(d) (Gemma)
  bool tie_word_embeddings = false;  ///< the head is the token table
  std::vector<Index> windows;        ///< by layer, the keys that a query sees; 0: all. Empty: all everywhere
  double rope_theta = 10000;
  RopeScaling rope_scaling;

  Index query_width() const { return num_attention_heads * head_dim; }
  Index key_width() const { return num_key_value_heads * head_dim; }
};

}  // namespace mole
