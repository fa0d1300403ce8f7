#pragma once
// X-LoRA (Buehler & Buehler 2024): two passes. The first, with all experts at one constant scaling (at 0 the
// bare model), gives the last hidden state; a classifier of it scales the experts in the second.
//
//   z     the last hidden state of the first pass [S, L, d], a constant: no gradient flows through it;
//         it may be standardised, (z - mean) / (sd sqrt(d)): see gate_scale.hpp
//   g     softmax(classifier(z) / temperature), one for each gate, then top-k, then times `weight`
//
// As PEFT 0.21, with these choices: an expert that a gate does not hold takes no share of its softmax (PEFT's
// is over all); there is no dropout in the classifier; top-k is left out of the first pass.
// For an encoder-decoder, which PEFT does not offer: z is the encoder's output. Layers that read its tokens
// (the encoder, and cross-attention's k and v) are scaled token by token; the decoder's own layers by
// the classifier of z's mean over the real tokens, one scaling a sequence, known before decoding starts.

#include <array>
#include <cmath>
#include <cstdint>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <mole/experts/routers/router.hpp>
#include <mole/ops/matmul.hpp>
#include <mole/ops/reduce.hpp>

namespace mole {

template <class T, class B>
class XLoraRouter;

/// What becomes of the gates that top-k leaves: as they are, over their sum, or a softmax of the gates
/// themselves (PEFT's enable_softmax_topk).
enum class Renormalize { none, sum, softmax };

/// none, sum or softmax.
inline const char* to_string(Renormalize how) {
  constexpr const char* names[] = {"none", "sum", "softmax"};
  return names[static_cast<int>(how)];
}

/// Throws ArgumentError naming the choices.
inline Renormalize parse_renormalize(const std::string& text) {
  for (const auto how : {Renormalize::none, Renormalize::sum, Renormalize::softmax})
    if (text == to_string(how)) return how;
  throw ArgumentError("unknown way to renormalise \"" + text + "\": choose none, sum or softmax");
}

inline void from_text(const std::string& text, Renormalize& how) { how = parse_renormalize(text); }

/// A classifier of the model's last hidden state scales the experts in a second pass.
struct XLoraOptions {
  Scope scope = Scope::matrix;       ///< matrix: PEFT's layerwise scalings; network: one for all layers
  Pooling pooling = Pooling::token;  ///< token, or mean: one scaling a sequence
  Index depth = 1;                   ///< linear layers of the classifier
  Index width = 2048;                ///< of its hidden layers, if there are any
  bool softmax = true;               ///< else the classifier's outputs are the scalings
  double temperature = 1;            ///< what the softmax divides by
  Index top_k = 0;                   ///< keep the k largest; 0 keeps all; 1: see xlora_weights
  Renormalize renormalize = Renormalize::none;
  double weight = 1;       ///< of all experts together, after everything else
  double first_pass = 0;   ///< every expert's scaling in the first pass; 0: the bare model
  std::uint64_t seed = 0;  ///< of the classifier's start
  /// unit: z as it is. Else the model must measure it before it is used: standardise_gates(batches).
  InputScale input_scale = InputScale::unit;

  static constexpr const char* name = "xlora";
  static constexpr std::array names{"xlora"};
  template <class T, class B>
  using Router = XLoraRouter<T, B>;

  static XLoraOptions with(std::string_view, const GatePlacement& placement, double temperature) {
    XLoraOptions options;
    options.scope = placement.scope;
    options.pooling = placement.pooling;
    options.top_k = placement.top_k;
    options.temperature = temperature;
    options.input_scale = placement.input_scale;
    return options;
  }
  GatePlacement placement() const {
    return {.scope = scope,
            .input = GateInput::hidden,
            .pooling = pooling,
            .top_k = top_k,
            .input_scale = input_scale};
  }
  void check() const {
    detail::check_temperature(temperature);
    MOLE_CHECK_ARG(pooling != Pooling::flatten,
                   "attach: X-LoRA scales tokens, or with mean pooling sequences; flatten is not for it");
    MOLE_CHECK_ARG(depth >= 1 && depth <= 1000 && (depth == 1 || width >= 1),
                   "attach: X-LoRA's classifier needs a depth from 1 to 1000 and a width of at least 1, got",
                   depth, "and", width);
    MOLE_CHECK_ARG(softmax || renormalize != Renormalize::sum,
                   "attach: X-LoRA's scalings without a softmax may sum to zero or less; choose another "
                   "Renormalize than sum");
  }
  /// The balance loss needs shares of one.
  void check_shares() const {
    MOLE_CHECK_ARG(softmax,
                   "X-LoRA's scalings without a softmax are no shares of one, so there is no balance loss; "
                   "set XLoraOptions::softmax, or train without it");
  }
  /// The seed of the start is not kept.
  template <class Self, class F>
  static void fields(Self& self, F f) {
    f("scope", self.scope);
    f("pooling", self.pooling);
    f("depth", self.depth);
    f("width", self.width);
    f("softmax", self.softmax);
    f("temperature", self.temperature);
    f("top_k", self.top_k);
    f("renormalize", self.renormalize);
    f("weight", self.weight);
    f("first_pass", self.first_pass);
    f("input_scale", self.input_scale, 3);
  }
};

/// What becomes of the classifier's outputs for one gate.    logits [.., N], keep [N] or undefined: experts
/// of 0 get nothing and, with a softmax, the rest are renormalised. `dense` is before top-k and `weight`: it
/// sums to 1 if options.softmax is set, as the balance loss expects. The choice of the k is a constant. With
/// top-1 and a way to renormalise, the one weight is constant: it gets the gradient that it would have without
/// renormalising (straight through), so that the classifier can be trained.
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
  if (options.top_k == 1 && options.renormalize != Renormalize::none && logits.size(-1) > 1)
    weights = straight_through(weights, mul(dense, counted));
  return {options.weight == 1 ? weights : scale(weights, static_cast<Compute<T>>(options.weight)), dense};
}

