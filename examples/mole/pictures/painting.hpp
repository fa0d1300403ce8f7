#pragma once
// What commands share that paint: prompts to tokens, options to jobs.

#include <string>
#include <vector>

#include <mole/text/clip_tokenizer.hpp>

#include "mole/pictures/commands.hpp"
#include "mole/pictures/model.hpp"

namespace program {

/// Checked options of painting for one pipeline, and its tokenizer.
class Painting {
 public:
  /// Throws mole::ArgumentError, naming option and remedy, for a sampler that is none, a size that is no multiple of the
  /// VAE's factor or steps that do not fit the schedule; mole::FormatError for a tokenizer that does not fit the text
  /// encoder.
  Painting(const PictureFiles& files, const PaintingOptions& options);

  /// A job for a prompt; seed and number are the caller's. Throws mole::ArgumentError for a prompt that is too long,
  /// naming `option`, which gave it.
  PictureJob job(const std::string& prompt, const std::string& option = "--prompt") const;

  /// How often a job ticks.
  Index ticks() const { return options_.steps + 1; }
  Index pixel_width() const { return width_ * factor_; }
  Index pixel_height() const { return height_ * factor_; }

 private:
  std::vector<Index> tokens(const std::string& text, const std::string& option) const;

  PaintingOptions options_;
  mole::ClipTokenizer tokenizer_;
  Index length_, factor_, width_ = 0, height_ = 0;
  mole::SampleOptions sample_;
};

/// Throws mole::Error, with the remedy, in a build without libpng.
void check_png();

/// Loads a pipeline, in bf16 or in float; its warnings go to stderr. Throws as PictureModels::load().
std::unique_ptr<PictureModel> load_pictures(const PictureFiles& files, const std::string& backend, bool bf16);

}  // namespace program
