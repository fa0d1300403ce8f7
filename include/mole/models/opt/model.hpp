#pragma once
// OPT (Zhang et al. 2022) over slots that can be frozen, train one LoRA, or mix N experts.
//
//   x += out(attention(q h, k h, v h)),  h = norm(x)     learned positions, biases everywhere
//   x += fc2(relu(fc1 h)),               h = norm(x)     in 350m: x = norm(x + ..)

#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include <mole/models/causal/model.hpp>
#include <mole/models/opt/config.hpp>
#include <mole/nn/feed_forward.hpp>
#include <mole/ops/norm.hpp>
#include <mole/ops/token_positions.hpp>

namespace mole {

/// A decoder-only model with the parameter names of its Hugging Face checkpoint.
template <class T, class B>
class Opt final : public CausalModel<T, B> {
 public:
  using typename CausalModel<T, B>::Visitor;
  using CausalModel<T, B>::stream;
  /// The row of the table of positions that a text's first token reads, and the one of padding.
  static constexpr PositionRule position_rule{2, 1};

  /// A model without weights: fill every tensor that visit() shows. Throws ArgumentError for a bad config.
  explicit Opt(OptConfig config) : config_(std::move(config)) {
    const auto& c = config_;
    MOLE_CHECK_ARG(c.vocab_size > 0 && c.hidden_size > 0 && c.ffn_dim > 0 && c.num_hidden_layers > 0 &&
                       c.num_attention_heads > 0 && c.word_embed_proj_dim > 0 &&
                       c.max_position_embeddings > 0,
                   "Opt: every size in the configuration must be positive");
    MOLE_CHECK_ARG(c.hidden_size % c.num_attention_heads == 0, "Opt: hidden_size", c.hidden_size,
                   "is no multiple of num_attention_heads", c.num_attention_heads);
    auto& table = layers_.table;
    table.hidden = c.word_embed_proj_dim;
    const GroupPlace outside{"", "", stream, stream, Context::prompt};
    const double deviation = c.initializer_range;
    if (c.projects())
      project_in_ = table.add_group(
          outside, {{"model.decoder.project_in", c.hidden_size, c.word_embed_proj_dim, deviation}});
    for (Index i = 0; i < c.num_hidden_layers; ++i) blocks_.push_back(add_block(i));
    if (c.projects())
      project_out_ = table.add_group(
          outside, {{"model.decoder.project_out", c.word_embed_proj_dim, c.hidden_size, deviation}});
  }

  const OptConfig& config() const override { return config_; }
  void set_tokens(Index bos, Index pad, std::vector<Index> ends) override {
    config_.bos_token_id = bos;
    config_.pad_token_id = pad;
    config_.eos_token_ids = std::move(ends);
  }
  FrozenWeight<T, B> head() const override { return config_.tie_word_embeddings ? embed_ : head_; }

  void each_parameter(const Visitor& f) override {
    const auto& c = config_;
    const std::string decoder = "model.decoder.";
    const ParameterStart normal{0, c.initializer_range};
    const Shape table{c.vocab_size, c.word_embed_proj_dim};
    f(decoder + "embed_tokens.weight", table, normal, embed_);
    f(decoder + "embed_positions.weight",
      Shape{c.max_position_embeddings + position_rule.first, c.hidden_size}, normal, positions_);
    for (auto& slot : layers_.table.slots) {
      f(slot.name + ".weight", slot.shape, normal, slot.weight);
      if (!layers_.table.groups[slot.group].place.block.empty())
        f(slot.name + ".bias", Shape{slot.shape[0]}, ParameterStart{}, slot.bias);
    }
    for (auto& block : blocks_) {
      block.attention_norm.visit(block.name + ".self_attn_layer_norm", c.hidden_size, f);
      block.feed_forward_norm.visit(block.name + ".final_layer_norm", c.hidden_size, f);
    }
    if (has_final_norm()) norm_.visit(decoder + "final_layer_norm", c.hidden_size, f);
    if (!c.tie_word_embeddings) f("lm_head.weight", table, normal, head_);
  }

