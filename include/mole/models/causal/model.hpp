#pragma once
// What decoder-only models share: logits, loss and decoding over a family's hidden states.

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <mole/autodiff/checkpoint.hpp>
#include <mole/loss/cross_entropy.hpp>
#include <mole/loss/head_cross_entropy.hpp>
#include <mole/models/causal/batch.hpp>
#include <mole/models/causal/config.hpp>
#include <mole/models/expert_model.hpp>
#include <mole/models/parameters.hpp>
#include <mole/nn/kv_cache.hpp>
#include <mole/nn/linear.hpp>

namespace mole {

/// What decoding keeps of the tokens it has seen. A router of two passes has keys and values of both.
template <class T, class B>
struct CausalCache {
  KvCache<T, B> own, first_pass;

  /// How many tokens it holds.
  Index length() const { return own.empty() ? 0 : own.front().length(); }
};

/// The cache whose row s goes on from what was row index[s], as beams do.
template <class T, class B>
void reorder(CausalCache<T, B>& cache, const Tensor<Index, B>& index) {
  reorder(cache.own, index);
  reorder(cache.first_pass, index);
}

/// A decoder-only model. Its one token stream is number 0; the gates of sequences read the prompt, before the
/// answer is known. A family derives from it and says its parameters, its hidden states and its head.
template <class T, class B>
class CausalModel : public ExpertModel<T, B>, public HasParameters<CausalModel<T, B>> {
 public:
  static constexpr std::size_t stream = 0;
  /// f(name, shape, start, tensor); the tensor may be replaced.
  using Visitor = std::function<void(const std::string&, const Shape&, const ParameterStart&, Tensor<T, B>&)>;

  virtual ~CausalModel() = default;
  virtual const CausalConfig& config() const = 0;
  /// The tokens that a text begins with, is filled up with and ends in, where another file than config.json
  /// has the last word.
  virtual void set_tokens(Index bos, Index pad, std::vector<Index> ends) = 0;
  /// Calls f for every parameter, under its checkpoint's name. A head that is tied is not shown.
  virtual void each_parameter(const Visitor& f) = 0;
  /// W [V, d] of the output head.
  virtual FrozenWeight<T, B> head() const = 0;
  /// Keeps a parameter packed, if it is a linear layer's or the family knows what to do with it; see
  /// ExpertModel::keep_packed().
  virtual bool keep_packed(const std::string& parameter, const std::shared_ptr<const PackedRows>& rows) {
    return ExpertModel<T, B>::keep_packed(parameter, rows);
  }

  /// Whether the tape keeps of each block its input alone and the pullback runs the block again: a forward pass more
  /// for a fraction of the memory. The model must outlive the backward pass. Off at the start.
  void checkpoint_blocks(bool on) { checkpoint_blocks_ = on; }
  /// Whether these inputs wait on the host until their block is run again, so that longer texts fit. They travel while the
  /// device works on other blocks. Has no effect without checkpoint_blocks(true), on a backend without copies to the host,
  /// as the CPU is, or in a captured graph. Off at the start.
  void offload_blocks(bool on) { offload_blocks_ = on; }

  /// What the head reads [S, L, d] for a whole batch. Sets the pass's masks.
  /// Throws ShapeError for masks unlike the ids; ArgumentError for texts longer than the model, or without a
  /// prompt mask where gates read the prompt.
  Tensor<T, B> states(const CausalBatch<T, B>& batch, MolePass<T, B>& pass) const {
    const TokenBatch<T, B> input(batch.ids, batch.mask);
    MOLE_CHECK_SHAPE(!batch.prompt.defined() || batch.prompt.shape() == batch.ids.shape(), "token ids are",
                     batch.ids.shape(), "but their prompt mask is",
                     batch.prompt.defined() ? batch.prompt.shape() : Shape{});
    MOLE_CHECK_ARG(
        batch.prompt.defined() || !reads_prompt(),
        "the gates of this model read the prompt: give the batch its prompt mask, 1 on the prompt's "
        "tokens and 0 on the answer and on padding");
    check_length(batch.ids.size(1));
    pass.set_mask(stream, {batch.mask, batch.prompt});
    return this->in_passes(input.sequences(), pass,
                           [&](MolePass<T, B>& own) { return hidden(batch.ids, batch.mask, own, nullptr); });
  }

