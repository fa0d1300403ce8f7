#pragma once
// T5 (Raffel et al. 2020; v1.1 and FLAN: Chung et al. 2022): encoder, decoder and head over slots that can be
// frozen, train one LoRA, or mix N experts.

#include <cmath>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include <mole/loss/balance.hpp>
#include <mole/loss/cross_entropy.hpp>
#include <mole/models/t5/block.hpp>
#include <mole/models/t5/config.hpp>
#include <mole/ops/shift.hpp>

namespace mole {

/// A padded batch of token ids.
template <class T, class B>
struct T5Batch {
  Tensor<Index, B> input_ids;  ///< [S, L]
  Tensor<T, B> input_mask;     ///< [S, L] of 0 and 1, or undefined: no padding
  Tensor<Index, B> labels;     ///< [S, Lt], -100 where there is none
};

/// A decoder's memory of what it has seen: one entry a block.
template <class T, class B>
using T5Cache = std::vector<BlockCache<T, B>>;

/// A sequence-to-sequence model with the parameter names of its Hugging Face checkpoint.
template <class T, class B>
class T5 {
 public:
  /// A model without weights: fill every tensor that visit() shows. Throws ArgumentError for a bad config.
  explicit T5(T5Config config) : config_(std::move(config)) {
    const auto& c = config_;
    MOLE_CHECK_ARG(c.vocab_size > 0 && c.d_model > 0 && c.d_kv > 0 && c.d_ff > 0 && c.num_heads > 0 &&
                       c.num_layers > 0 && c.num_decoder_layers > 0 && c.relative_attention_num_buckets > 3,
                   "T5: every size in the configuration must be positive, and there are at least 4 buckets");
    auto& table = layers_.table;
    auto feed_forward_groups = [&](FeedForwardLayer<T, B>& layer, const std::string& prefix, Stream stream) {
      layer.input = c.gated ? table.add_group(stream, {prefix + "wi_0", prefix + "wi_1"})
                            : table.add_group(stream, {prefix + "wi"});
      layer.output = table.add_group(stream, {prefix + "wo"});
    };
    for (Index i = 0; i < c.num_layers; ++i) {
      const std::string block = "encoder.block." + std::to_string(i) + ".layer.";
      const std::string self = block + "0.SelfAttention.";
      EncoderBlock b;
      b.self.queries = table.add_group(Stream::encoder, {self + "q", self + "k", self + "v"});
      b.self.output = table.add_group(Stream::encoder, {self + "o"});
      feed_forward_groups(b.feed_forward, block + "1.DenseReluDense.", Stream::encoder);
      encoder_.push_back(b);
    }
    for (Index i = 0; i < c.num_decoder_layers; ++i) {
      const std::string block = "decoder.block." + std::to_string(i) + ".layer.";
      const std::string self = block + "0.SelfAttention.", cross = block + "1.EncDecAttention.";
      DecoderBlock b;
      b.self.queries = table.add_group(Stream::decoder, {self + "q", self + "k", self + "v"});
      b.self.output = table.add_group(Stream::decoder, {self + "o"});
      b.cross.queries = table.add_group(Stream::decoder, {cross + "q"});
      b.cross.memory = table.add_group(Stream::memory, {cross + "k", cross + "v"});
      b.cross.output = table.add_group(Stream::decoder, {cross + "o"});
      feed_forward_groups(b.feed_forward, block + "2.DenseReluDense.", Stream::decoder);
      decoder_.push_back(b);
    }
  }

  const T5Config& config() const { return config_; }
  AdaptedLayers<T, B>& layers() { return layers_; }
  const AdaptedLayers<T, B>& layers() const { return layers_; }

  /// Calls f(name, shape, tensor) for every parameter, under its checkpoint's name; the tensor may be
  /// replaced. lm_head.weight is shown unless the head is tied.
  template <class F>
  void visit(F f) {
    const auto& c = config_;
    const Shape norm{c.d_model}, bias{c.relative_attention_num_buckets, c.num_heads};
    f("shared.weight", Shape{c.vocab_size, c.d_model}, shared_);
    for (auto& slot : layers_.table.slots) f(slot.name + ".weight", slot_shape(slot.name), slot.weight);
    for (std::size_t i = 0; i < encoder_.size(); ++i) {
      const std::string block = "encoder.block." + std::to_string(i) + ".layer.";
      f(block + "0.layer_norm.weight", norm, encoder_[i].self.norm);
      f(block + "1.layer_norm.weight", norm, encoder_[i].feed_forward.norm);
    }
    for (std::size_t i = 0; i < decoder_.size(); ++i) {
      const std::string block = "decoder.block." + std::to_string(i) + ".layer.";
      f(block + "0.layer_norm.weight", norm, decoder_[i].self.norm);
      f(block + "1.layer_norm.weight", norm, decoder_[i].cross.norm);
      f(block + "2.layer_norm.weight", norm, decoder_[i].feed_forward.norm);
    }
    const std::string table = ".block.0.layer.0.SelfAttention.relative_attention_bias.weight";
    f("encoder" + table, bias, encoder_bias_);
    f("decoder" + table, bias, decoder_bias_);
    f("encoder.final_layer_norm.weight", norm, encoder_norm_);
    f("decoder.final_layer_norm.weight", norm, decoder_norm_);
    if (!config_.tie_word_embeddings) f("lm_head.weight", Shape{c.vocab_size, c.d_model}, head_);
  }

