#pragma once
// PictureModel on backend B in numbers of type Number.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <iostream>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <mole/autodiff/backward.hpp>
#include <mole/autodiff/record.hpp>
#include <mole/compose/linear.hpp>
#include <mole/loss/clip_guidance.hpp>
#include <mole/models/diffusion/pipeline.hpp>
#include <mole/optim/adamw.hpp>
#include <mole/train/run_state.hpp>

#include "common/picture_steps.hpp"
#include "mole/pictures/model.hpp"

namespace program {

/// See PictureModel.
template <class Number, class B>
class PictureModelOn final : public PictureModel {
 public:
  PictureModelOn(const PictureFiles& files, std::vector<std::string>* warnings)
      : model_(mole::load_stable_diffusion<Number, B>(files.path, files.variant, warnings)) {}

  void merge(const std::vector<mole::DiffusionLora>& experts, const std::vector<double>& weights,
             bool for_good) override {
    detach();
    merge_part(model_.unet.layers().table, experts, weights, &mole::DiffusionLora::unet, for_good);
    merge_part(model_.text.layers().table, experts, weights, &mole::DiffusionLora::text, for_good);
  }
  void attach(const std::vector<mole::DiffusionLora>& experts, const mole::RouterOptions& router) override {
    attach_by(experts, [&](const auto& sets) { model_.unet.attach(sets, router); });
  }
  void attach(const std::vector<mole::DiffusionLora>& experts, const mole::GatesFile& gates) override {
    attach_by(experts, [&](const auto& sets) { mole::attach_gates(model_.unet, sets, gates); });
  }
  void detach() override {
    model_.unet.detach();
    model_.text.detach();
  }

  std::vector<std::string> experts() const override {
    const auto& mixer = model_.unet.layers().mixer;
    return mixer ? mixer->names() : std::vector<std::string>();
  }
  bool has_token_gates() const override {
    const auto& mixer = model_.unet.layers().mixer;
    return mixer && mixer->policies().pooling == mole::Pooling::token;
  }
  void mask(const std::vector<bool>& keep) override { model_.unet.mixer().set_mask(keep); }

  PaintedPicture paint(const PictureJob& job) const override {
    const mole::NoGrad off;
    const mole::Shape shape{1, job.height, job.width, model_.unet.config().in_channels};
    auto latents = job.noise.empty()
                       ? Values::randn(shape, {job.seed, job.number << 20})
                       : Values::from(shape, std::vector<Number>(job.noise.begin(), job.noise.end()));
    auto options = job.sample;
    options.noise = {job.seed, (job.number << 20) + 1};
    std::vector<common::GateMap> maps(job.watch_gates ? 1 : 0);
    latents = mole::sample(
        model_.unet, model_.schedule, latents, states(job.prompt), states(job.negative), options,
        [](std::size_t) {},
        [&](const auto& step) {
          if (job.watch_gates) common::gather_maps(model_.unet.mixer(), 0, step, options.steps, maps);
          if (job.tick) job.tick();
        });
    const auto image = model_.vae.image01(latents);
    const auto host = image.to_host();
    if (job.tick) job.tick();
    return {image.size(1), image.size(2), std::vector<float>(host.begin(), host.end()),
            job.watch_gates ? std::move(maps.front()) : common::GateMap()};
  }

  void save_gates(const std::filesystem::path& path,
                  const std::map<std::string, std::string>& notes) const override {
    mole::save_gates(path, model_.unet.mixer(), notes);
  }

  void load_clip(const std::filesystem::path& folder, const mole::ClipImageOptions& image) override {
    std::vector<std::string> warnings;
    clip_.emplace(mole::load_clip<Number, B>(folder, &warnings));
    for (const auto& warning : warnings) std::cerr << "warning: " << warning << "\n";
    image_ = image;
  }
  double text_alignment(const PaintedPicture& picture, const std::vector<Index>& text) const override {
    const mole::NoGrad off;
    const auto pixels = Values::from({1, picture.height, picture.width, 3},
                                     std::vector<Number>(picture.pixels.begin(), picture.pixels.end()));
    return cosine(features(pixels).to_host(), text_features({text}).to_host());
  }

