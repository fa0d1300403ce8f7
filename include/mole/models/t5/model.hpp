#pragma once
// T5 (Raffel et al. 2020; v1.1 and FLAN: Chung et al. 2022): encoder, decoder and head over slots that can be
// frozen, train one LoRA, or mix N experts.

#include <cmath>
#include <concepts>
#include <string>
#include <utility>
#include <vector>

#include <mole/core/graph.hpp>
#include <mole/loss/cross_entropy.hpp>
#include <mole/models/expert_model.hpp>
#include <mole/models/parameters.hpp>
#include <mole/models/t5/config.hpp>
#include <mole/models/t5/position_bias.hpp>
#include <mole/models/token_batch.hpp>
#include <mole/nn/feed_forward.hpp>
#include <mole/nn/rounded_norm.hpp>
#include <mole/ops/shift.hpp>
#include <mole/train/finite.hpp>

namespace mole {

/// A padded batch of token ids.
template <class T, class B>
struct T5Batch {
  Tensor<Index, B> input_ids;  ///< [S, L]
  Tensor<T, B> input_mask;     ///< [S, L] of 0 and 1, or undefined: no padding
  Tensor<Index, B> labels;     ///< [S, Lt], -100 where there is none

  /// f(tensor) for every tensor of the batch, so that a step over it can be captured (train/replayed.hpp).
  template <class F>
  void each_tensor(F f) {
    f(input_ids);
    f(input_mask);
    f(labels);
  }
  /// What the encoder reads.
  TokenBatch<T, B> input() const { return {input_ids, input_mask}; }
};

/// A sequence-to-sequence model with the parameter names of its Hugging Face checkpoint.
template <class T, class B>
class T5 : public ExpertModel<T, B>, public HasParameters<T5<T, B>> {
 public:
  /// The model's token streams.
  static constexpr std::size_t encoder_stream = 0, decoder_stream = 1;

  /// A model without weights: fill every tensor that visit() shows. Throws ArgumentError for a bad config.
  explicit T5(T5Config config) : config_(std::move(config)) {
    const auto& c = config_;
    MOLE_CHECK_ARG(c.vocab_size > 0 && c.d_model > 0 && c.d_kv > 0 && c.d_ff > 0 && c.num_heads > 0 &&
                       c.num_layers > 0 && c.num_decoder_layers > 0 && c.relative_attention_num_buckets > 3,
                   "T5: every size in the configuration must be positive, and there are at least 4 buckets");
    auto& table = layers_.table;
    table.streams = {"encoder", "decoder"};
    table.home = decoder_stream;
    table.hidden_stream = encoder_stream;
    table.hidden = c.d_model;
    for (Index i = 0; i < c.num_layers; ++i) encoder_.push_back(add_encoder_block(i));
    for (Index i = 0; i < c.num_decoder_layers; ++i) decoder_.push_back(add_decoder_block(i));
  }

  const T5Config& config() const { return config_; }