  /// Logits [S, L, V] of a batch. Throws as states() does.
  Tensor<T, B> logits(const CausalBatch<T, B>& batch, MolePass<T, B>& pass) const {
    return head_output(states(batch, pass));
  }

  /// The mean token cross entropy of a batch (L_D of eq. 16): logits at t against the label of t + 1. The head
  /// works by chunks, for labelled tokens alone, unless it trains itself. Throws as states() does, ShapeError
  /// for labels unlike the ids, ArgumentError where no token has a label.
  Tensor<T, B> loss(const CausalBatch<T, B>& batch, MolePass<T, B>& pass,
                    const HeadCrossEntropyOptions& options = {}) const {
    MOLE_CHECK_SHAPE(batch.labels.defined() && batch.labels.shape() == batch.ids.shape(), "token ids are",
                     batch.ids.shape(), "but their labels are",
                     batch.labels.defined() ? batch.labels.shape() : Shape{});
    const auto next = next_labels(batch.labels, config().vocab_size, options.ignore_index);
    const auto x = states(batch, pass);
    const auto W = head();
    if (W.dense().defined() && W.dense().requires_grad())
      return cross_entropy(linear(x, W.dense()), next, {.ignore_index = options.ignore_index});
    return head_cross_entropy(x, W, next, options);
  }

  /// Measures, once, the scale of what the gates read on the batches that they will be trained on, and freezes it;
  /// for an input scale other than unit. Call it after attach() and before training; files of gates keep it.
  /// Throws as Mixer::standardise and states() do; ArgumentError if nothing is attached.
  void standardise_gates(const std::vector<CausalBatch<T, B>>& batches) {
    this->measure_gates(
        batches, [this](const CausalBatch<T, B>& batch, MolePass<T, B>& pass) { states(batch, pass); });
  }

  /// Logits [S, V] of the token after each row. ids [S, L] come after those that the cache holds, and mask
  /// [S, n] covers all of both, or is undefined without padding; padding is on the left. The gates of sequences
  /// are made from the first call's tokens, the prompt, and kept in the pass.    Throws as states() does.
  Tensor<T, B> next_logits(const Tensor<Index, B>& ids, const Tensor<T, B>& mask, MolePass<T, B>& pass,
                           CausalCache<T, B>& cache) const {
    MOLE_CHECK_SHAPE(ids.rank() == 2 && ids.size() > 0, "expected token ids [S, L], got", ids.shape());
    const Index S = ids.size(0), L = ids.size(1), n = cache.length() + L;
    MOLE_CHECK_SHAPE(!mask.defined() || mask.shape() == Shape({S, n}), "expected a mask", Shape({S, n}),
                     "of all tokens so far, got", mask.defined() ? mask.shape() : Shape{});
    check_length(n);
    const bool prefill = cache.length() == 0;
    const auto real = mask.defined() && !prefill ? slice(mask, 1, n - L, n) : mask;
    pass.set_mask(stream, {real, prefill && !mask.defined() ? Tensor<T, B>::ones(ids.shape()) : real});
    const auto& mixer = layers_.mixer;
    if (mixer && !prefill) mixer->next_step(stream, pass);
    Tensor<T, B> x;
    if (mixer && mixer->two_passes() && (prefill || !all_read_prompt())) {
      int number = 0;
      x = this->in_passes(S, pass, [&](MolePass<T, B>& own) {
        return hidden(ids, mask, own, number++ == 0 ? &cache.first_pass : &cache.own);
      });
    } else {
      x = hidden(ids, mask, pass, &cache.own);
    }
    return head_output(reshape(slice(x, 1, L - 1, L), {S, x.size(2)}));
  }

 protected:
  using ExpertModel<T, B>::layers_;

  /// The states that the head reads [S, L, d] for ids [S, L] after those of the cache, if there is one; mask
  /// [S, n] of all n tokens or undefined.
  virtual Tensor<T, B> hidden(const Tensor<Index, B>& ids, const Tensor<T, B>& mask, MolePass<T, B>& pass,
                              KvCache<T, B>* cache) const = 0;

