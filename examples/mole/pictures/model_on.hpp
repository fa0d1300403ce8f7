#pragma once
// PictureModel on backend B.

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <mole/compose/linear.hpp>
#include <mole/models/diffusion/pipeline.hpp>

#include "mole/pictures/model.hpp"

namespace program {

/// See PictureModel.
template <class B>
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

 private:
  using Number = float;
  using Values = mole::Tensor<Number, B>;

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
};

/// See PictureModels::load.
template <class B>
std::unique_ptr<PictureModel> load_pictures(const PictureFiles& files, std::vector<std::string>* warnings) {
  return std::make_unique<PictureModelOn<B>>(files, warnings);
}

/// The models on backend B.
template <class B>
const PictureModels* picture_models_of() {
  static constexpr PictureModels models{load_pictures<B>};
  return &models;
}

}  // namespace program