 protected:
  Tensor<T, B> hidden(const Tensor<Index, B>& ids, const Tensor<T, B>& mask, MolePass<T, B>& pass,
                      KvCache<T, B>* cache) const override {
    const auto& c = config_;
    if (cache) cache->resize(blocks_.size());
    const auto apply = this->group_apply(pass);
    const Index S = ids.size(0), L = ids.size(1), n = L + (cache ? cache->front().length() : 0);
    const double width = static_cast<double>(c.hidden_size / c.num_attention_heads);
    const AttentionOptions<T, B> options{.heads = c.num_attention_heads,
                                         .scale = static_cast<Compute<T>>(1 / std::sqrt(width)),
                                         .key_mask = mask,
                                         .causal = true};
    auto x = embedding(embed_, ids);
    if (c.projects()) x = apply(project_in_, x).front();
    x = add(x, embedding(positions_, token_positions(S, n, L, mask, position_rule)));
    for (std::size_t i = 0; i < blocks_.size(); ++i) {
      const auto run = [this, i, options, kept = cache ? &(*cache)[i] : nullptr](const Tensor<T, B>& in,
                                                                                 MolePass<T, B>& own) {
        return block_output(blocks_[i], in, options, own, kept);
      };
      x = cache ? run(x, pass) : this->through_block(blocks_[i].name, x, pass, run);
    }
    if (has_final_norm()) x = layer_norm(x, norm_.weight, norm_.bias);
    return c.projects() ? apply(project_out_, x).front() : x;
  }

 private:
  using CausalModel<T, B>::layers_;

  using Norm = AffineNorm<T, B>;
  struct Block {
    std::string name;
    AttentionGroups attention;
    FeedForwardGroups feed_forward;
    Norm attention_norm, feed_forward_norm;
  };

  Tensor<T, B> block_output(const Block& block, Tensor<T, B> x, const AttentionOptions<T, B>& options,
                            MolePass<T, B>& pass, BlockCache<T, B>* cache) const {
    const auto apply = this->group_apply(pass);
    const bool first = config_.norm_before;
    const auto in_norm = [&](const Tensor<T, B>& y, const Norm& norm, bool here) {
      return here ? layer_norm(y, norm.weight, norm.bias) : y;
    };
    x = add(x,
            self_attention(apply, block.attention, in_norm(x, block.attention_norm, first), options, cache));
    x = in_norm(x, block.attention_norm, !first);
    x = add(x, mole::feed_forward(apply, block.feed_forward, config_.activation,
                                  in_norm(x, block.feed_forward_norm, first)));
    return in_norm(x, block.feed_forward_norm, !first);
  }

  bool has_final_norm() const { return config_.norm_before && config_.final_norm; }

  Block add_block(Index number) {
    const auto& c = config_;
    auto& table = layers_.table;
    Block b;
    b.name = "model.decoder.layers." + std::to_string(number);
    const Index d = c.hidden_size;
    const double deviation = c.initializer_range;
    GroupPlace place{b.name + ".self_attn", b.name, stream, stream, Context::prompt};
    const std::string attention = place.layer + ".";
    b.attention.queries = table.add_group(place, {{attention + "q_proj", d, d, deviation},
                                                  {attention + "k_proj", d, d, deviation},
                                                  {attention + "v_proj", d, d, deviation}});
    b.attention.output = table.add_group(place, {{attention + "out_proj", d, d, deviation}});
    // The two have no name in common.
    place.layer = b.name + ".fc";
    b.feed_forward.input = table.add_group(place, {{b.name + ".fc1", c.ffn_dim, d, deviation}});
    b.feed_forward.output = table.add_group(place, {{b.name + ".fc2", d, c.ffn_dim, deviation}});
    return b;
  }

  OptConfig config_;
  Tensor<T, B> embed_, positions_, head_;
  Norm norm_;
  std::size_t project_in_ = 0, project_out_ = 0;
  std::vector<Block> blocks_;
};

}  // namespace mole
