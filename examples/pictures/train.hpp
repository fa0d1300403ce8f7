#pragma once
// `pictures train-clip`, `train-base` and `train-expert`: how models of the study are made. The first two are meant for
// a GPU.

#include <cmath>
#include <filesystem>
#include <functional>
#include <iostream>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <mole/compose/svdiff.hpp>
#include <mole/io/save_lora_set.hpp>
#include <mole/loss/cross_entropy.hpp>
#include <mole/optim/averaged.hpp>
#include <mole/train/ahead.hpp>
#include <mole/train/replayed.hpp>

#include "common/files.hpp"
#include "pictures/commands.hpp"
#include "pictures/gates.hpp"
#include "pictures/spectral_file.hpp"

namespace pictures {

/// The sprites that base and CLIP are trained on: all, or all but the subjects.
inline std::vector<Index> sprites_from(const Sprites& sprites, Index first) {
  std::vector<Index> list;
  for (Index i = first; i < sprites.count(); ++i) list.push_back(i);
  return list;
}

/// What scenes a run draws: each of `batch` at a step is one of a pool of captions, at a new place every time.
struct ScenePool {
  std::vector<Index> used;  ///< sprites
  Index pool, batch;
  std::uint64_t seed;
};

/// Pictures [batch, side, side, 3] and their captions [batch, positions].
struct CaptionedPictures {
  std::vector<float> pictures;
  std::vector<Index> captions;  ///< of CLIP's examples, behind them as many that they could be confused with
  mole::DrawnNoise<float> noise;  ///< for the diffusion loss
};

/// CLIP's examples of a step: pictures as it shall also read them, a quarter blurred, half to be given noise.
CaptionedPictures clip_examples(const Sprites& sprites, const Vocabulary& words, const ScenePool& pool,
                                Index positions, Index step);

/// The base's examples of a step; a tenth lost their caption, so that guidance could be used.
CaptionedPictures base_examples(const Sprites& sprites, const Vocabulary& words, const ScenePool& pool,
                                const mole::NoiseSchedule& schedule, Index positions, Index step);

/// "loss 0.61 at the start, 0.22 at the end": means over the first and the last tenth of a run.
std::string loss_text(const mole::Curves& curves);

/// On a GPU, lets products of floats round their factors to ten bits: training from nothing can do with that.
template <class B>
void allow_short_factors() {
  if constexpr (requires { B::allow_tf32(true); }) B::allow_tf32(true);
}

/// The sizes of the study's CLIP and UNet.
inline mole::ClipConfig study_clip(Index words) {
  mole::ClipConfig config;
  config.projection = 64;
  for (auto* tower : {static_cast<mole::ClipTowerConfig*>(&config.text),
                      static_cast<mole::ClipTowerConfig*>(&config.vision)}) {
    tower->hidden = 80;
    tower->intermediate = 320;
    tower->heads = 4;
  }
  config.text.layers = 2;
  config.text.vocabulary = words;
  config.text.positions = 16;
  config.text.eos_token_id = 1;
  config.vision.layers = 4;
  config.vision.image_size = side;
  config.vision.patch_size = 4;
  return config;
}
inline mole::UNetConfig study_unet(Index text_width) {
  mole::UNetConfig config;
  config.in_channels = config.out_channels = 3;
  config.channels = {32, 64, 80};
  config.down_attention = {false, true, true};
  config.up_attention = {true, true, false};
  config.heads = {4, 4, 4};
  config.layers = 1;
  config.text_width = text_width;
  config.norm_groups = 8;
  config.sample_size = side;
  return config;
}
/// The study's noise: see mole::ScheduleConfig.
inline mole::ScheduleConfig study_schedule() {
  mole::ScheduleConfig config;
  config.betas = mole::BetaSchedule::squared_cosine;
  config.prediction = mole::Prediction::velocity;
  config.clip_sample = config.set_alpha_to_one = true;
  config.steps_offset = 0;
  config.spacing = mole::StepSpacing::trailing;
  return config;
}

/// Pictures [S, side, side, 3] and ids [S, positions] of lists.
template <class B>
Values<B> pictures_of(const std::vector<float>& all) {
  return Values<B>::from({static_cast<Index>(all.size()) / (side * side * 3), side, side, 3}, all);
}
template <class B>
Tokens<B> texts_of(const std::vector<Index>& ids, Index positions) {
  return Tokens<B>::from({static_cast<Index>(ids.size()) / positions, positions}, ids);
}

/// A batch for CLIP: pictures, their captions, and captions that they could be confused with.
template <class B>
struct ClipBatch {
  Values<B> pictures;  ///< [S, side, side, 3]
  Tokens<B> texts;     ///< [2 S, L]: the captions, then what they could be confused with