  /// f(name, shape, start, tensor) for every parameter (see HasParameters), as T5's own initialisation draws them but
  /// for the head, which starts at d_model^-0.5. lm_head.weight is shown unless the head is tied.
  template <class F>
  void each_parameter(F f) {
    const auto& c = config_;
    const Shape norm{c.d_model}, bias{c.relative_attention_num_buckets, c.num_heads};
    const auto drawn = [](double deviation) { return ParameterStart{0, deviation}; };
    const ParameterStart ones{1, 0};
    // A tied table also makes the logits; unless they are scaled, it starts small.
    const bool wide = !c.tie_word_embeddings || c.scale_decoder_outputs;
    f("shared.weight", Shape{c.vocab_size, c.d_model}, drawn(wide ? 1.0 : start(c.d_model)), shared_);
    for (auto& slot : layers_.table.slots)
      f(slot.name + ".weight", slot.shape, drawn(slot.deviation), slot.weight);
    for (std::size_t i = 0; i < encoder_.size(); ++i) {
      const std::string block = "encoder.block." + std::to_string(i) + ".layer.";
      f(block + "0.layer_norm.weight", norm, ones, encoder_[i].self_norm);
      f(block + "1.layer_norm.weight", norm, ones, encoder_[i].feed_forward_norm);
    }
    for (std::size_t i = 0; i < decoder_.size(); ++i) {
      const std::string block = "decoder.block." + std::to_string(i) + ".layer.";
      f(block + "0.layer_norm.weight", norm, ones, decoder_[i].self_norm);
      f(block + "1.layer_norm.weight", norm, ones, decoder_[i].cross_norm);
      f(block + "2.layer_norm.weight", norm, ones, decoder_[i].feed_forward_norm);
    }
    const std::string table = ".block.0.layer.0.SelfAttention.relative_attention_bias.weight";
    f("encoder" + table, bias, drawn(start(c.d_model)), encoder_bias_);
    f("decoder" + table, bias, drawn(start(c.d_model)), decoder_bias_);
    f("encoder.final_layer_norm.weight", norm, ones, encoder_norm_);
    f("decoder.final_layer_norm.weight", norm, ones, decoder_norm_);
    if (!c.tie_word_embeddings)
      f("lm_head.weight", Shape{c.vocab_size, c.d_model}, drawn(start(c.d_model)), head_);
  }

  /// Whether norms take their mean square in float32, as Transformers does even for a float64 model. To
  /// compare with its numbers beyond seven digits; off, as at the start, all is of precision T.
  void round_norms(bool on) { round_norms_ = on; }

  /// The encoder's output [S, L, d_model]. The pass takes the batch's mask. A router of two passes takes its
  /// first one here.
  EncoderMemory<T, B> encode(const TokenBatch<T, B>& batch, MolePass<T, B>& pass) const {
    pass.set_mask(encoder_stream, {batch.mask, {}});
    const auto states = this->in_passes(batch.sequences(), pass,
                                        [&](MolePass<T, B>& own) { return encoder_output(batch, own); });
    return {states, batch.mask};
  }

  /// Logits [S, Lt, vocabulary] for decoder ids [S, Lt] and what encode() made. With a cache, ids are the
  /// tokens after those it holds; it starts empty and grows.
  Tensor<T, B> decode(const Tensor<Index, B>& ids, const EncoderMemory<T, B>& memory, MolePass<T, B>& pass,
                      KvCache<T, B>* cache = nullptr) const {
    MOLE_CHECK_SHAPE(ids.rank() == 2 && ids.size() > 0, "T5: expected decoder ids [S, Lt], got", ids.shape());
    pass.set_mask(encoder_stream, {memory.mask, {}});
    if (cache) cache->resize(decoder_.size());
    const auto apply = group_apply(pass);
    const Index queries = ids.size(1), seen = cache ? cache->front().length() : 0;
    auto x = embedding(shared_, ids);
    const AttentionOptions<T, B> self{
        config_.num_heads,
        1,
        position_bias(decoder_bias_, queries, seen + queries, false, config_.relative_attention_max_distance),
        {},
        true};
    const AttentionOptions<T, B> cross{config_.num_heads, 1, {}, memory.mask, false};
    for (std::size_t i = 0; i < decoder_.size(); ++i) {
      const auto& block = decoder_[i];
      BlockCache<T, B>* const kept = cache ? &(*cache)[i] : nullptr;
      const bool fresh = !kept || !kept->memory_key.defined();
      if (layers_.mixer && fresh) layers_.mixer->read(layers_.table, block.cross.memory, memory.states, pass);
      x = add(x, self_attention(apply, block.self, norm(x, block.self_norm), self, kept));
      x = add(x, cross_attention(apply, block.cross, norm(x, block.cross_norm), memory.states, cross, kept));
      x = add(x, mole::feed_forward(apply, block.feed_forward, config_.activation,
                                    norm(x, block.feed_forward_norm)));
    }
    x = norm(x, decoder_norm_);
    if (config_.scale_decoder_outputs)
      x = scale(x, static_cast<Compute<T>>(1 / std::sqrt(static_cast<double>(config_.d_model))));
    return linear(x, head_.defined() ? head_ : shared_);
  }

