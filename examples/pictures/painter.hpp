#pragma once
// The model side of the study on any backend B: base and experts from disk, prompts to text states, pictures.

#include <algorithm>
#include <filesystem>
#include <functional>
#include <iostream>
#include <string>
#include <utility>
#include <vector>

#include <mole/models/clip/checkpoint.hpp>
#include <mole/models/diffusion/lora_file.hpp>
#include <mole/models/diffusion/sample.hpp>
#include <mole/models/diffusion/schedule_file.hpp>
#include <mole/models/unet/checkpoint.hpp>

#include "pictures/assets.hpp"
#include "pictures/vocabulary.hpp"

namespace pictures {

using Scalar = float;
template <class B>
using Values = mole::Tensor<Scalar, B>;
template <class B>
using Tokens = mole::Tensor<Index, B>;
template <class B>
using Pass = mole::MolePass<Scalar, B>;

/// A base: CLIP, whose text tower the UNet reads, the UNet, its noise schedule and the words.
template <class B>
struct Painter {
  mole::Clip<Scalar, B> clip;
  mole::UNet<Scalar, B> unet;
  mole::NoiseSchedule schedule;
  Vocabulary words;

  Index length() const { return clip.config().text.positions; }

  /// The tokens [prompts, length]. Throws as Vocabulary::encode().
  Tokens<B> tokens(const std::vector<std::string>& prompts, bool cut = false) const {
    std::vector<Index> ids;
    for (const auto& prompt : prompts) {
      const auto one = words.encode(prompt, length(), cut);
      ids.insert(ids.end(), one.begin(), one.end());
    }
    return Tokens<B>::from({static_cast<Index>(prompts.size()), length()}, ids);
  }
  /// What the UNet reads of them [prompts, length, width].
  Values<B> states(const std::vector<std::string>& prompts, bool cut = false) const {
    const mole::NoGrad off;
    Pass<B> pass;
    return clip.text.states(tokens(prompts, cut), pass);
  }
};

/// CLIP's embeddings of prompts and pictures, for losses and measures; not normalised. [n, projection]
template <class B>
Values<B> embed_texts(const mole::Clip<Scalar, B>& clip, const Tokens<B>& tokens) {
  const mole::NoGrad off;
  Pass<B> pass;
  return clip.text.features(tokens, pass);
}
template <class B>
Values<B> embed_pictures(const mole::Clip<Scalar, B>& clip, const Values<B>& pictures) {
  Pass<B> pass;
  return clip.vision.features(pictures, pass);
}

/// Pictures as one tensor [n, side, side, 3], and back.
template <class B>
Values<B> as_tensor(const std::vector<std::vector<float>>& pictures) {
  std::vector<Scalar> all;
  for (const auto& picture : pictures) all.insert(all.end(), picture.begin(), picture.end());
  return Values<B>::from({static_cast<Index>(pictures.size()), side, side, 3}, all);
}
template <class B>
std::vector<std::vector<float>> as_pictures(const Values<B>& tensor) {
  const auto all = tensor.to_host();
  std::vector<std::vector<float>> pictures;
  const auto size = static_cast<std::ptrdiff_t>(side * side * 3);
  for (auto from = all.begin(); from != all.end(); from += size) pictures.emplace_back(from, from + size);
  return pictures;
}

namespace detail {

inline void say(const std::vector<std::string>& warnings) {
  for (const auto& warning : warnings) std::cerr << "warning: " << warning << "\n";
}

}  // namespace detail

/// A CLIP that fits the study; `option` names another. Throws mole::Error for a folder without one, mole::FormatError
/// for damaged files, mole::ArgumentError for one of other pictures.
template <class B>
mole::Clip<Scalar, B> load_study_clip(const std::filesystem::path& folder, const std::string& option) {
  check_part(folder, "config.json", "train-clip", option);
  std::vector<std::string> warnings;
  auto clip = mole::load_clip<Scalar, B>(folder, &warnings);
  detail::say(warnings);
  MOLE_CHECK_ARG(clip.config().vision.image_size == side, folder, "reads pictures of",
                 clip.config().vision.image_size, "pixels a side; this study's have", side);
  return clip;
}

/// The base in a folder: clip/ (with vocab.json), unet/, scheduler/. Throws as load_study_clip().
template <class B>
Painter<B> load_painter(const std::filesystem::path& base) {
  check_part(base / "unet", "config.json", "train-base", "--base");
  check_part(base / "scheduler", "scheduler_config.json", "train-base", "--base");
  auto clip = load_study_clip<B>(base / "clip", "--base");
  check_part(base / "clip", "vocab.json", "train-clip", "--base");
  auto words = Vocabulary::read(base / "clip" / "vocab.json");
  MOLE_CHECK_ARG(words.size() <= clip.config().text.vocabulary, base / "clip/vocab.json", "has", words.size(),
                 "words, but the text tower", clip.config().text.vocabulary);
  std::vector<std::string> warnings;
  auto unet = mole::load_unet<Scalar, B>(base / "unet", "", &warnings);
  detail::say(warnings);
  MOLE_CHECK_ARG(unet.config().in_channels == 3 && unet.config().out_channels == 3, base / "unet", "paints",
                 unet.config().out_channels, "channels; this study's pictures have 3 and no VAE");
  MOLE_CHECK_ARG(unet.config().text_width == clip.config().text.hidden, base / "unet",
                 "reads text states of width", unet.config().text_width, "and clip/ makes",
                 clip.config().text.hidden);
  return {std::move(clip), std::move(unet),
          mole::NoiseSchedule(mole::read_schedule_config(base / "scheduler" / "scheduler_config.json")),
          std::move(words)};
}

/// Experts from `names`: each a subject whose expert is shipped, or the folder or file of a LoRA (PEFT, diffusers,
/// kohya). Throws mole::ArgumentError for an empty list or a name that is neither, mole::FormatError, naming layer and
/// shapes, for a LoRA of another base.
template <class B>
std::vector<mole::LoraSet> load_experts(const Painter<B>& painter, const std::vector<std::string>& names) {
  MOLE_CHECK_ARG(!names.empty(),
                 "the list of experts is empty; name at least one, such as --experts 'dog face'");
  std::vector<mole::LoraSet> sets;
  for (const auto& name : names) {
    const auto place = expert_place(name);
    auto lora = mole::load_diffusion_lora(place.path, painter.unet.layers().table,
                                          painter.clip.text.layers().table, place.name);
    detail::say(lora.warnings);
    MOLE_CHECK_ARG(
        std::none_of(sets.begin(), sets.end(), [&](const auto& set) { return set.name == place.name; }),
        "--experts names", place.name, "twice");
    const auto n_text = lora.text.slots.size();
    MOLE_CHECK_ARG(n_text == 0 || !lora.unet.slots.empty(), "expert", place.name,
                   "adapts the text encoder alone; the experts of this study adapt the UNet");
    if (n_text > 0)
      detail::say({mole::message(
          "expert", place.name, "adapts", n_text,
          "layers of the text encoder, too; they are left out: this study adapts the UNet alone")});
    painter.unet.layers().table.check_layers(lora.unet);
    for (const auto& slot : lora.unet.slots) painter.unet.layers().table.fitting_factors(lora.unet, slot);
    sets.push_back(std::move(lora.unet));
  }
  return sets;
}

/// Noise for picture `number` of a seed [1, side, side, 3]: the same whichever pictures are painted with it.
template <class B>
Values<B> noise_of(std::uint64_t seed, std::size_t number) {
  return Values<B>::randn({1, side, side, 3}, {seed, number});
}

/// How pictures are painted: DDIM without guidance, which helps nothing here.
inline mole::SampleOptions paint_options(Index steps) { return {.steps = steps, .guidance = 1}; }

}  // namespace pictures