  /// f(x, pass), a block of this name, which may be run again (checkpoint_blocks). f captures by value. The gates that
  /// it makes are outputs like x: later blocks may mix by them, and the balance loss reads them.
  template <class F>
  Tensor<T, B> through_block(const std::string& name, const Tensor<T, B>& x, MolePass<T, B>& pass,
                             F f) const {
    if (!checkpoint_blocks_ || !detail::recording()) return f(x, pass);
    std::vector<Tensor<T, B>> inputs{x};
    std::vector<std::size_t> known;
    for (std::size_t i = 0; i < pass.gates.size(); ++i) {
      if (!pass.gates[i]) continue;
      known.push_back(i);
      inputs.push_back(pass.gates[i]->weights);
      inputs.push_back(pass.gates[i]->dense);
    }
    const auto made = std::make_shared<std::vector<std::size_t>>();
    const auto again = [f, before = pass, known, made](const std::vector<Tensor<T, B>>& in) {
      auto own = before;
      for (std::size_t k = 0; k < known.size(); ++k)
        own.gates[known[k]] = GateValue<T, B>{in[1 + 2 * k], in[2 + 2 * k]};
      std::vector<Tensor<T, B>> outputs{f(in[0], own)};
      made->clear();
      for (std::size_t i = 0; i < own.gates.size(); ++i) {
        if (!own.gates[i] || (i < before.gates.size() && before.gates[i])) continue;
        made->push_back(i);
        outputs.push_back(own.gates[i]->weights);
        outputs.push_back(own.gates[i]->dense);
      }
      return outputs;
    };
    if constexpr (detail::has_host_copies<B>)
      if (offload_blocks_ && !pass.offload) pass.offload = std::make_shared<Offload<T, B>>();
    const auto outputs =
        checkpoint<T, B>(inputs, block_parameters(name), again, offload_blocks_ ? pass.offload : nullptr);
    for (std::size_t k = 0; k < made->size(); ++k) {
      const std::size_t gate = (*made)[k];
      if (pass.gates.size() <= gate) pass.gates.resize(gate + 1);
      pass.gates[gate] = GateValue<T, B>{outputs[1 + 2 * k], outputs[2 + 2 * k]};
    }
    return outputs.front();
  }

  auto group_apply(MolePass<T, B>& pass) const {
    return [this, &pass](std::size_t group, const Tensor<T, B>& x) { return layers_(group, x, pass, true); };
  }

 private:
  /// x W^T of the head.  x [.., d]
  Tensor<T, B> head_output(const Tensor<T, B>& x) const {
    const auto W = head();
    // A dense one may train.
    return W.dense().defined() ? linear(x, W.dense()) : frozen_linear(x, W);
  }
  /// What trains in a block: its gates and its LoRAs. A base that trains reaches the tape by its token table.
  std::vector<Tensor<T, B>> block_parameters(const std::string& name) const {
    std::vector<Tensor<T, B>> list;
    const auto& table = layers_.table;
    const auto add = [&](const Tensor<T, B>& tensor) {
      if (tensor.defined() && tensor.requires_grad()) list.push_back(tensor);
    };
    if (layers_.mixer)
      for (const auto& placed : layers_.mixer->gates()) {
        if (table.groups[placed.source].place.block != name) continue;
        add(placed.gate.weight);
        add(placed.gate.U);
        add(placed.gate.V);
        add(placed.gate.log_tau);
      }
    for (const auto& slot : table.slots) {
      if (table.groups[slot.group].place.block != name) continue;
      add(slot.lora.down);
      add(slot.lora.up);
    }
    return list;
  }

  bool reads_prompt() const {
    if (!layers_.mixer) return false;
    for (const auto& placed : layers_.mixer->gates())
      if (!placed.by_token) return true;
    return false;
  }
  bool all_read_prompt() const {
    for (const auto& placed : layers_.mixer->gates())
      if (placed.by_token) return false;
    return true;
  }
  void check_length(Index n) const {
    MOLE_CHECK_ARG(n <= config().max_position_embeddings, "a text of", n,
                   "tokens is longer than this model's", config().max_position_embeddings);
  }

  bool checkpoint_blocks_ = false, offload_blocks_ = false;
};

}  // namespace mole