  /// Logits [S, Lt, vocabulary] of a batch by teacher forcing: the decoder reads the labels shifted right.
  /// Sets the pass's masks. In half, throws NumericError where the model has gone beyond 65504, as published
  /// FLAN-T5 models do in their feed-forward layers; it waits for the device for that, unless work is recorded for a
  /// graph.
  Tensor<T, B> logits(const T5Batch<T, B>& batch, MolePass<T, B>& pass) const {
    const auto shifted = shift_right<T>(batch.labels, config_.vocab_size, config_.decoder_start_token_id,
                                        config_.pad_token_id);
    pass.set_mask(decoder_stream, {shifted.mask, {}});
    const auto memory = encode(batch.input(), pass);
    const auto logits = decode(shifted.ids, memory, pass);
    check_range(logits);
    return logits;
  }

  /// Measures, once, the scale of what the gates read on the batches that they will be trained on, and freezes it;
  /// for an input scale other than unit. Call it after attach() and before training; files of gates keep it.
  /// Throws as Mixer::standardise does; ArgumentError if nothing is attached.
  void standardise_gates(const std::vector<T5Batch<T, B>>& batches) {
    this->measure_gates(batches,
                        [this](const T5Batch<T, B>& batch, MolePass<T, B>& pass) { logits(batch, pass); });
  }

  /// The mean token cross entropy of a batch (L_D of eq. 16 for FLAN-T5).
  Tensor<T, B> loss(const T5Batch<T, B>& batch, MolePass<T, B>& pass, double label_smoothing = 0) const {
    return cross_entropy(logits(batch, pass), batch.labels, {.label_smoothing = label_smoothing});
  }

 private:
  using ExpertModel<T, B>::layers_;

  // Whatever overflows on the way makes the norm after it NaN, and so the logits.
  static void check_range(const Tensor<T, B>& logits) {
    if constexpr (std::same_as<T, half>) {
      if (detail::is_capturing<B>()) return;
      const bool finite = all_finite(std::vector<Tensor<T, B>>{logits.detach()});
      MOLE_CHECK_AS(
          NumericError, finite,
          "T5: the logits hold NaN or infinity. In half no number is above 65504, and this model may need "
          "larger ones; use bf16 or float");
    }
  }

  struct EncoderBlock {
    AttentionGroups self;
    FeedForwardGroups feed_forward;
    Tensor<T, B> self_norm, feed_forward_norm;  ///< [d_model]
  };
  struct DecoderBlock {
    AttentionGroups self, cross;
    FeedForwardGroups feed_forward;
    Tensor<T, B> self_norm, cross_norm, feed_forward_norm;  ///< [d_model]
  };

  EncoderBlock add_encoder_block(Index number) {
    const std::string block = "encoder.block." + std::to_string(number);
    EncoderBlock b;
    GroupPlace place{block + ".layer.0", block, encoder_stream, encoder_stream, Context::own};
    b.self = add_self_attention(place, block + ".layer.0.SelfAttention.");
    place.layer = block + ".layer.1";
    b.feed_forward = add_feed_forward(place);
    return b;
  }

  /// Sequence gates of a decoder block read the memory, at its cross-attention's k and v: its own tokens would
  /// show them what is to come.
  DecoderBlock add_decoder_block(Index number) {
    auto& table = layers_.table;
    const std::string block = "decoder.block." + std::to_string(number);
    const std::string cross = block + ".layer.1.EncDecAttention.";
    const std::size_t first = table.groups.size();
    DecoderBlock b;
    GroupPlace place{block + ".layer.0", block, decoder_stream, decoder_stream, Context::memory};
    b.self = add_self_attention(place, block + ".layer.0.SelfAttention.");
    place.layer = block + ".layer.1";
    b.cross.queries = table.add_group(place, {query(cross + "q")});
    auto memory = place;
    memory.stream = encoder_stream;
    b.cross.memory = table.add_group(memory, {key(cross + "k"), key(cross + "v")});
    b.cross.output = table.add_group(place, {output(cross + "o")});
    place.layer = block + ".layer.2";
    b.feed_forward = add_feed_forward(place);
    for (std::size_t g = first; g < table.groups.size(); ++g) table.groups[g].memory = b.cross.memory;
    return b;
  }

