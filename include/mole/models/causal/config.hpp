#pragma once
// What every decoder-only model says of its tokens.

#include <string>
#include <vector>

#include <mole/core/shape.hpp>

namespace mole {

/// The vocabulary and the tokens with a meaning of their own.
struct CausalConfig {
  std::string model_type;                ///< as in config.json, such as "llama"
  Index vocab_size = 32000;              ///< V
  Index max_position_embeddings = 2048;  ///< the longest text, in tokens
  Index bos_token_id = -1;               ///< begins a text; -1: none
  Index pad_token_id = -1;               ///< -1: none
  std::vector<Index> eos_token_ids;      ///< each ends a text
  double initializer_range = 0.02;       ///< standard deviation of weights at the start
};

}  // namespace mole
