#pragma once
// Gates over experts in the UNet: trained by CLIP on pictures in flight, by the diffusion loss, or set by hand.

#include <cmath>
#include <cstddef>
#include <string>
#include <utility>
#include <vector>

#include <mole/autodiff/backward.hpp>
#include <mole/loss/clip_guidance.hpp>
#include <mole/loss/mse.hpp>
#include <mole/loss/total.hpp>
#include <mole/models/diffusion/trajectory_pool.hpp>
#include <mole/optim/adamw.hpp>
#include <mole/train/loop.hpp>

#include "pictures/painter.hpp"
#include "pictures/study.hpp"

namespace pictures {

/// Pictures with what the UNet reads for each, to draw batches of the diffusion loss from.
template <class B>
struct OwnPictures {
  Values<B> pictures;  ///< [n, side, side, 3]
  Values<B> states;    ///< [n, L, width]
};

/// The subjects' own pictures, `each` of each: those that experts are trained on.
template <class B>
OwnPictures<B> own_pictures(const Painter<B>& painter, const Sprites& sprites,
                            const std::vector<Index>& subjects, std::size_t each = 64) {
  std::vector<std::vector<float>> pictures;
  std::vector<std::string> captions;
  for (const Index subject : subjects) {
    for (auto& picture : own_pictures_of(subject, each, sprites)) pictures.push_back(std::move(picture));
    for (const auto& scene : own_scenes(subject, each)) captions.push_back(caption(scene, sprites));
  }
  return {as_tensor<B>(pictures), painter.states(captions)};
}

/// A batch of the diffusion loss: noisy pictures, their times and states, and what the UNet is to say.
template <class B>
struct NoisyBatch {
  Values<B> noisy, states, target;
  Tokens<B> times;

