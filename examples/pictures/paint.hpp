#pragma once
// Pictures by each way to combine experts.

#include <cmath>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <mole/compose/linear.hpp>
#include <mole/compose/svdiff.hpp>
#include <mole/models/diffusion/lora_composite.hpp>

#include "pictures/fusion.hpp"
#include "pictures/gates.hpp"

namespace pictures {

/// What painting says of its steps.
template <class B>
using Look = std::function<void(std::size_t first, const mole::SampledStep<Scalar, B>& step)>;

/// What pictures are painted of and with.
struct Paintings {
  std::vector<Scene> scenes;
  std::vector<Index> subjects;  ///< of the experts, in their order
  Index steps = 20;
  std::uint64_t seed = 9;       ///< of the noise
  std::size_t first_noise = 0;  ///< the number of the first picture's noise
};

/// Pictures of a batch. Those of a core stay in its cache; a GPU has room for all of a study.
template <class B>
std::size_t paint_batch() {
  return std::string(B::name) == "cpu" ? 6 : 64;
}

/// The experts of a study: LoRAs, and what other methods need of the same subjects.
template <class B>
struct Experts {
  std::vector<mole::LoraSet> loras;
  std::shared_ptr<const mole::SpectralSlots<Scalar, B>> spectra = {};
  std::vector<std::vector<Values<B>>> shifts = {};  ///< [expert][layer]
  std::vector<Values<B>> prompts = {};  ///< states of each expert's own prompts, for gradient fusion,
  Index prompt_steps = 20;              ///< which paints them in so many steps
};

/// The weight of the experts' shifts added up: W' = U diag(relu(sigma + share sum of delta)) V^T.
template <class B>
void apply_shifts(Painter<B>& painter, const Experts<B>& experts, double share) {
  std::vector<Values<B>> sums = experts.shifts.at(0);
  for (std::size_t i = 1; i < experts.shifts.size(); ++i)
    for (std::size_t k = 0; k < sums.size(); ++k) sums[k] = add(sums[k], experts.shifts[i][k]);
  for (auto& sum : sums) sum = scale(sum, static_cast<Scalar>(share));
  experts.spectra->apply(painter.unet.layers().table, sums);
}

/// Sets a UNet up for a method: base, merged weights, or experts attached. Gates start fresh.
template <class B>
void set_up(Painter<B>& painter, const Method& method, const Experts<B>& all) {
  using Kind = Method::Kind;
  auto& unet = painter.unet;
  const auto& experts = all.loras;
  unet.detach();
  std::vector<double> weights(experts.size(), 0.0);
  switch (method.kind) {
    case Kind::base:
      return;
    case Kind::single:
      weights.at(method.expert) = 1;
      break;
    case Kind::sum:
      weights = mole::sum_weights(experts.size());
      break;
    case Kind::mean:
      weights = mole::mean_weights(experts.size());
      break;
    case Kind::svdiff_sum:
      return apply_shifts(painter, all, 1.0);
    case Kind::svdiff_mean:
      return apply_shifts(painter, all, 1.0 / static_cast<double>(experts.size()));
    case Kind::fused:
      return fuse(painter, experts, all.prompts, all.prompt_steps);
    case Kind::gates:
      unet.attach(experts, method.training.gates);
      return;
    case Kind::switching:
    case Kind::composite:
      unet.attach(experts, mole::GateOptions{});
      return;
    case Kind::masks:
      unet.attach(experts, mole::GateOptions{.scope = mole::Scope::layer, .pooling = mole::Pooling::token});
      return;
  }
  mole::merge(unet.layers().table, experts, weights);
}

/// Of each gate of the image the side of the level that its tokens are pixels of; found by a pass over one picture.
template <class B>
std::vector<Index> levels_of(const Painter<B>& painter) {
  const mole::NoGrad off;
  Pass<B> pass;
  painter.unet(Values<B>::zeros({1, side, side, 3}), Tokens<B>::from({1}, {0}), painter.states({""}), pass);
  std::vector<Index> levels;
  for (const auto& gate : pass.gates)
    levels.push_back(
        gate ? static_cast<Index>(std::lround(std::sqrt(static_cast<double>(gate->weights.size(1))))) : 0);
  return levels;
}

/// Paints every scene with the painter as set_up() left it for a method; no picture depends on another.
/// look, if any, sees each step of each batch; `tick` is called after each batch with the pictures done.
template <class B>
std::vector<std::vector<float>> paint(Painter<B>& painter, const Method& method, const Paintings& what,
                                      const Sprites& sprites,
                                      const std::function<void(std::size_t)>& tick = {},
                                      const Look<B>& look = {}) {
  using Kind = Method::Kind;
  const auto options = paint_options(what.steps);
  const auto levels = method.kind == Kind::masks ? levels_of(painter) : std::vector<Index>();
  std::vector<std::vector<float>> pictures;
  const std::size_t batch = paint_batch<B>();
  for (std::size_t first = 0; first < what.scenes.size(); first += batch) {
    const std::size_t last = std::min(what.scenes.size(), first + batch);
    const std::vector<Scene> scenes(what.scenes.begin() + static_cast<std::ptrdiff_t>(first),
                                    what.scenes.begin() + static_cast<std::ptrdiff_t>(last));
    std::vector<std::string> captions;
    std::vector<Values<B>> noises;
    for (std::size_t i = first; i < last; ++i) {
      captions.push_back(caption(what.scenes[i], sprites));
      noises.push_back(noise_of<B>(what.seed, what.first_noise + i));
    }
    const auto noise = mole::concat<Scalar, B>(noises, 0);
    const auto states = painter.states(captions);
    const auto& schedule = painter.schedule;
    Values<B> painted;
    if (method.kind == Kind::switching) {
      const auto each =
          static_cast<std::size_t>(std::max<Index>(1, what.steps / (3 * painter.unet.mixer().n_experts())));
      painted = mole::sample_switch(painter.unet, schedule, noise, states, states, options, each);
    } else if (method.kind == Kind::composite) {
      painted = mole::sample_composite(painter.unet, schedule, noise, states, states, options);
    } else {
      std::vector<std::optional<mole::GateValue<Scalar, B>>> by_hand;
      if (method.kind == Kind::masks)
        by_hand =
            masks_by_hand(painter.unet.mixer(), scenes, what.subjects, sprites, painter.length(), levels);
      painted = mole::sample(
          painter.unet, schedule, noise, states, states, options,
          [&](std::size_t, Pass<B>& pass) { pass.gates = by_hand; },
          [&](const auto& step) {
            if (look) look(first, step);
          });
    }
    for (auto& picture : as_pictures(painted)) pictures.push_back(std::move(picture));
    if (tick) tick(last - first);
  }
  return pictures;
}

}  // namespace pictures
