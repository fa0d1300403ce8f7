#pragma once
// Llama (Touvron et al. 2023) and its relatives Mistral, Qwen2, Qwen3 and Gemma 1, over slots that can be frozen,
// train one LoRA, or mix N experts.
//
//   x += o(attention(rope(q h), rope(k h), v h)),  h = rms(x)      grouped queries, causal
//   x += down(silu(gate h) * (up h)),              h = rms(x)

#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <mole/models/causal/model.hpp>
#include <mole/models/causal/token_table.hpp>
#include <mole/models/llama/config.hpp>
#include <mole/models/llama/rotary.hpp>
#include <mole/nn/feed_forward.hpp>
#include <mole/nn/residual_stream.hpp>
#include <mole/ops/repeat_heads.hpp>
#include <mole/ops/rope.hpp>
#include <mole/ops/token_positions.hpp>

namespace mole {

/// A decoder-only model with the parameter names of its Hugging Face checkpoint.
template <class T, class B>
class Llama final : public CausalModel<T, B> {
 public:
  using typename CausalModel<T, B>::Visitor;
  using CausalModel<T, B>::stream;

  /// A model without weights: fill every tensor that visit() shows. Throws ArgumentError for a bad config.
  explicit Llama(LlamaConfig config) : config_(std::move(config)) {
    const auto& c = config_;
    MOLE_CHECK_ARG(c.vocab_size > 0 && c.hidden_size > 0 && c.intermediate_size > 0 &&
                       c.num_hidden_layers > 0 && c.num_attention_heads > 0 && c.num_key_value_heads > 0 &&
                       c.head_dim > 0,
                   "Llama: every size in the configuration must be positive");
    MOLE_CHECK_ARG(c.num_attention_heads % c.num_key_value_heads == 0 && c.head_dim % 2 == 0,
                   "Llama:", c.num_attention_heads, "heads of", c.head_dim, "cannot be grouped over",
                   c.num_key_value_heads, "of keys and turned in pairs");
    MOLE_CHECK_ARG(c.windows.empty() || static_cast<Index>(c.windows.size()) == c.num_hidden_layers,
                   "Llama: expected a window for each of", c.num_hidden_layers, "layers, got",
                   c.windows.size());
    auto& table = layers_.table;
    table.hidden = c.hidden_size;
    for (Index i = 0; i < c.num_hidden_layers; ++i) blocks_.push_back(add_block(i));
    frequencies_ = Tensor<double, B>::from({c.head_dim / 2}, rotary_frequencies(c));
  }

  const LlamaConfig& config() const override { return config_; }
  void set_tokens(Index bos, Index pad, std::vector<Index> ends) override {
    config_.bos_token_id = bos;
    config_.pad_token_id = pad;
    config_.eos_token_ids = std::move(ends);
  }
  FrozenWeight<T, B> head() const override {
    return (config_.tie_word_embeddings ? embed_ : head_).product();
  }
  bool keep_packed(const std::string& parameter, const std::shared_ptr<const PackedRows>& rows) override {
    if (parameter == "model.embed_tokens.weight") return embed_.keep_packed(rows), true;
    if (parameter == "lm_head.weight") return head_.keep_packed(rows), true;
    return CausalModel<T, B>::keep_packed(parameter, rows);
  }

  void each_parameter(const Visitor& f) override {
    const auto& c = config_;
    const ParameterStart normal{0, c.initializer_range}, norm_start{c.offset_norm ? 0.0 : 1.0, 0};
    const Shape norm{c.hidden_size}, head_norm{c.head_dim};
    f("model.embed_tokens.weight", Shape{c.vocab_size, c.hidden_size}, normal, embed_.dense);
    for (auto& block : blocks_) {
      for (const std::size_t number : block.slots) {
        auto& slot = layers_.table.slots[number];
        f(slot.name + ".weight", slot.shape, normal, slot.weight);
        if (block.has_bias(number)) f(slot.name + ".bias", Shape{slot.shape[0]}, ParameterStart{}, slot.bias);
      }
      f(block.name + ".input_layernorm.weight", norm, norm_start, block.attention_norm);
      f(block.name + ".post_attention_layernorm.weight", norm, norm_start, block.feed_forward_norm);
      if (!c.qk_norm) continue;
      f(block.name + ".self_attn.q_norm.weight", head_norm, norm_start, block.query_norm);
      f(block.name + ".self_attn.k_norm.weight", head_norm, norm_start, block.key_norm);
    }
    f("model.norm.weight", norm, norm_start, norm_);
    if (!c.tie_word_embeddings) f("lm_head.weight", Shape{c.vocab_size, c.hidden_size}, normal, head_.dense);
  }

 protected:
  Tensor<T, B> hidden(const Tensor<Index, B>& ids, const Tensor<T, B>& mask, MolePass<T, B>& pass,
                      KvCache<T, B>* cache) const override {
    const auto& c = config_;
    if (cache) cache->resize(blocks_.size());
    const Index S = ids.size(0), L = ids.size(1), n = L + (cache ? cache->front().length() : 0);
    const auto turn = rotation<T>(token_positions(S, n, L, mask), frequencies_);
    AttentionOptions<T, B> options{
        .heads = c.num_attention_heads,
        .scale = static_cast<Compute<T>>(1 / std::sqrt(static_cast<double>(c.head_dim))),
        .key_mask = mask,
        .causal = true};
    auto x = embed_.lookup(ids);
    // As the original rounds it: the factor is a number of the weights' type.
    if (c.scale_embeddings)
      x = scale(x, Compute<T>(static_cast<T>(std::sqrt(static_cast<double>(c.hidden_size)))));
    ResidualStream<T, B> residual(std::move(x));
    for (std::size_t i = 0; i < blocks_.size(); ++i) {
      if (!c.windows.empty()) options.window = c.windows[i];
      if (cache) {
        run_block(blocks_[i], residual, turn, options, pass, &(*cache)[i]);
        continue;
      }
      const auto run = [this, i, turn, options](const Tensor<T, B>& in, MolePass<T, B>& own) {
        ResidualStream<T, B> within(in);
        run_block(blocks_[i], within, turn, options, own, nullptr);
        return within.value();
      };
      residual = ResidualStream<T, B>(this->through_block(blocks_[i].name, residual.value(), pass, run));
    }
    return norm(residual, norm_);
  }

