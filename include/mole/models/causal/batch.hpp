#pragma once
// A padded batch for a decoder-only model: token ids, which of them are real, which are the prompt, and labels.

#include <utility>

#include <mole/models/token_batch.hpp>

namespace mole {

/// Texts of prompt and answer, padded on either side.
template <class T, class B>
struct CausalBatch {
  Tensor<Index, B> ids;  ///< [S, L]
  Tensor<T, B> mask;     ///< [S, L], 1 on real tokens; undefined: no padding
  Tensor<T, B>
      prompt;  ///< [S, L], 1 on the prompt's tokens, 0 on answer and padding: what sequence gates read
  Tensor<Index, B> labels;  ///< [S, L] as ids, -100 where there is none; undefined where there is no loss

  /// A batch that is prompt alone.
  static CausalBatch prompts(const TokenBatch<T, B>& batch) {
    return {
        batch.ids, batch.mask, batch.mask.defined() ? batch.mask : Tensor<T, B>::ones(batch.ids.shape()), {}};
  }

  /// f(tensor) for every tensor of the batch, so that a step over it can be captured (train/replayed.hpp).
  template <class F>
  void each_tensor(F f) {
    f(ids);
    f(mask);
    f(prompt);
    f(labels);
  }
};

}  // namespace mole
