#pragma once
// The hyperparameters of a T5, under the names of its Hugging Face configuration.

#include <optional>
#include <string>
#include <vector>

#include <mole/core/shape.hpp>
#include <mole/models/token_batch.hpp>

namespace mole {

/// T5 v1.0 (ReLU, tied head, scaled outputs) and v1.1 / FLAN (gated GELU).
struct T5Config {
  Index vocab_size = 32128;
  Index d_model = 512;
  Index d_kv = 64;
  Index d_ff = 1024;
  Index num_heads = 6;
  Index num_layers = 8;
  Index num_decoder_layers = 8;
  Index relative_attention_num_buckets = 32;
  Index relative_attention_max_distance = 128;
  double layer_norm_epsilon = 1e-6;
  double dropout_rate = 0.1;  ///< kept for whoever trains the model elsewhere; nothing is dropped here
  std::string activation = "gelu_new";  ///< "relu", "gelu", "gelu_new" or "silu"
  bool gated = true;                    ///< act(wi_0 x) * (wi_1 x) instead of act(wi x)
  bool tie_word_embeddings = false;
  bool scale_decoder_outputs = false;  ///< multiply the decoder's output by d_model^-0.5 before the head
  Index pad_token_id = 0;
  Index eos_token_id = 1;
  std::vector<Index> further_eos_token_ids;  ///< where the configuration lists more than one
  Index decoder_start_token_id = 0;
  /// What generation_config.json says of them, which generate() goes by; training goes by the fields above.
  std::optional<GenerationTokens> generation;

  Index inner() const { return num_heads * d_kv; }
  /// The tokens that end a text.
  std::vector<Index> end_tokens() const {
    auto list = further_eos_token_ids;
    list.insert(list.begin(), eos_token_id);
    return list;
  }
  GenerationTokens generation_tokens() const {
    return generation ? *generation : GenerationTokens{decoder_start_token_id, pad_token_id, end_tokens()};
  }
};

}  // namespace mole