  void standardise(const GuidedTraining& training, const std::function<void(Index)>& tick) override {
    auto& mixer = model_.unet.mixer();
    if (mixer.policies().input_scale == mole::InputScale::unit) return;
    // Noise of its own, and the whole way of each picture: no step is measured on another step's latents.
    auto pool = pool_of(training, {.pictures = training.run.batch,
                                   .steps = training.steps,
                                   .random = {training.run.seed, std::uint64_t{1} << 33},
                                   .spread = false});
    std::vector<Index> calls(static_cast<std::size_t>(training.measuring()));
    mixer.standardise(calls, [&](Index, Pass& pass) {
      pool.step(model_.unet, pass);
      tick(pool.done());
    });
  }

  mole::Curves train_gates(const GuidedTraining& training) override {
    const auto parameters = model_.unet.mixer().parameters();
    if (parameters.empty()) return {};
    const auto texts = text_features(training.texts);
    // A value with its own gradient: see guidance().
    const auto guide = [&](const mole::PoolStep<Number, B>& seen) {
      const auto [loss, pull] = guidance(seen, texts);
      return mole::record({seen.clean}, Values::from({}, {static_cast<Number>(loss)}),
                          [pull = pull](const auto& gradient) { return mul(pull, gradient); });
    };
    common::PictureSteps<Number, B> steps(
        model_.unet, model_.schedule,
        pool_of(training,
                {.pictures = training.run.batch, .steps = training.steps, .random = {training.run.seed, 0}}),
        guide, own_latents(training.own),
        {.guided = 1,
         .own = training.own.empty() ? 0 : training.own_weight,
         .alpha = training.alpha,
         .balanced = training.balanced,
         .pictures = training.run.batch,
         .seed = training.run.seed},
        training.ranks);
    mole::AdamW<Number, B> adamw(parameters, {.beta2 = 0.99, .weight_decay = 0});
    mole::KeepingMore optimizer(adamw, steps.kept());
    return common::train(optimizer, common::training_options(training.run, "gates"),
                         common::checkpoints_of(training.run, training.fingerprint), std::ref(steps),
                         steps.ranks());
  }

 private:
  using Values = mole::Tensor<Number, B>;
  using Pass = mole::MolePass<Number, B>;

  const mole::Clip<Number, B>& clip() const {
    MOLE_CHECK_ARG(clip_.has_value(), "no CLIP is loaded; call load_clip() first");
    return *clip_;
  }
  /// CLIP's embeddings of pixels in [0, 1] [S, H, W, 3].
  Values features(const Values& pixels) const {
    Pass pass;
    return clip().vision.features(mole::clip_prepare(pixels, clip().config().vision.image_size, image_),
                                  pass);
  }
  /// And of texts of one length.
  Values text_features(const std::vector<std::vector<Index>>& texts) const {
    const mole::NoGrad off;
    std::vector<Index> ids;
    for (const auto& text : texts) ids.insert(ids.end(), text.begin(), text.end());
    Pass pass;
    const auto n = static_cast<Index>(texts.size());
    return clip().text.features(mole::Tensor<Index, B>::from({n, static_cast<Index>(ids.size()) / n}, ids),
                                pass);
  }
  /// CLIP's loss of pictures that are on their way, the mean over them, and its gradient at their latents. Each takes
  /// its way through VAE and CLIP alone, so that the tape holds one picture of full size at a time.
  std::pair<double, Values> guidance(const mole::PoolStep<Number, B>& seen, const Values& texts) const {
    const Index S = seen.clean.size(0);
    const auto now = seen.clean.detach();
    double loss = 0;
    std::vector<Values> gradients;
    for (Index s = 0; s < S; ++s) {
      auto latents = slice(now, 0, s, s + 1).detach();
      latents.set_requires_grad();
      const auto row = static_cast<Index>(seen.prompts[static_cast<std::size_t>(s)]);
      const auto picture = model_.vae.image01(latents, mole::ClampGradient::straight_through);
      const auto one = scale(mole::clip_global_loss(features(picture), slice(texts, 0, row, row + 1)),
                             static_cast<mole::Compute<Number>>(1 / static_cast<double>(S)));
      mole::backward(one);
      loss += static_cast<double>(one.item());
      gradients.push_back(latents.grad());
    }
    return {loss, mole::concat<Number, B>(gradients, 0)};
  }

