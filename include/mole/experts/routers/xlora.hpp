#pragma once
// X-LoRA (Buehler & Buehler 2024): two passes. The first, with all experts at one constant scaling (at 0 the
// bare model), gives the last hidden state; a classifier of it scales the experts in the second.
//
//   z     the last hidden state of the first pass [S, L, d], a constant: no gradient flows through it
//   g     softmax(classifier(z) / temperature), one for each gate, then top-k, then times `weight`
//
// As PEFT 0.21, with these choices: an expert that a gate does not hold takes no share of its softmax (PEFT's
// is over all); there is no dropout in the classifier; top-k is left out of the first pass.
// For an encoder-decoder, which PEFT does not offer: z is the encoder's output. Layers that read its tokens
// (the encoder, and cross-attention's k and v) are scaled token by token; the decoder's own layers by
// the classifier of z's mean over the real tokens, one scaling a sequence, known before decoding starts.

#include <cmath>
#include <type_traits>
#include <utility>
#include <vector>

#include <mole/experts/routers/registry.hpp>
#include <mole/ops/matmul.hpp>
#include <mole/ops/reduce.hpp>

namespace mole {

/// What becomes of the classifier's outputs for one gate.    logits [.., N], keep [N] or undefined: experts
/// of 0 get nothing and, with a softmax, the rest are renormalised. `dense` is before top-k and `weight`: it
/// sums to 1 if options.softmax is set, as the balance loss expects. The choice of the k is a constant.
template <class T, class B>
GateValue<T, B> xlora_weights(const Tensor<T, B>& logits, const XLoraOptions& options,
                              const std::type_identity_t<Tensor<T, B>>& keep = {}) {
  const auto scaled = scale(logits, static_cast<Compute<T>>(1 / options.temperature));
  const auto dense = options.softmax ? softmax(scaled, keep) : keep.defined() ? mul(logits, keep) : logits;
  const auto counted = detail::counted_experts(logits, keep, options.top_k);
  auto weights = dense;
  if (options.renormalize == Renormalize::softmax)
    weights = softmax(dense, counted);
  else if (options.renormalize == Renormalize::sum)
    // The gates that are left over their sum are the softmax of their logits.
    weights = softmax(scaled, counted);
  else if (counted.defined())
    weights = mul(dense, counted);
  return {options.weight == 1 ? weights : scale(weights, static_cast<Compute<T>>(options.weight)), dense};
}

/// The classifier: `depth` linear layers with biases and ReLU between them, a column for each expert of each
/// gate. It trains; all else is frozen.
template <class T, class B>
class XLora {
 public:
  /// d: width of the hidden state; n_experts: how many each gate holds. Parameters start uniform in
  /// +-1/sqrt(inputs), as PEFT's do.    Throws ArgumentError for a depth or width below 1.
  XLora(const XLoraOptions& options, Index d, const std::vector<Index>& n_experts) : options_(options) {
    detail::check_own_options(options);
    Index columns = 0;
    for (const Index n : n_experts) {
      begins_.push_back(columns);
      columns += n;
    }
    begins_.push_back(columns);
    Generator generator{options.seed};
    for (Index i = 0; i < options.depth; ++i) {
      const Index from = i == 0 ? d : options.width, to = i + 1 == options.depth ? columns : options.width;
      const double bound = 1 / std::sqrt(static_cast<double>(from));
      auto start = [&](const Shape& shape) {
        const auto stream = generator.next();
        std::vector<T> values(static_cast<std::size_t>(shape.size()));
        for (std::size_t k = 0; k < values.size(); ++k)
          values[k] = static_cast<T>((2 * uniform(stream, static_cast<Index>(k)) - 1) * bound);
        return Tensor<T, B>::from(shape, values).set_requires_grad();
      };
      parameters_.push_back(start({to, from}));
      parameters_.push_back(start({to}));
    }
  }

  const XLoraOptions& options() const { return options_; }
  /// Weight [to, from] and bias [to] of each layer in order.
  const std::vector<Tensor<T, B>>& parameters() const { return parameters_; }

  /// The outputs for all gates, z [.., d] to [.., sum of n_experts].    Throws ShapeError.
  Tensor<T, B> logits(Tensor<T, B> z) const {
    for (std::size_t i = 0; i < parameters_.size(); i += 2)
      z = linear(i == 0 ? z : relu(z), parameters_[i], parameters_[i + 1]);
    return z;
  }

  /// One gate's weights from those outputs.
  GateValue<T, B> gate(const Tensor<T, B>& logits, std::size_t gate,
                       const std::type_identity_t<Tensor<T, B>>& keep = {}) const {
    const bool all = begins_.size() == 2;
    return xlora_weights(all ? logits : slice(logits, -1, begins_[gate], begins_[gate + 1]), options_, keep);
  }

 private:
  XLoraOptions options_;
  std::vector<Index> begins_;
  std::vector<Tensor<T, B>> parameters_;
};

}  // namespace mole
