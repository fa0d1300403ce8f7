#pragma once
// CLIP's text tower, alone as Stable Diffusion's text encoder or with its projection.

#include <string>
#include <utility>
#include <vector>

#include <mole/models/clip/tower.hpp>
#include <mole/models/expert_model.hpp>
#include <mole/ops/gather.hpp>

namespace mole {

namespace detail {

/// end[s]: where text s ends among the rows of all texts, as ClipText::pooled() says.
struct TextEndRow {
  const Index* ids;
  Index* end;
  Index length, eos;

  template <class Row>
  MOLE_HD void operator()(const Row& row) const {
    const Index first = row.index() * length, n = length, wanted = eos;
    const Index* const text = ids + first;
    Index* const to = end + row.index();
    row.each(1, [=](Index) {
      Index found = 0;
      for (Index l = n - 1; l >= 0; --l)
        if (wanted == 2 ? text[l] >= text[found] : text[l] == wanted) found = l;
      *to = first + found;
    });
  }
};

}  // namespace detail

/// The text tower under the names of transformers' CLIPModel (text_model. ...). Experts can be attached to
/// it.
template <class T, class B>
class ClipText : public ExpertModel<T, B>, public HasParameters<ClipText<T, B>> {
 public:
  /// A tower without weights: fill every tensor that visit() shows. Throws ArgumentError for a bad config.
  explicit ClipText(ClipTextConfig config)
      : config_(std::move(config)), tower_(layers_.table, config_, "text_model.encoder.layers") {
    const auto& c = config_;
    MOLE_CHECK_ARG(c.vocabulary > 0 && c.positions > 0 && c.projection >= 0,
                   "ClipText: vocabulary and positions must be positive");
    auto& table = layers_.table;
    table.streams = {"text"};
    table.hidden = c.hidden;
    if (c.projection > 0)
      projection_ = table.add_group({.outside = true}, {{"text_projection", c.projection, c.hidden,
                                                         1 / std::sqrt(static_cast<double>(c.hidden))}});
  }

  const ClipTextConfig& config() const { return config_; }

  /// f(name, shape, start, tensor) for every parameter: see HasParameters.
  template <class F>
  void each_parameter(F f) {
    const auto& c = config_;
    f("text_model.embeddings.token_embedding.weight", Shape{c.vocabulary, c.hidden}, ParameterStart{0, 0.02},
      tokens_);
    f("text_model.embeddings.position_embedding.weight", Shape{c.positions, c.hidden},
      ParameterStart{0, 0.01}, positions_);
    tower_.visit(f);
    final_norm_.visit("text_model.final_layer_norm", c.hidden, f);
    visit_slots(layers_.table, f);
  }

  /// The last hidden states [S, L, d], normed; ids [S, L], L at most the number of positions. Every token
  /// sees those before it; padding is no different from other tokens.
  /// Throws ShapeError for too many tokens or an id outside the vocabulary.
  Tensor<T, B> states(const Tensor<Index, B>& ids, MolePass<T, B>& pass) const {
    MOLE_CHECK_SHAPE(ids.rank() == 2 && ids.size() > 0 && ids.size(1) <= config_.positions,
                     "ClipText: expected ids [S, L] with at most", config_.positions, "tokens, got",
                     ids.shape());
    return this->in_passes(ids.size(0), pass, [&](MolePass<T, B>& own) {
      const auto apply = [&](std::size_t group, const Tensor<T, B>& x) { return layers_(group, x, own); };
      const auto x = add(embedding(tokens_, ids), slice(positions_, 0, 0, ids.size(1)));
      return tower_.norm(tower_(apply, x, true), final_norm_);
    });
  }

  /// The state [S, d] at the end of each text: where eos_token_id is 2 at the first of the largest ids, else
  /// at the first id that equals it, or at the first token where none does.    Throws ShapeError.
  Tensor<T, B> pooled(const Tensor<T, B>& states, const Tensor<Index, B>& ids) const {
    MOLE_CHECK_SHAPE(states.rank() == 3 && ids.shape() == Shape({states.size(0), states.size(1)}),
                     "ClipText: expected states [S, L, d] and ids [S, L], got", states.shape(), "and",
                     ids.shape());
    const Index S = ids.size(0), L = ids.size(1);
    const auto ends = Tensor<Index, B>::empty({S});
    B::for_rows(S, 1, detail::TextEndRow{ids.data(), ends.data(), L, config_.eos_token_id});
    ends.set_index_bound(S * L);
    return gather(reshape(states, {S * L, -1}), ends);
  }

  /// The projected text features [S, projection], not normalised. Throws ArgumentError for a tower without a
  /// projection, ShapeError as states() does.
  Tensor<T, B> features(const Tensor<Index, B>& ids, MolePass<T, B>& pass) const {
    MOLE_CHECK_ARG(config_.projection > 0,
                   "ClipText: this tower has no projection; use states() or pooled()");
    const auto one = pooled(states(ids, pass), ids);
    return reshape(layers_(projection_, reshape(one, {one.size(0), 1, -1}), pass).front(), {one.size(0), -1});
  }

 private:
  using ExpertModel<T, B>::layers_;

  ClipTextConfig config_;
  ClipTower<T, B> tower_;
  std::size_t projection_ = 0;
  Tensor<T, B> tokens_, positions_;
  AffineNorm<T, B> final_norm_;
};

}  // namespace mole
