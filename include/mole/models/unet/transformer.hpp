#pragma once
// The transformer of a UNet's level: image tokens attend to each other, then to the text.

#include <cmath>
#include <string>
#include <utility>

#include <mole/models/unet/resnet.hpp>
#include <mole/nn/attention_layer.hpp>
#include <mole/ops/geglu.hpp>
#include <mole/ops/norm.hpp>

namespace mole {

/// A Transformer2DModel of one block:
///   y = proj_in(norm x); y += attn1(norm1 y); y += attn2(norm2 y, text); y += ff(norm3 y); x + proj_out(y)
/// Its scopes: the block `NAME.transformer_blocks.0` with the layers attn1, attn2 and ff; proj_in and
/// proj_out are outside.
template <class T, class B>
class ImageTransformer {
 public:
  /// Adds its slots under `name`. place: of the projections, outside the scopes; text_stream: the stream of
  /// what attn2's k and v read.
  ImageTransformer(SlotTable<T, B>& table, const GroupPlace& place, std::string name, Index channels,
                   Index heads, Index text_width, std::size_t text_stream, bool linear_projection)
      : name_(std::move(name)), channels_(channels), heads_(heads) {
    const Index C = channels;
    const auto projection = [&](const std::string& slot) {
      return linear_projection ? linear_slot(slot, C, C) : pointwise_slot(slot, C, C);
    };
    const std::string block = name_ + ".transformer_blocks.0";
    proj_in_ = table.add_group(place, {projection(name_ + ".proj_in")});
    GroupPlace inner = place;
    inner.outside = false;
    inner.block = block;
    inner.layer = block + ".attn1";
    const auto bare = [&](const std::string& slot, Index d_in) { return linear_slot(slot, C, d_in, false); };
    self_.queries = table.add_group(inner, {bare(inner.layer + ".to_q", C), bare(inner.layer + ".to_k", C),
                                            bare(inner.layer + ".to_v", C)});
    self_.output = table.add_group(inner, {linear_slot(inner.layer + ".to_out.0", C, C)});
    inner.layer = block + ".attn2";
    cross_.queries = table.add_group(inner, {bare(inner.layer + ".to_q", C)});
    auto text = inner;
    text.stream = text_stream;
    cross_.memory = table.add_group(
        text, {bare(inner.layer + ".to_k", text_width), bare(inner.layer + ".to_v", text_width)});
    cross_.output = table.add_group(inner, {linear_slot(inner.layer + ".to_out.0", C, C)});
    inner.layer = block + ".ff";
    wide_ = table.add_group(inner, {linear_slot(inner.layer + ".net.0.proj", 8 * C, C)});
    narrow_ = table.add_group(inner, {linear_slot(inner.layer + ".net.2", C, 4 * C)});
    proj_out_ = table.add_group(place, {projection(name_ + ".proj_out")});
  }

  /// x [S, H, W, C], text [S, L, d], result like x
  template <class F>
  Tensor<T, B> operator()(const F& apply, const Tensor<T, B>& x, const Tensor<T, B>& text,
                          Index groups) const {
    const AttentionOptions<T, B> options{
        heads_, static_cast<Compute<T>>(1 / std::sqrt(static_cast<double>(channels_ / heads_)))};
    auto y = apply(proj_in_, pixels_as_tokens(group_norm(x, norm_, {groups, 1e-6}))).front();
    y = add(y, self_attention(apply, self_, normed(y, norm1_), options));
    // The queries come first: a gate of the layer may read its own tokens there.
    const auto q = apply(cross_.queries, normed(y, norm2_)).front();
    const auto kv = apply(cross_.memory, text);
    y = add(y, apply(cross_.output, attention(q, kv[0], kv[1], options)).front());
    y = add(y, apply(narrow_, geglu(apply(wide_, normed(y, norm3_)).front())).front());
    return add(reshape(apply(proj_out_, y).front(), x.shape()), x);
  }

  /// f(name, shape, start, tensor) for its norms.
  template <class F>
  void visit(F f) {
    norm_.visit(name_ + ".norm", channels_, f);
    const std::string block = name_ + ".transformer_blocks.0";
    norm1_.visit(block + ".norm1", channels_, f);
    norm2_.visit(block + ".norm2", channels_, f);
    norm3_.visit(block + ".norm3", channels_, f);
  }
  const std::string& name() const { return name_; }

 private:
  static Tensor<T, B> normed(const Tensor<T, B>& y, const AffineNorm<T, B>& affine) {
    return layer_norm(y, affine.weight, affine.bias);
  }

  std::string name_;
  Index channels_, heads_;
  std::size_t proj_in_ = 0, proj_out_ = 0, wide_ = 0, narrow_ = 0;
  AttentionGroups self_, cross_;
  AffineNorm<T, B> norm_, norm1_, norm2_, norm3_;
};

}  // namespace mole
