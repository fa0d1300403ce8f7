#pragma once
// Goldens of the losses and of linear composition.

#include <string>
#include <vector>

#include <golden_check/layer.hpp>
#include <golden_check/report.hpp>
#include <mole/autodiff/backward.hpp>
#include <mole/compose/compose.hpp>
#include <mole/loss/balance.hpp>
#include <mole/loss/clip_guidance.hpp>
#include <mole/loss/cross_entropy.hpp>
#include <mole/ops/softmax.hpp>

namespace golden {

/// The rounding of a loss is relative to its terms, which are of the order of 1, not to a sum near 0.
constexpr double loss_terms = 1;

/// balance_loss: gates, shares, the loss and its gradients.
template <class T, class B>
void check_balance(const Golden& golden) {
  const auto logits = golden.tensor<T, B>("logits").set_requires_grad(),
             tau = golden.tensor<T, B>("tau").set_requires_grad();
  MOLE_CHECK_FORMAT(logits.rank() == 3 && tau.size() == logits.size(0),
                    "logits and tau should be [M, S, N] and [M] but are", logits.shape(), "and", tau.shape());
  const Index M = logits.size(0), S = logits.size(1), N = logits.size(2);
  const auto gate = softmax(div(logits, reshape(tau, Shape{M, 1, 1})));
  std::vector<mole::GateSample<T, B>> samples;
  for (Index m = 0; m < M; ++m) samples.push_back({reshape(slice(gate, 0, m, m + 1), Shape{S, N}), {}, {}});
  const auto loss = balance_loss(samples, N);
  golden.compare("gate", gate, "gate");
  golden.compare("q", expert_shares(samples, N).q, "q");
  golden.compare("loss", loss, "loss", loss_terms);
  backward(loss);
  golden.compare("dlogits", logits.grad(), "dlogits");
  double terms = 1e-6;
  const auto z = golden.numbers("logits"), dz = golden.numbers("dlogits");
  for (std::size_t i = 0; i < std::min(z.size(), dz.size()); ++i) terms += std::abs(z[i] * dz[i]);
  golden.compare("dtau", tau.grad(), "dtau", terms / static_cast<double>(M));
}

/// t5_loss: token cross entropy, plain and with label smoothing.
template <class T, class B>
void check_cross_entropy(const Golden& golden) {
  const auto labels = golden.indices<B>("labels");
  mole::CrossEntropyOptions options;
  options.ignore_index = static_cast<Index>(golden.setting("ignore_index", -100));
  for (const bool smoothed : {false, true}) {
    const std::string suffix = smoothed ? "_smoothed" : "";
    if (smoothed) options.label_smoothing = golden.setting("label_smoothing", 0.1);
    golden.part("loss" + suffix, [&] {
      const auto logits = golden.tensor<T, B>("logits").set_requires_grad();
      const auto loss = cross_entropy(logits, labels, options);
      golden.compare("loss" + suffix, loss, "loss" + suffix, loss_terms);
      backward(loss);
      golden.compare("dlogits" + suffix, logits.grad(), "dlogits" + suffix);
    });
  }
}

/// clip_loss: global, directional and local guidance on embeddings.
template <class T, class B>
void check_clip_loss(const Golden& golden) {
  const auto direction =
      mole::clip_text_direction(golden.tensor<T, B>("target_texts"), golden.tensor<T, B>("source_texts"));
  auto check = [&](const std::string& quantity, const std::string& input, auto loss_of) {
    golden.part(quantity, [&] {
      const auto x = golden.tensor<T, B>(input).set_requires_grad();
      const auto loss = loss_of(x);
      golden.compare(quantity + "_loss", loss, quantity + "_loss", loss_terms);
      backward(loss);
      golden.compare("d_" + quantity, x.grad(), "d_" + quantity);
    });
  };
  check("global", "image", [&](const auto& x) { return clip_global_loss(x, golden.tensor<T, B>("text")); });
  check("direction", "image",
        [&](const auto& x) { return clip_directional_loss(x, golden.tensor<T, B>("source"), direction); });
  check("patch", "patches",
        [&](const auto& x) { return clip_patch_loss(x, golden.tensor<T, B>("source_patches"), direction); });
}

/// linear_composition: eq. 1, eq. 2 and LoRAHub's mixture of factors, as changes of the weight.
template <class T, class B>
void check_composition(const Golden& golden) {
  const auto experts = read_experts(golden);
  MOLE_CHECK_FORMAT(!experts.empty(), "there is no expert: scale is empty");
  const auto weights = golden.numbers("weights");
  MOLE_CHECK_FORMAT(weights.size() == experts.size(), "there are", weights.size(), "weights for",
                    experts.size(), "experts");
  const auto compare = [&](const std::string& name, const std::string& method, bool weighted, bool scaled) {
    std::vector<mole::LoraSet> sets;
    for (auto expert : experts) {
      if (!scaled) expert.scale = 1;
      sets.push_back({"expert " + std::to_string(sets.size()), "", {"layer"}, [expert](const std::string&) {
                        return expert;
                      }});
    }
    mole::ComposeOptions options;
    if (weighted) options.weights = weights;
    const auto change = mole::delta(mole::compose(method, sets, options).factors("layer"));
    golden.compare(name, std::vector<T>(change.begin(), change.end()), name);
  };
  compare("sum_delta", "sum", false, true);
  compare("normalised_delta", "normalised", true, true);
  compare("lorahub_delta", "lorahub", true, false);
}

}  // namespace golden