/// The classifier: `depth` linear layers with biases and ReLU between them, a column for each expert of each
/// gate. It trains; all else is frozen.
template <class T, class B>
class XLoraRouter {
 public:
  static constexpr bool two_passes = true;

  /// Parameters start uniform in +-1/sqrt(inputs), as PEFT's do.
  XLoraRouter(const XLoraOptions& options, const RouterSite<T, B>& site) : options_(options) {
    Index columns = 0;
    for (const auto& placed : site.gates) {
      begins_.push_back(columns);
      columns += placed.gate.n_experts();
    }
    begins_.push_back(columns);
    Generator generator{options.seed};
    Index from = 0;
    for (const auto& [name, shape] : layers(options, site)) {
      if (shape.rank() == 2) from = shape[1];
      const double bound = 1 / std::sqrt(static_cast<double>(from));
      parameters_.push_back(Tensor<T, B>::uniform(shape, generator.next(), bound).set_requires_grad());
    }
    scale_ = unmeasured_scale<T, B>(options.input_scale, site.table.hidden);
  }

  /// Weight [to, from] and bias [to] of each layer in order; with an input scale, that.
  static std::vector<NamedShape> shapes(const XLoraOptions& options, const RouterSite<T, B>& site) {
    auto list = layers(options, site);
    if (options.input_scale == InputScale::unit) return list;
    const Index d = site.table.hidden;
    list.push_back({"classifier.input_mean", Shape{d}});
    list.push_back({"classifier.input_factor", factor_shape(options.input_scale, d)});
    return list;
  }

  std::vector<Tensor<T, B>> tensors() const {
    auto list = parameters_;
    if (scale_.defined()) list.insert(list.end(), {scale_.mean, scale_.factor});
    return list;
  }
  std::vector<GateScale<T, B>> scales() const {
    return scale_.defined() ? std::vector{scale_} : std::vector<GateScale<T, B>>();
  }

  /// Every expert's weight in the first pass; 0: the bare model.
  double first_pass() const { return options_.first_pass * options_.weight; }

  /// The weights of all gates from the first pass's last hidden state z [S, L, d], a constant; mask [S, L] or
  /// undefined; keep: by gate, [N] or undefined. Gates without a row a token take z's mean over real tokens.
  std::vector<GateValue<T, B>> classify(const Tensor<T, B>& z, const Tensor<T, B>& mask,
                                        const std::vector<PlacedGate<T, B>>& gates,
                                        const std::vector<Tensor<T, B>>& keep) const {
    Tensor<T, B> tokens, mean;
    std::vector<GateValue<T, B>> values;
    for (std::size_t i = 0; i < gates.size(); ++i) {
      auto& all = gates[i].by_token ? tokens : mean;
      if (!all.defined()) {
        const auto read = gates[i].by_token ? z.detach() : pool_tokens(z.detach(), mask, Pooling::mean);
        all = logits(scale_.defined() ? mul(sub(read, scale_.mean), scale_.factor) : read);
      }
      const bool only = gates.size() == 1;
      values.push_back(
          xlora_weights(only ? all : slice(all, -1, begins_[i], begins_[i + 1]), options_, keep[i]));
    }
    return values;
  }

 private:
  static std::vector<NamedShape> layers(const XLoraOptions& options, const RouterSite<T, B>& site) {
    MOLE_CHECK_ARG(site.table.hidden > 0,
                   "attach: this model has no last hidden state that X-LoRA could read");
    Index columns = 0;
    for (const auto& placed : site.gates) columns += placed.gate.n_experts();
    std::vector<NamedShape> list;
    for (Index i = 0; i < options.depth; ++i) {
      const Index from = i == 0 ? site.table.hidden : options.width;
      const Index to = i + 1 == options.depth ? columns : options.width;
      const std::string layer = "classifier." + std::to_string(i);
      list.push_back({layer + ".weight", Shape{to, from}});
      list.push_back({layer + ".bias", Shape{to}});
    }
    return list;
  }

  /// The outputs for all gates, z [.., d] to [.., sum of n_experts].    Throws ShapeError.
  Tensor<T, B> logits(Tensor<T, B> z) const {
    for (std::size_t i = 0; i < parameters_.size(); i += 2)
      z = linear(i == 0 ? z : relu(z), parameters_[i], parameters_[i + 1]);
    return z;
  }

  XLoraOptions options_;
  std::vector<Index> begins_;
  std::vector<Tensor<T, B>> parameters_;
  GateScale<T, B> scale_;
};

}  // namespace mole
