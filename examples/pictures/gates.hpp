#pragma once
// Gates over experts in the UNet: trained by CLIP on pictures in flight, by the diffusion loss, or set by hand.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <mole/loss/clip_guidance.hpp>
#include <mole/optim/adamw.hpp>
#include <mole/train/loop.hpp>

#include "common/picture_steps.hpp"
#include "pictures/painter.hpp"
#include "pictures/study.hpp"

namespace pictures {

template <class B>
using OwnPictures = mole::CaptionedLatents<Scalar, B>;
template <class B>
using NoisyBatch = mole::NoisyBatch<Scalar, B>;

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

/// Trains the gates of the experts that are attached to the painter's UNet, for prompts of scenes, with the other ranks of
/// `ranks`. `own` is read where the training weighs the diffusion loss above 0. Throws as mole::train() and
/// mole::DataParallel::run().
template <class B>
mole::Curves train_gates(Painter<B>& painter, const GateTraining& training, const std::vector<Scene>& scenes,
                         const Sprites& sprites, const OwnPictures<B>& own, std::uint64_t seed,
                         const common::RankOptions& ranks, mole::TrainingHooks hooks = {}) {
  std::vector<std::string> captions;
  for (const auto& scene : scenes) captions.push_back(caption(scene, sprites));
  const auto texts = embed_texts(painter.clip, painter.tokens(captions));
  const auto guide = [&](const mole::PoolStep<Scalar, B>& seen) {
    const std::vector<Index> rows(seen.prompts.begin(), seen.prompts.end());
    const auto wanted = gather(texts, Tokens<B>::from({static_cast<Index>(rows.size())}, rows));
    return mole::clip_global_loss(embed_pictures(painter.clip, seen.clean), wanted);
  };
  common::PictureSteps<Scalar, B> steps(
      painter.unet, painter.schedule,
      mole::TrajectoryPool<Scalar, B>(painter.schedule, {side, side, 3}, painter.states(captions),
                                      {.pictures = training.pictures, .random = {seed, 0}}),
      guide, own,
      {.guided = training.clip,
       .own = training.own,
       .alpha = training.alpha,
       .pictures = training.pictures,
       .seed = seed},
      ranks);
  mole::AdamW<Scalar, B> optimizer(painter.unet.mixer().parameters(), {.beta2 = 0.99, .weight_decay = 0});
  const mole::TrainingOptions options{
      .label = "gates",
      .steps = training.steps,
      .schedule = {mole::ScheduleKind::cosine, training.rate, 20, std::max<Index>(training.steps, 21)},
      .clip = 0};
  auto& together = steps.ranks();
  together.stop_when(std::exchange(hooks.stop, [&] { return together.stopping(); }));
  return together.run([&] { return mole::train(optimizer, options, std::ref(steps), {}, hooks); });
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