  template <class F>
  void each_tensor(F f) {
    f(pictures), f(texts);
  }
};

/// The symmetric loss: each picture finds its caption among all, the confusing ones too, and each caption its picture.
template <class B>
Values<B> clip_loss(const mole::Clip<Scalar, B>& clip, const ClipBatch<B>& batch) {
  const Index S = batch.pictures.size(0);
  Pass<B> for_pictures, for_captions;
  const auto pictures = unit_rows(clip.vision.features(batch.pictures, for_pictures));
  const auto captions = unit_rows(clip.text.features(batch.texts, for_captions));
  const auto factor = exp(mole::clamp(clip.logit_scale, -10, 4.2));
  const auto cosines = matmul(pictures, captions, mole::Transpose::no, mole::Transpose::yes);
  const auto logits = mul(cosines, factor);
  std::vector<Index> own(static_cast<std::size_t>(S));
  for (std::size_t i = 0; i < own.size(); ++i) own[i] = static_cast<Index>(i);
  const auto labels = Tokens<B>::from({S}, own);
  const auto there = mole::cross_entropy(logits, labels);
  const auto back = mole::cross_entropy(transpose(slice(logits, 1, 0, S)), labels);
  return scale(add(there, back), Scalar(0.5));
}

/// See commands.hpp.
template <class B>
void train_clip(const TrainClipOptions& options) {
  const common::OutputFolder prepared(options.run.out);
  allow_short_factors<B>();
  const auto sprites = read_sprites(shipped());
  const auto words = Vocabulary::of(sprites);
  const auto config = study_clip(words.size());
  mole::Clip<Scalar, B> clip(config);
  mole::Generator generator{options.run.seed};
  clip.initialize(generator);
  std::vector<Values<B>> parameters;
  clip.visit([&](const std::string&, const mole::Shape&, auto& tensor) {
    parameters.push_back(tensor.set_requires_grad());
  });
  mole::AdamW<Scalar, B> optimizer(parameters, {.beta2 = 0.99, .weight_decay = 0.05});
  mole::AveragedParameters<Scalar, B> averaged(parameters, 0.998);
  mole::Replayed<Scalar, B, ClipBatch<B>, Values<B>> gradients(parameters,
                                                               [&](const ClipBatch<B>& batch) {
                                                                 const auto loss = clip_loss(clip, batch);
                                                                 mole::backward(loss);
                                                                 return loss.detach();
                                                               },
                                                               {.notice = common::report_uncaptured});
  // CLIP knows every emoji, the subjects too, as OpenAI's knows dogs.
  const ScenePool pool{sprites_from(sprites, 0), options.pool, options.run.batch, options.run.seed};
  const Index positions = config.text.positions;
  mole::Ahead<CaptionedPictures> examples(
      [&](Index step) { return clip_examples(sprites, words, pool, positions, step); });
  const auto what = mole::message("pictures train-clip batch", options.run.batch, "rate", options.run.rate,
                                  "steps", options.run.steps, "seed", options.run.seed, "pool", options.pool);
  MOLE_CHECK_ARG(!options.run.resume,
                 "train-clip: --resume is not supported: the averaged weights are not saved");
  const auto curves = common::train(
      optimizer, common::training_options(options.run, "clip"), common::checkpoints_of(options.run, what),
      [&](Index step) {
        const auto drawn = examples(step, options.run.steps);
        if (step > 0) averaged.update();
        const auto loss = gradients({pictures_of<B>(drawn.pictures), texts_of<B>(drawn.captions, positions)});
        return mole::StepResult{static_cast<double>(loss.item())};
      });
  averaged.update();
  averaged.take();
  mole::save_clip(options.run.out, clip, mole::Dtype::BF16);
  words.write(options.run.out / "vocab.json");
  std::cout << "CLIP written to " << options.run.out.string() << "; " << loss_text(curves) << "\n";
}

/// A training step of the diffusion loss on a batch, captured where the backend can. The UNet must outlive it.
/// `prepare`, if any, begins each step: it makes weights of the parameters.
template <class B>
mole::Replayed<Scalar, B, NoisyBatch<B>, Values<B>> diffusion_gradients(
    const mole::UNet<Scalar, B>& unet, const std::vector<Values<B>>& parameters,
    const std::function<void()>& prepare = {}) {
  const auto step = [&unet, prepare](const NoisyBatch<B>& batch) {
    if (prepare) prepare();
    Pass<B> pass;
    const auto loss = mole::diffusion_loss(unet, batch, pass);
    mole::backward(loss);
    return loss.detach();
  };
  return {parameters, step, {.notice = common::report_uncaptured}};
}

/// See commands.hpp.
template <class B>
void train_base(const TrainBaseOptions& options) {
  const common::OutputFolder prepared(options.run.out);
  allow_short_factors<B>();
  const auto sprites = read_sprites(shipped());
  const auto folder = options.clip.empty() ? options.run.out / "clip" : options.clip;
  const auto clip = load_study_clip<B>(folder, "--clip");
  const auto words = Vocabulary::read(folder / "vocab.json");
  MOLE_CHECK_ARG(!options.run.resume,
                 "train-base: --resume is not supported: the averaged weights are not saved");
  mole::UNet<Scalar, B> unet(study_unet(clip.config().text.hidden));
  mole::Generator generator{options.run.seed};
  unet.initialize(generator);
  const auto parameters = unet.trainable_parameters();
  const mole::NoiseSchedule schedule(study_schedule());
  mole::AdamW<Scalar, B> optimizer(parameters, {.beta2 = 0.99, .weight_decay = 0.01});
  mole::AveragedParameters<Scalar, B> averaged(parameters, 0.999);
  auto gradients = diffusion_gradients(unet, parameters);
  const ScenePool pool{sprites_from(sprites, sprites.subjects), options.pool, options.run.batch,
                       options.run.seed};
  const Index positions = clip.config().text.positions;
  mole::Ahead<CaptionedPictures> examples(
      [&](Index step) { return base_examples(sprites, words, pool, schedule, positions, step); });
  const auto what = mole::message("pictures train-base batch", options.run.batch, "rate", options.run.rate,
                                  "steps", options.run.steps, "seed", options.run.seed, "pool", options.pool);
  const auto curves =
      common::train(optimizer, common::training_options(options.run, "base"),
                    common::checkpoints_of(options.run, what), [&](Index step) {
                      const auto drawn = examples(step, options.run.steps);
                      if (step > 0) averaged.update();
                      Pass<B> pass;
                      const auto loss = gradients(mole::noised(
                          schedule, pictures_of<B>(drawn.pictures),
                          clip.text.states(texts_of<B>(drawn.captions, positions), pass), drawn.noise));
                      return mole::StepResult{static_cast<double>(loss.item())};
                    });
  averaged.update();
  averaged.take();
  mole::save_unet(options.run.out / "unet", unet, mole::Dtype::BF16);
  common::prepare_folder(options.run.out / "scheduler");
  mole::write_json(options.run.out / "scheduler" / "scheduler_config.json",
                   mole::schedule_config_json(schedule.config()));
  std::cout << "UNet written to " << options.run.out.string() << "; " << loss_text(curves) << "\n";
}

/// See commands.hpp.
template <class B>
void train_expert(const TrainExpertOptions& options) {
  const auto sprites = read_sprites(shipped());
  const Index subject = sprites.find(options.subject);
  const auto out =
      options.run.out.empty() ? std::filesystem::path(folder_name(options.subject)) : options.run.out;
  const common::OutputFolder prepared(out);
  allow_short_factors<B>();
  auto painter = load_painter<B>(options.base);
  auto& table = painter.unet.layers().table;
  std::vector<Values<B>> parameters;
  std::optional<mole::SpectralSlots<Scalar, B>> spectra;
  if (options.svdiff) {
    spectra.emplace(table);
    parameters = spectra->make_shifts();
  } else {
    mole::Generator generator{options.run.seed};
    // As DreamBooth with LoRA has it: the transformer blocks alone.
    table.add_lora(options.rank, options.alpha, generator, table.names_in_blocks());
    parameters = table.lora_parameters();
  }
  const auto own = own_pictures(painter, sprites, {subject}, static_cast<std::size_t>(options.pictures));
  mole::AdamW<Scalar, B> optimizer(parameters, {.beta2 = 0.99, .weight_decay = 0});
  auto gradients = diffusion_gradients(painter.unet, parameters, [&] {
    if (spectra) spectra->apply(table, parameters);
  });
  const auto what = mole::message(options.svdiff ? "pictures train-expert svdiff" : "pictures train-expert",
                                  options.subject, "rank", options.rank, "alpha", options.alpha, "pictures",
                                  options.pictures, "batch", options.run.batch, "rate", options.run.rate,
                                  "steps", options.run.steps, "seed", options.run.seed);
  const auto curves = common::train(
      optimizer, common::training_options(options.run, "expert " + options.subject),
      common::checkpoints_of(options.run, what), [&](Index step) {
        const auto loss = gradients(mole::draw_noisy(painter.schedule, own, options.run.batch,
                                                     {options.run.seed, static_cast<std::uint64_t>(step)}));
        return mole::StepResult{static_cast<double>(loss.item())};
      });
  if (options.svdiff) {
    save_shifts(out / spectral_file, table, parameters);
    std::cout << "SVDiff's shifts for " << options.subject << " written to " << (out / spectral_file).string()
              << "; " << loss_text(curves) << "\n";
    return;
  }
  mole::LoraConfig config;
  config.rank = options.rank;
  config.alpha = options.alpha;
  config.task_type.clear();
  mole::save_adapter(out, config, mole::trained_loras(table), mole::Dtype::BF16);
  std::cout << "expert for " << options.subject << " written to " << out.string() << "; " << loss_text(curves)
            << "\n";
}

}  // namespace pictures