  /// In double: cosines of pictures differ by less than a bf16 can say.
  static double cosine(const std::vector<Number>& a, const std::vector<Number>& b) {
    double dot = 0, a_squares = 0, b_squares = 0;
    for (std::size_t i = 0; i < a.size(); ++i) {
      const auto x = static_cast<double>(a[i]), y = static_cast<double>(b.at(i));
      dot += x * y, a_squares += x * x, b_squares += y * y;
    }
    return dot / std::max(std::sqrt(a_squares * b_squares), 1e-12);
  }

  mole::TrajectoryPool<Number, B> pool_of(const GuidedTraining& training,
                                          const mole::PoolOptions& options) const {
    const mole::NoGrad off;
    std::vector<Values> all;
    for (const auto& prompt : training.prompts) all.push_back(states(prompt));
    return {model_.schedule,
            {training.height, training.width, model_.unet.config().in_channels},
            mole::concat<Number, B>(all, 0),
            options};
  }

  /// Pictures as the UNet has them: the mean of what the VAE's encoder says of each.
  mole::CaptionedLatents<Number, B> own_latents(const std::vector<TrainingPicture>& pictures) const {
    if (pictures.empty()) return {};
    const mole::NoGrad off;
    std::vector<Values> latents, captions;
    for (const auto& picture : pictures) {
      std::vector<Number> pixels;
      for (const auto byte : picture.image.pixels)
        pixels.push_back(static_cast<Number>(static_cast<float>(byte) / 127.5f - 1));
      const auto posterior =
          model_.vae.encode(Values::from({1, picture.image.height, picture.image.width, 3}, pixels));
      latents.push_back(
          scale(posterior.mean, static_cast<mole::Compute<Number>>(model_.vae.config().scaling_factor)));
      captions.push_back(states(picture.caption));
    }
    return {mole::concat<Number, B>(latents, 0), mole::concat<Number, B>(captions, 0)};
  }

  Values states(const std::vector<Index>& tokens) const {
    return model_.states(mole::Tensor<Index, B>::from({1, static_cast<Index>(tokens.size())}, tokens));
  }

  template <class F>
  void attach_by(const std::vector<mole::DiffusionLora>& experts, F attach) {
    detach();
    merge_part(model_.text.layers().table, experts, mole::mean_weights(experts.size()),
               &mole::DiffusionLora::text, false);
    std::vector<mole::LoraSet> sets;
    for (const auto& expert : experts) sets.push_back(expert.unet);
    attach(sets);
  }

  /// Merges the experts that adapt anything of a part.
  static void merge_part(mole::SlotTable<Number, B>& table, const std::vector<mole::DiffusionLora>& experts,
                         const std::vector<double>& weights, mole::LoraSet mole::DiffusionLora::*part,
                         bool for_good) {
    std::vector<mole::LoraSet> sets;
    std::vector<double> own;
    for (std::size_t i = 0; i < experts.size(); ++i) {
      if ((experts[i].*part).slots.empty()) continue;
      sets.push_back(experts[i].*part);
      own.push_back(weights.at(i));
    }
    if (sets.empty()) return;
    if (for_good)
      mole::merge_for_good(table, sets, own);
    else
      mole::merge(table, sets, own);
  }

  mole::StableDiffusion<Number, B> model_;
  std::optional<mole::Clip<Number, B>> clip_;
  mole::ClipImageOptions image_;
};

/// See PictureModels::load.
template <class Number, class B>
std::unique_ptr<PictureModel> load_pictures(const PictureFiles& files, std::vector<std::string>* warnings) {
  return std::make_unique<PictureModelOn<Number, B>>(files, warnings);
}

/// The models on backend B, in float.
template <class B>
const PictureModels* picture_models_of() {
  static constexpr PictureModels models{load_pictures<float, B>};
  return &models;
}

/// And in bf16.
template <class B>
const PictureModels* picture_models_bf16_of() {
  static constexpr PictureModels models{load_pictures<mole::bf16, B>};
  return &models;
}

}  // namespace program
