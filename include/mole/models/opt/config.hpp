#pragma once
// The hyperparameters of OPT, under the names of its Hugging Face configuration.

#include <string>

#include <mole/models/causal/config.hpp>

namespace mole {

/// OPT (Zhang et al. 2022). Its LayerNorm's eps is 1e-5 always.
struct OptConfig : CausalConfig {
  Index hidden_size = 768;  ///< d
  Index ffn_dim = 3072;     ///< f
  Index num_hidden_layers = 12;
  Index num_attention_heads = 12;
  Index word_embed_proj_dim = 768;  ///< P; projected to d and back where it differs
  bool norm_before = true;          ///< else each norm comes after its residual (350m)
  bool final_norm = true;           ///< a last norm, with norm_before alone
  std::string activation = "relu";  ///< "relu", "gelu", "gelu_new" or "silu"
  bool tie_word_embeddings = true;  ///< the head is the token table

  bool projects() const { return word_embed_proj_dim != hidden_size; }
};

}  // namespace mole
