#include "mole/pictures/painting.hpp"

#include <iostream>

#include <mole/core/error.hpp>

namespace program {

Painting::Painting(const PictureFiles& files, const PaintingOptions& options)
    : options_(options),
      tokenizer_(files.path / "tokenizer"),
      length_(files.text.positions),
      factor_(files.factor()) {
  MOLE_CHECK_FORMAT(tokenizer_.size() <= files.text.vocabulary, files.path / "tokenizer", "has",
                    tokenizer_.size(), "tokens and the text encoder", files.text.vocabulary,
                    "- the folder's parts are of different models");
  MOLE_CHECK_ARG(options.sampler == "ddim" || options.sampler == "ddpm", "--sampler",
                 options.sampler + ": choose ddim or ddpm");
  const auto size = options.size.empty()
                        ? PictureSize{files.unet.sample_size * factor_, files.unet.sample_size * factor_}
                        : picture_size(options.size, factor_);
  width_ = size.width / factor_;
  height_ = size.height / factor_;
  sample_.sampler =
      options.sampler == "ddpm" ? mole::SampleOptions::Sampler::ddpm : mole::SampleOptions::Sampler::ddim;
  sample_.steps = options.steps;
  sample_.guidance = options.guidance;
  mole::NoiseSchedule(files.schedule).timesteps(options.steps);
}

std::vector<Index> Painting::tokens(const std::string& text, const std::string& option) const {
  try {
    return tokenizer_.encode(text, length_, options_.truncate);
  } catch (const mole::ArgumentError& error) {
    throw mole::ArgumentError(option + ": " + error.what() + "; shorten it, or cut it by --truncate");
  }
}

PictureJob Painting::job(const std::string& prompt, const std::string& option) const {
  PictureJob job;
  job.prompt = tokens(prompt, option);
  job.negative = tokens(options_.negative, "--negative");
  job.height = height_;
  job.width = width_;
  job.sample = sample_;
  return job;
}

void check_png() {
  MOLE_CHECK_AS(
      mole::Error, common::has_png(),
      "this build writes no PNG files: libpng was not found; install it (apt-get install libpng-dev) and "
      "configure again");
}

std::unique_ptr<PictureModel> load_pictures(const PictureFiles& files, const std::string& backend,
                                            bool bf16) {
  std::vector<std::string> warnings;
  const auto& models = bf16 ? picture_models_bf16_on(backend) : picture_models_on(backend);
  auto model = models.load(files, &warnings);
  for (const auto& warning : warnings) std::cerr << "warning: " << warning << "\n";
  return model;
}

}  // namespace program
