#pragma once
// The CLIP that guides gates: its files, and prompts as it reads them.

#include <filesystem>
#include <string>
#include <vector>

#include <mole/models/clip/config.hpp>
#include <mole/models/clip/prepare.hpp>
#include <mole/text/clip_tokenizer.hpp>

namespace program {

using mole::Index;

/// A CLIPModel's folder, before its weights are read.
class Guide {
 public:
  /// Throws mole::Error, with the remedy, for a folder without config.json, weights or tokenizer; mole::FormatError for
  /// one of another model.
  explicit Guide(const std::filesystem::path& folder);

  /// Numbers of the weights.
  Index parameters() const { return parameters_; }
  /// Of the weights: 16 hex digits, as ModelFiles::digest.
  const std::string& digest() const { return digest_; }
  /// How images are prepared: as preprocessor_config.json says, else OpenAI's way.
  const mole::ClipImageOptions& image() const { return image_; }
  /// A prompt, cut where it is longer than this CLIP reads.
  std::vector<Index> tokens(const std::string& prompt) const {
    return tokenizer_.encode(prompt, config_.text.positions, true);
  }

 private:
  mole::ClipConfig config_;
  mole::ClipTokenizer tokenizer_;
  mole::ClipImageOptions image_;
  Index parameters_ = 0;
  std::string digest_;
};

}  // namespace program