  /// Every parameter drawn as T5's own initialisation does, but for the head, which starts at d_model^-0.5.
  void initialize(Generator& generator) {
    const double d = static_cast<double>(config_.d_model), inner = static_cast<double>(config_.inner());
    visit([&](const std::string& name, const Shape& shape, Tensor<T, B>& tensor) {
      auto has = [&](const char* part) { return name.find(part) != std::string::npos; };
      double deviation = 1 / std::sqrt(d);
      if (has("layer_norm")) {
        tensor = Tensor<T, B>::ones(shape);
        return;
      }
      // A tied table also makes the logits; unless they are scaled, it starts small.
      if (has("shared") && (!config_.tie_word_embeddings || config_.scale_decoder_outputs)) deviation = 1;
      if (has("Attention.q")) deviation = 1 / std::sqrt(d * static_cast<double>(config_.d_kv));
      if (has("Attention.o")) deviation = 1 / std::sqrt(inner);
      if (has(".wo.")) deviation = 1 / std::sqrt(static_cast<double>(config_.d_ff));
      tensor = Tensor<T, B>::randn(shape, generator.next(), static_cast<Compute<T>>(deviation));
    });
  }

  /// All parameters, marked as trainable.
  std::vector<Tensor<T, B>> trainable_parameters() {
    std::vector<Tensor<T, B>> list;
    visit([&](const std::string&, const Shape&, Tensor<T, B>& tensor) {
      list.push_back(tensor.set_requires_grad());
    });
    return list;
  }

  /// Whether norms take their mean square in float32, as Transformers does even for a float64 model. To
  /// compare with its numbers beyond seven digits; off, as at the start, all is of precision T.
  void round_norms(bool on) { round_norms_ = on; }

  /// Mixes these experts by MoLE from now on, with fresh gates; what was attached before is dropped.
  /// Throws as Mixer's constructor does.
  void attach(const std::vector<LoraSet>& adapters, const GateOptions& options) {
    attach(adapters, RouterOptions(options));
  }

  /// The same with any router: attach(adapters, ArrowOptions{.top_k = 2}).
  template <RouterChoice R>
  void attach(const std::vector<LoraSet>& adapters, const R& router) {
    layers_.mixer.reset();
    layers_.table.reset();
    layers_.mixer.emplace(layers_.table, adapters, router);
  }

  /// Every slot frozen and plain again.
  void detach() {
    layers_.mixer.reset();
    layers_.table.reset();
  }

  /// Throws ArgumentError if nothing is attached.
  Mixer<T, B>& mixer() {
    MOLE_CHECK_ARG(layers_.mixer.has_value(), "T5: no experts are attached; call attach() first");
    return *layers_.mixer;
  }

  /// The encoder's output [S, L, d_model] for ids [S, L]; pass.encoder_mask hides the padding. A router of
  /// two passes takes its first one here.
  Tensor<T, B> encode(const Tensor<Index, B>& ids, MolePass<T, B>& pass) const {
    MOLE_CHECK_SHAPE(ids.rank() == 2 && ids.size() > 0, "T5: expected ids [S, L], got", ids.shape());
    if (layers_.mixer && layers_.mixer->two_passes()) {
      auto first = layers_.mixer->first_pass(ids.size(0), pass);
      Tensor<T, B> hidden;
      {
        const NoGrad off;
        hidden = encoder_output(ids, first);
      }
      layers_.mixer->classify(hidden, pass);
    }
    return encoder_output(ids, pass);
  }

