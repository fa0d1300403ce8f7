#include "mole/pictures/guide.hpp"

#include <mole/core/error.hpp>
#include <mole/core/fingerprint.hpp>
#include <mole/io/checkpoint.hpp>
#include <mole/models/clip/config_file.hpp>

#include "mole/model_files.hpp"

namespace program {

namespace {

const std::filesystem::path& checked(const std::filesystem::path& folder) {
  MOLE_CHECK_AS(mole::Error, mole::detail::file_exists(folder / "config.json"), "--clip", folder,
                "is no CLIP: it holds no config.json; give a folder of a CLIPModel, such as a download of "
                "openai/clip-vit-base-patch16");
  return folder;
}

}  // namespace

Guide::Guide(const std::filesystem::path& folder)
    : config_(mole::read_clip_config(checked(folder) / "config.json")), tokenizer_(folder) {
  MOLE_CHECK_FORMAT(tokenizer_.size() <= config_.text.vocabulary, folder, "has a tokenizer of",
                    tokenizer_.size(), "tokens and a text tower of", config_.text.vocabulary);
  if (mole::detail::file_exists(folder / "preprocessor_config.json"))
    image_ = mole::read_clip_image_options(folder / "preprocessor_config.json");
  const mole::Checkpoint weights(folder);
  mole::Fingerprint digest;
  for (const auto& name : weights.names()) {
    if (weights.is_empty(name) || weights.file_of(name).unread().contains(name)) continue;
    parameters_ += weights.at(name).shape.size();
    add_to_digest(digest, weights, name);
  }
  digest_ = digest.hex();
}

}  // namespace program