 private:
  using CausalModel<T, B>::layers_;

  struct Block {
    std::string name;
    AttentionGroups attention;
    FeedForwardGroups feed_forward;
    std::vector<std::size_t> slots, biased;
    Tensor<T, B> attention_norm, feed_forward_norm;  ///< [d]
    Tensor<T, B> query_norm, key_norm;               ///< [D] or undefined

    bool has_bias(std::size_t slot) const {
      return std::find(biased.begin(), biased.end(), slot) != biased.end();
    }
  };

  Block add_block(Index number) {
    const auto& c = config_;
    auto& table = layers_.table;
    Block b;
    b.name = "model.layers." + std::to_string(number);
    const auto add = [&](const GroupPlace& place, const std::vector<SlotShape>& shapes, bool bias) {
      const std::size_t group = table.add_linear_group(place, shapes);
      for (const std::size_t slot : table.groups[group].slots) {
        b.slots.push_back(slot);
        if (bias) b.biased.push_back(slot);
      }
      return group;
    };
    const double deviation = c.initializer_range;
    GroupPlace place{b.name + ".self_attn", b.name, stream, stream, Context::prompt};
    const std::string attention = place.layer + ".";
    b.attention.queries = add(place,
                              {{attention + "q_proj", c.query_width(), c.hidden_size, deviation},
                               {attention + "k_proj", c.key_width(), c.hidden_size, deviation},
                               {attention + "v_proj", c.key_width(), c.hidden_size, deviation}},
                              c.qkv_bias);
    b.attention.output =
        add(place, {{attention + "o_proj", c.hidden_size, c.query_width(), deviation}}, c.output_bias);
    place.layer = b.name + ".mlp";
    const std::string mlp = place.layer + ".";
    b.feed_forward.input = add(place,
                               {{mlp + "gate_proj", c.intermediate_size, c.hidden_size, deviation},
                                {mlp + "up_proj", c.intermediate_size, c.hidden_size, deviation}},
                               c.mlp_bias);
    b.feed_forward.output =
        add(place, {{mlp + "down_proj", c.hidden_size, c.intermediate_size, deviation}}, c.mlp_bias);
    return b;
  }

  Compute<T> eps() const { return static_cast<Compute<T>>(config_.rms_norm_eps); }
  /// What a norm multiplies by.   weight [n]
  Tensor<T, B> factors(const Tensor<T, B>& weight) const {
    return config_.offset_norm ? shift(weight, Compute<T>(1)) : weight;
  }
  /// The norm of x [.., n], which makes a sum that waits; weight [n].
  Tensor<T, B> norm(ResidualStream<T, B>& x, const Tensor<T, B>& weight) const {
    return x.norm(factors(weight), eps());
  }

  /// Each head of x [S, L, heads D] by itself.
  Tensor<T, B> head_norm(const Tensor<T, B>& x, const Tensor<T, B>& weight) const {
    const auto heads = reshape(x, {x.size(0), x.size(1), -1, config_.head_dim});
    return reshape(rms_norm(heads, factors(weight), eps()), x.shape());
  }

  /// Adds what the block's two layers give to x [S, L, d].
  void run_block(const Block& block, ResidualStream<T, B>& x, const Rotation<T, B>& turn,
                 const AttentionOptions<T, B>& options, MolePass<T, B>& pass, BlockCache<T, B>* cache) const {
    const auto apply = this->group_apply(pass);
    x.add(attend(apply, block, norm(x, block.attention_norm), turn, options, cache));
    x.add(
        mole::feed_forward(apply, block.feed_forward, config_.activation, norm(x, block.feed_forward_norm)));
  }

  template <class F>
  Tensor<T, B> attend(const F& apply, const Block& block, const Tensor<T, B>& x, const Rotation<T, B>& turn,
                      const AttentionOptions<T, B>& options, BlockCache<T, B>* cache) const {
    auto qkv = apply(block.attention.queries, x);
    if (config_.qk_norm) {
      qkv[0] = head_norm(qkv[0], block.query_norm);
      qkv[1] = head_norm(qkv[1], block.key_norm);
    }
    auto [q, k] = rope(qkv[0], qkv[1], turn);
    auto& v = qkv[2];
    if (cache) cache->append(k, v);
    const Index times = config_.num_attention_heads / config_.num_key_value_heads;
    const auto y = attention(q, repeat_heads(k, config_.head_dim, times),
                             repeat_heads(v, config_.head_dim, times), options);
    return apply(block.attention.output, y).front();
  }

  LlamaConfig config_;
  TokenTable<T, B> embed_, head_;
  Tensor<T, B> norm_;
  Tensor<double, B> frequencies_;
  std::vector<Block> blocks_;
};

}  // namespace mole