  /// Logits [S, Lt, vocabulary] for decoder ids [S, Lt] and memory [S, L, d_model]. With a cache, ids are the
  /// tokens after those it holds; it starts empty and grows.
  Tensor<T, B> decode(const Tensor<Index, B>& ids, const Tensor<T, B>& memory, MolePass<T, B>& pass,
                      T5Cache<T, B>* cache = nullptr) const {
    MOLE_CHECK_SHAPE(ids.rank() == 2 && ids.size() > 0, "T5: expected decoder ids [S, Lt], got", ids.shape());
    if (cache) cache->resize(decoder_.size());
    const auto context = layer_context(pass);
    const Index queries = ids.size(1);
    const Index seen = cache && cache->front().key.defined() ? cache->front().key.size(1) : 0;
    auto x = embedding(shared_, ids);
    const auto bias =
        position_bias(decoder_bias_, queries, seen + queries, false, config_.relative_attention_max_distance);
    for (std::size_t i = 0; i < decoder_.size(); ++i) {
      const auto& block = decoder_[i];
      BlockCache<T, B>* seen_here = cache ? &(*cache)[i] : nullptr;
      const bool fresh = !seen_here || !seen_here->memory_key.defined();
      if (layers_.mixer && fresh) layers_.mixer->read(layers_.table, block.cross.memory, memory, pass);
      x = self_attention(context, block.self, x, bias, Tensor<T, B>(), true, seen_here);
      x = cross_attention(context, block.cross, x, memory, pass.encoder_mask, seen_here);
      x = feed_forward(context, block.feed_forward, config_.activation, x);
    }
    x = context.norm(x, decoder_norm_);
    if (config_.scale_decoder_outputs)
      x = scale(x, static_cast<Compute<T>>(1 / std::sqrt(static_cast<double>(config_.d_model))));
    return linear(x, head_.defined() ? head_ : shared_);
  }

  /// Logits [S, Lt, vocabulary] of a batch by teacher forcing: the decoder reads the labels shifted right.
  /// Sets the pass's masks.
  Tensor<T, B> logits(const T5Batch<T, B>& batch, MolePass<T, B>& pass) const {
    pass.encoder_mask = batch.input_mask;
    const auto shifted = shift_right<T>(batch.labels, config_.vocab_size, config_.decoder_start_token_id,
                                        config_.pad_token_id);
    pass.decoder_mask = shifted.mask;
    return decode(shifted.ids, encode(batch.input_ids, pass), pass);
  }

  /// The mean token cross entropy of a batch (L_D of eq. 16 for FLAN-T5).
  Tensor<T, B> loss(const T5Batch<T, B>& batch, MolePass<T, B>& pass, double label_smoothing = 0) const {
    return cross_entropy(logits(batch, pass), batch.labels, {.label_smoothing = label_smoothing});
  }

  /// The balance loss (eq. 14-15) of the gates that a pass computed. Throws ArgumentError if nothing is
  /// attached, or for X-LoRA without its softmax.
  Tensor<T, B> balance(const MolePass<T, B>& pass) const {
    MOLE_CHECK_ARG(layers_.mixer.has_value(), "T5: no experts are attached, so there is no balance loss");
    const auto* xlora = std::get_if<XLoraOptions>(&layers_.mixer->router());
    MOLE_CHECK_ARG(
        !xlora || xlora->softmax,
        "T5: X-LoRA's scalings without a softmax are no shares of one, so there is no balance loss; "
        "set XLoraOptions::softmax, or train without it");
    std::vector<GateSample<T, B>> samples;
    for (const auto& record : layers_.mixer->records(pass))
      samples.push_back({record.value.dense, record.row_mask, record.experts});
    return balance_loss(samples, layers_.mixer->n_experts());
  }

 private:
  struct EncoderBlock {
    AttentionLayer<T, B> self;
    FeedForwardLayer<T, B> feed_forward;
  };
  struct DecoderBlock {
    AttentionLayer<T, B> self, cross;
    FeedForwardLayer<T, B> feed_forward;
  };

  Tensor<T, B> encoder_output(const Tensor<Index, B>& ids, MolePass<T, B>& pass) const {
    const auto context = layer_context(pass);
    auto x = embedding(shared_, ids);
    const auto bias =
        position_bias(encoder_bias_, ids.size(1), ids.size(1), true, config_.relative_attention_max_distance);
    for (const auto& block : encoder_) {
      x = self_attention(context, block.self, x, bias, pass.encoder_mask, false);
      x = feed_forward(context, block.feed_forward, config_.activation, x);
    }
    return context.norm(x, encoder_norm_);
  }

  LayerContext<T, B> layer_context(MolePass<T, B>& pass) const {
    return {layers_, pass, config_.num_heads, static_cast<Compute<T>>(config_.layer_norm_epsilon),
            round_norms_};
  }

  Shape slot_shape(const std::string& name) const {
    const auto last = name.substr(name.rfind('.') + 1);
    const auto& c = config_;
    if (last == "o") return {c.d_model, c.inner()};
    if (last == "wo") return {c.d_model, c.d_ff};
    if (last == "wi" || last == "wi_0" || last == "wi_1") return {c.d_ff, c.d_model};
    return {c.inner(), c.d_model};
  }

  T5Config config_;
  bool round_norms_ = false;
  AdaptedLayers<T, B> layers_;
  Tensor<T, B> shared_, head_, encoder_norm_, decoder_norm_, encoder_bias_, decoder_bias_;
  std::vector<EncoderBlock> encoder_;
  std::vector<DecoderBlock> decoder_;
};

}  // namespace mole