  template <class F>
  void each_tensor(F f) {
    f(noisy), f(states), f(target), f(times);
  }
};

/// Pictures [S, ..] with their states, noised at random times.
template <class B>
NoisyBatch<B> noised(const mole::NoiseSchedule& schedule, const Values<B>& pictures, const Values<B>& states,
                     mole::RandomStream random) {
  const Index S = pictures.size(0);
  std::vector<Index> times;
  for (Index i = 0; i < S; ++i)
    times.push_back(static_cast<Index>(mole::uniform({random.seed, random.stream}, i) *
                                       static_cast<double>(schedule.config().train_steps)));
  const auto noise =
      Values<B>::randn(pictures.shape(), {random.seed, random.stream + (std::uint64_t{1} << 40)});
  return {schedule.noisy(pictures, noise, times), states, schedule.target(pictures, noise, times),
          Tokens<B>::from({S}, times)};
}

/// S of the own pictures, drawn at random.
template <class B>
NoisyBatch<B> draw_own(const mole::NoiseSchedule& schedule, const OwnPictures<B>& own, Index S,
                       mole::RandomStream random) {
  const Index n = own.pictures.size(0);
  std::vector<Index> rows;
  const mole::RandomStream choice{random.seed, random.stream + (std::uint64_t{1} << 41)};
  for (Index i = 0; i < S; ++i)
    rows.push_back(static_cast<Index>(mole::uniform(choice, i) * static_cast<double>(n)));
  const auto picked = [&](const Values<B>& all) {
    auto shape = all.shape().with(0, S);
    return reshape(gather(reshape(all, {n, -1}), Tokens<B>::from({S}, rows)), shape);
  };
  return noised(schedule, picked(own.pictures), picked(own.states), random);
}

/// The diffusion loss on a batch; `pass` holds the gates.
template <class B>
Values<B> diffusion_loss(const mole::UNet<Scalar, B>& unet, const NoisyBatch<B>& batch, Pass<B>& pass) {
  return mole::mse(unet(batch.noisy, batch.times, batch.states, pass), batch.target);
}

/// Trains the gates of the experts that are attached to the painter's UNet, for prompts of scenes. `own` is read where
/// the training weighs the diffusion loss above 0. Throws as mole::train().
template <class B>
mole::Curves train_gates(Painter<B>& painter, const GateTraining& training, const std::vector<Scene>& scenes,
                         const Sprites& sprites, const OwnPictures<B>& own, std::uint64_t seed,
                         const mole::TrainingHooks& hooks = {}) {
  std::vector<std::string> captions;
  for (const auto& scene : scenes) captions.push_back(caption(scene, sprites));
  const auto texts = embed_texts(painter.clip, painter.tokens(captions));
  mole::TrajectoryPool<Scalar, B> pool(painter.schedule, {side, side, 3}, painter.states(captions),
                                       {.pictures = training.pictures, .random = {seed, 0}});
  const auto& unet = painter.unet;
  mole::AdamW<Scalar, B> optimizer(painter.unet.mixer().parameters(), {.beta2 = 0.99, .weight_decay = 0});
  const mole::TrainingOptions options{
      .label = "gates",
      .steps = training.steps,
      .schedule = {mole::ScheduleKind::cosine, training.rate, 20, std::max<Index>(training.steps, 21)},
      .clip = 0};
  return mole::train(
      optimizer, options,
      [&](Index step) {
        mole::StepResult result;
        Values<B> loss, balance;
        const auto add_to = [](Values<B>& sum, const Values<B>& term) {
          sum = sum.defined() ? add(sum, term) : term;
        };
        if (training.clip > 0) {
          Pass<B> pass;
          const auto seen = pool.step(unet, pass);
          std::vector<Index> rows(seen.prompts.begin(), seen.prompts.end());
          const auto wanted = gather(texts, Tokens<B>::from({static_cast<Index>(rows.size())}, rows));
          const auto guide = mole::clip_global_loss(embed_pictures(painter.clip, seen.clean), wanted);
          result.measures.emplace_back("clip", static_cast<double>(guide.item()));
          add_to(loss, scale(guide, static_cast<Scalar>(training.clip)));
          add_to(balance, unet.balance(pass));
        }
        if (training.own > 0) {
          Pass<B> pass;
          const auto batch = draw_own(painter.schedule, own, training.pictures,
                                      {seed + (std::uint64_t{1} << 32), static_cast<std::uint64_t>(step)});
          const auto diffusion = diffusion_loss(unet, batch, pass);
          result.measures.emplace_back("diffusion", static_cast<double>(diffusion.item()));
          add_to(loss, scale(diffusion, static_cast<Scalar>(training.own)));
          add_to(balance, unet.balance(pass));
        }
        if (training.clip > 0 && training.own > 0) balance = scale(balance, Scalar(0.5));
        result.measures.emplace_back("balance", static_cast<double>(balance.item()));
        const auto total = mole::total_loss(loss, balance, training.alpha);
        mole::backward(total);
        result.loss = static_cast<double>(total.item());
        return result;
      },
      {}, hooks);
}

/// Gates set by hand for a batch of scenes: each part of the picture and of the caption uses its own object's expert.
/// experts: of each sprite its expert's number, for those that have one. The mixer has token gates.
template <class B>
std::vector<std::optional<mole::GateValue<Scalar, B>>> masks_by_hand(const mole::Mixer<Scalar, B>& mixer,
                                                                     const std::vector<Scene>& scenes,
                                                                     const std::vector<Index>& subjects,
                                                                     const Sprites& sprites, Index length,
                                                                     const std::vector<Index>& levels) {
  const auto N = static_cast<std::size_t>(mixer.n_experts());
  std::vector<std::optional<mole::GateValue<Scalar, B>>> gates;
  for (std::size_t gate = 0; gate < mixer.gates().size(); ++gate) {
    const auto& placed = mixer.gates()[gate];
    std::vector<Scalar> all;
    Index tokens = 0;
    for (const auto& scene : scenes) {
      std::vector<std::size_t> experts;
      for (const Index object : scene.objects)
        experts.push_back(
            static_cast<std::size_t>(std::find(subjects.begin(), subjects.end(), object) - subjects.begin()));
      const auto mask = placed.tokens == "memory" ? caption_mask(caption(scene, sprites), experts, length, N)
                                                  : picture_mask(scene, experts, levels[gate], N);
      tokens = static_cast<Index>(mask.size() / N);
      all.insert(all.end(), mask.begin(), mask.end());
    }
    const auto value =
        Values<B>::from({static_cast<Index>(scenes.size()), tokens, static_cast<Index>(N)}, all);
    gates.push_back(mole::GateValue<Scalar, B>{value, value});
  }
  return gates;
}

}  // namespace pictures