  AttentionGroups add_self_attention(const GroupPlace& place, const std::string& prefix) {
    AttentionGroups groups;
    groups.queries =
        layers_.table.add_group(place, {query(prefix + "q"), key(prefix + "k"), key(prefix + "v")});
    groups.output = layers_.table.add_group(place, {output(prefix + "o")});
    return groups;
  }

  FeedForwardGroups add_feed_forward(const GroupPlace& place) {
    const auto& c = config_;
    const std::string prefix = place.layer + ".DenseReluDense.";
    const auto wide = [&](const char* name) {
      return SlotShape{prefix + name, c.d_ff, c.d_model, start(c.d_model)};
    };
    FeedForwardGroups groups;
    groups.input = c.gated ? layers_.table.add_group(place, {wide("wi_0"), wide("wi_1")})
                           : layers_.table.add_group(place, {wide("wi")});
    groups.output = layers_.table.add_group(place, {{prefix + "wo", c.d_model, c.d_ff, start(c.d_ff)}});
    return groups;
  }

  /// The standard deviation that keeps the size of n inputs' sum.
  static double start(Index n) { return 1 / std::sqrt(static_cast<double>(n)); }
  SlotShape query(const std::string& name) const {
    // Attention's scores are not divided by sqrt(d_kv): q starts smaller instead.
    return {name, config_.inner(), config_.d_model,
            1 / std::sqrt(static_cast<double>(config_.d_model) * static_cast<double>(config_.d_kv))};
  }
  SlotShape key(const std::string& name) const {
    return {name, config_.inner(), config_.d_model, start(config_.d_model)};
  }
  SlotShape output(const std::string& name) const {
    return {name, config_.d_model, config_.inner(), start(config_.inner())};
  }

  auto group_apply(MolePass<T, B>& pass) const {
    return [this, &pass](std::size_t group, const Tensor<T, B>& x) { return layers_(group, x, pass, true); };
  }

  /// x [.., d_model], weight [d_model]
  Tensor<T, B> norm(const Tensor<T, B>& x, const Tensor<T, B>& weight) const {
    const auto epsilon = static_cast<Compute<T>>(config_.layer_norm_epsilon);
    return round_norms_ ? rounded_rms_norm(x, weight, epsilon) : rms_norm(x, weight, epsilon);
  }

  Tensor<T, B> encoder_output(const TokenBatch<T, B>& batch, MolePass<T, B>& pass) const {
    const auto apply = group_apply(pass);
    const Index L = batch.ids.size(1);
    auto x = embedding(shared_, batch.ids);
    const AttentionOptions<T, B> options{
        config_.num_heads, 1,
        position_bias(encoder_bias_, L, L, true, config_.relative_attention_max_distance), batch.mask, false};
    for (const auto& block : encoder_) {
      x = add(x, self_attention(apply, block.self, norm(x, block.self_norm), options));
      x = add(x, mole::feed_forward(apply, block.feed_forward, config_.activation,
                                    norm(x, block.feed_forward_norm)));
    }
    return norm(x, encoder_norm_);
  }

  T5Config config_;
  bool round_norms_ = false;
  Tensor<T, B> shared_, head_, encoder_norm_, decoder_norm_, encoder_bias_, decoder_bias_;
  std::vector<EncoderBlock> encoder_;
  std::vector<DecoderBlock> decoder_;
};

}  // namespace mole
