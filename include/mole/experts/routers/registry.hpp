#pragma once
// Who decides how much of each expert a layer gets: MoLE's gates, or one of the routers they are compared
// with. A router is chosen by the type of its options, wherever experts are attached.

#include <concepts>
#include <cstdint>
#include <string>
#include <variant>

#include <mole/experts/gate.hpp>
#include <mole/ops/softmax.hpp>

namespace mole {

/// Arrow (Ostapenko et al. 2024): nothing trains; each layer and token chooses the experts whose main input
/// direction it points along. See nn/arrow.hpp.
struct ArrowOptions {
  Index top_k = 0;         ///< keep the k largest logits before the softmax; 0 keeps all
  double temperature = 1;  ///< what the logits are divided by
};

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

/// X-LoRA (Buehler & Buehler 2024): a classifier of the model's last hidden state scales the experts in a
/// second pass. See nn/xlora.hpp.
struct XLoraOptions {
  Scope scope = Scope::matrix;       ///< matrix: PEFT's layerwise scalings; network: one for all layers
  Pooling pooling = Pooling::token;  ///< token, or mean: one scaling a sequence
  Index depth = 1;                   ///< linear layers of the classifier
  Index width = 2048;                ///< of its hidden layers, if there are any
  bool softmax = true;               ///< else the classifier's outputs are the scalings
  double temperature = 1;            ///< what the softmax divides by
  Index top_k = 0;                   ///< keep the k largest; 0 keeps all
  Renormalize renormalize = Renormalize::none;
  double weight = 1;       ///< of all experts together, after everything else
  double first_pass = 0;   ///< every expert's scaling in the first pass; 0: the bare model
  std::uint64_t seed = 0;  ///< of the classifier's start
};

/// A router with its options: GateOptions means MoLE.
using RouterOptions = std::variant<GateOptions, ArrowOptions, XLoraOptions>;

/// The options of one router, or a choice made at run time.
template <class R>
concept RouterChoice = std::convertible_to<const R&, RouterOptions>;

/// mole, arrow or xlora.
inline const char* router_name(const RouterOptions& router) {
  constexpr const char* names[] = {"mole", "arrow", "xlora"};
  return names[router.index()];
}

/// A router by name with these policies: mole; hidden (the released code's: MoLE's gate on its scope's
/// input); arrow, which takes top-k and temperature of them; xlora, which takes scope, pooling, top-k and
/// temperature. Throws ArgumentError naming the choices.
inline RouterOptions router_named(const std::string& name, GateOptions policies) {
  if (name == "mole") return policies;
  if (name == "hidden") {
    policies.input = GateInput::hidden;
    return policies;
  }
  if (name == "arrow") return ArrowOptions{policies.top_k, policies.temperature};
  if (name == "xlora") {
    XLoraOptions options;
    options.scope = policies.scope;
    options.pooling = policies.pooling;
    options.top_k = policies.top_k;
    options.temperature = policies.temperature;
    return options;
  }
  throw ArgumentError("unknown router \"" + name + "\": choose mole, hidden, arrow or xlora");
}
/// The same with each router's own defaults.
inline RouterOptions router_named(const std::string& name) {
  if (name == "arrow") return ArrowOptions{};
  if (name == "xlora") return XLoraOptions{};
  return router_named(name, GateOptions{});
}

namespace detail {

inline GateOptions policies_of(const GateOptions& options) { return options; }
inline GateOptions policies_of(const ArrowOptions& options) {
  return {.scope = Scope::matrix,
          .pooling = Pooling::token,
          .top_k = options.top_k,
          .temperature = options.temperature};
}
inline GateOptions policies_of(const XLoraOptions& options) {
  return {.scope = options.scope,
          .input = GateInput::hidden,
          .pooling = options.pooling,
          .top_k = options.top_k,
          .temperature = options.temperature};
}

inline void check_own_options(const GateOptions& options) {
  MOLE_CHECK_ARG(options.pooling != Pooling::flatten || options.length > 0,
                 "attach: flatten pooling needs the number of tokens (GateOptions::length)");
}
inline void check_own_options(const ArrowOptions&) {}
inline void check_own_options(const XLoraOptions& options) {
  MOLE_CHECK_ARG(options.pooling != Pooling::flatten,
                 "attach: X-LoRA scales tokens, or with mean pooling sequences; flatten is not for it");
  MOLE_CHECK_ARG(options.depth >= 1 && (options.depth == 1 || options.width >= 1),
                 "attach: X-LoRA's classifier needs a depth and a width of at least 1, got", options.depth,
                 "and", options.width);
  MOLE_CHECK_ARG(options.softmax || options.renormalize != Renormalize::sum,
                 "attach: X-LoRA's scalings without a softmax may sum to zero or less; choose another "
                 "Renormalize than sum");
}

/// 1 for the experts that count in each row of logits [.., N]: those of keep [N], and of them the top_k
/// largest. Undefined: all count.
template <class T, class B>
Tensor<T, B> counted_experts(const Tensor<T, B>& logits, const Tensor<T, B>& keep, Index top_k) {
  if (top_k <= 0 || top_k >= logits.size(-1)) return keep;
  // The logarithm of the softmax is ordered as the logits and is -infinity where an expert is masked.
  const auto largest = top_k_mask(log_softmax(logits.detach(), keep), top_k);
  return keep.defined() ? mul(largest, keep) : largest;
}

}  // namespace detail

/// The policies by which a router's gates are placed in a model: its scope, input and pooling.
inline GateOptions policies_of(const RouterOptions& router) {
  return std::visit([](const auto& options) { return detail::policies_of(options); }, router);
}

/// Throws ArgumentError for top-k outside [0, n_experts], a temperature not above 0, or options of the router
/// that do not fit together.
inline void check_router(const RouterOptions& router, Index n_experts) {
  const auto policies = policies_of(router);
  MOLE_CHECK_ARG(policies.top_k >= 0 && policies.top_k <= n_experts, "attach: top-k", policies.top_k,
                 "is not in [0,", n_experts, "]");
  MOLE_CHECK_ARG(policies.temperature > 0, "attach: expected a temperature above 0, got",
                 policies.temperature);
  std::visit([](const auto& options) { detail::check_own_options(options); }, router);
}

}  // namespace mole
