#pragma once
// The blocks that both towers of a CLIP are made of (Radford et al. 2021):
//   x += out_proj(attention(q, k, v of layer_norm1(x)))
//   x += fc2(act(fc1(layer_norm2(x))))

#include <cmath>
#include <string>
#include <vector>

#include <mole/models/clip/config.hpp>
#include <mole/models/parameters.hpp>
#include <mole/nn/feed_forward.hpp>
#include <mole/ops/norm.hpp>

namespace mole {

/// A pre-norm transformer over slots of a table.
template <class T, class B>
class ClipTower {
 public:
  /// Adds the blocks' slots under `prefix`, such as text_model.encoder.layers. Throws ArgumentError for sizes
  /// that are not positive or heads that do not divide the width.
  ClipTower(SlotTable<T, B>& table, ClipTowerConfig config, const std::string& prefix)
      : config_(std::move(config)) {
    const auto& c = config_;
    MOLE_CHECK_ARG(c.hidden > 0 && c.intermediate > 0 && c.layers > 0 && c.heads > 0, "Clip:", prefix,
                   "every size of the tower must be positive");
    MOLE_CHECK_ARG(c.hidden % c.heads == 0, "Clip:", prefix, "a width of", c.hidden, "does not divide into",
                   c.heads, "heads");
    for (Index i = 0; i < c.layers; ++i)
      blocks_.push_back(add_block(table, prefix + "." + std::to_string(i)));
  }

  /// x after all blocks.  x [S, L, d]; causal: a token sees those before it; apply as self_attention takes
  /// it.
  template <GroupApply<T, B> F>
  Tensor<T, B> operator()(const F& apply, Tensor<T, B> x, bool causal) const {
    const double width = static_cast<double>(config_.hidden / config_.heads);
    const AttentionOptions<T, B> options{
        config_.heads, static_cast<Compute<T>>(1 / std::sqrt(width)), {}, {}, causal};
    for (const auto& block : blocks_) {
      x = add(x, self_attention(apply, block.self, norm(x, block.norm1), options));
      x = add(x, mole::feed_forward(apply, block.feed_forward, config_.activation, norm(x, block.norm2)));
    }
    return x;
  }

  /// x standardised, times weight, plus bias.  x [.., d]
  Tensor<T, B> norm(const Tensor<T, B>& x, const AffineNorm<T, B>& affine) const {
    return layer_norm(x, affine.weight, affine.bias, static_cast<Compute<T>>(config_.layer_norm_eps));
  }

  /// f(name, shape, start, tensor) for the norms of the blocks.
  template <class F>
  void visit(F f) {
    for (auto& block : blocks_) {
      block.norm1.visit(block.name + ".layer_norm1", config_.hidden, f);
      block.norm2.visit(block.name + ".layer_norm2", config_.hidden, f);
    }
  }

 private:
  struct Block {
    std::string name;
    AttentionGroups self;
    FeedForwardGroups feed_forward;
    AffineNorm<T, B> norm1, norm2;
  };

  Block add_block(SlotTable<T, B>& table, const std::string& name) {
    const Index d = config_.hidden, wide = config_.intermediate;
    const auto slot = [](const std::string& of, Index d_out, Index d_in) {
      return SlotShape{of, d_out, d_in, 1 / std::sqrt(static_cast<double>(d_in)), {}, true};
    };
    Block block{name, {}, {}, {}, {}};
    // All tokens of a text are read, padding included, as Stable Diffusion does.
    GroupPlace place{.layer = name + ".self_attn", .block = name, .context = Context::all};
    const std::string attention = place.layer + ".";
    block.self.queries =
        table.add_group(place, {slot(attention + "q_proj", d, d), slot(attention + "k_proj", d, d),
                                slot(attention + "v_proj", d, d)});
    block.self.output = table.add_group(place, {slot(attention + "out_proj", d, d)});
    place.layer = name + ".mlp";
    block.feed_forward.input = table.add_group(place, {slot(name + ".mlp.fc1", wide, d)});
    block.feed_forward.output = table.add_group(place, {slot(name + ".mlp.fc2", d, wide)});
    return block;
  }

  ClipTowerConfig config_;
  std::vector<Block> blocks_;
};

}  // namespace mole
