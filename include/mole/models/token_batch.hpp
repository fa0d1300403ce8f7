#pragma once
// Token ids with the mask that tells real tokens from padding. They travel together: a mask that is left behind
// lets a model attend to padding.

#include <utility>
#include <vector>

#include <mole/autodiff/tensor.hpp>

namespace mole {

/// Padded token ids.
template <class T, class B>
struct TokenBatch {
  Tensor<Index, B> ids;  ///< [S, L]
  Tensor<T, B> mask;     ///< [S, L] of 0 and 1; undefined where no token is padding

  /// Throws ShapeError unless ids are [S, L] with tokens and the mask, where there is one, is like them.
  TokenBatch(Tensor<Index, B> token_ids, Tensor<T, B> token_mask)
      : ids(std::move(token_ids)), mask(std::move(token_mask)) {
    MOLE_CHECK_SHAPE(ids.rank() == 2 && ids.size() > 0, "expected token ids [S, L], got", ids.shape());
    MOLE_CHECK_SHAPE(!mask.defined() || mask.shape() == ids.shape(), "token ids are", ids.shape(),
                     "but their mask is", mask.defined() ? mask.shape() : Shape{});
  }
  /// Sequences of one length.
  static TokenBatch unpadded(Tensor<Index, B> token_ids) { return {std::move(token_ids), {}}; }

  /// The number of sequences.
  Index sequences() const { return ids.size(0); }
};

/// The tokens that a generated text begins with, is padded with after its end, and may end with.
struct GenerationTokens {
  Index start = 0, pad = 0;
  std::vector<Index> ends;

  bool operator==(const GenerationTokens&) const = default;
};

/// What an encoder made of a batch, for a decoder to attend to.
template <class T, class B>
struct EncoderMemory {
  Tensor<T, B> states;  ///< [S, L, d_model]
  Tensor<T, B> mask;    ///< [S, L] of 0 and 1; undefined where no token is padding
};

}  // namespace mole
