// `mole inspect` of a folder of diffusers: its parts, sizes and scheduler, and what is wrong with it.

#include <functional>
#include <iostream>
#include <set>
#include <sstream>

#include <mole/backends/cpu.hpp>
#include <mole/core/quote.hpp>
#include <mole/models/diffusion/pipeline.hpp>
#include <mole/text/clip_tokenizer.hpp>

#include "common/table.hpp"
#include "mole/inspecting.hpp"
#include "mole/pictures/commands.hpp"
#include "mole/pictures/files.hpp"

namespace program {

namespace {

namespace fs = std::filesystem;

/// What is printed in the end.
struct Report {
  std::vector<std::vector<std::string>> parts{{"part", "what", "tensors", "type", "parameters", "size"}};
  std::vector<std::string> wrong;

  /// Runs a look at a part; what it throws is wrong with the folder.
  void look(const std::function<void()>& at) {
    try {
      at();
    } catch (const mole::Error& error) {
      wrong.emplace_back(error.what());
    }
  }

  /// The weights of a part, before they are compared with its configuration.
  void add(const std::string& part, const std::string& what, const mole::Checkpoint& file) {
    std::set<std::string> types;
    Index parameters = 0, bytes = 0;
    const auto names = file.names();
    for (const auto& name : names) {
      const auto& own = file.file_of(name);
      if (own.unread().contains(name)) continue;
      const auto& view = own.at(name);
      types.insert(std::string(mole::dtype_name(view.dtype)));
      parameters += view.shape.size();
      bytes += view.bytes;
    }
    std::string type;
    for (const auto& one : types) type += (type.empty() ? "" : ", ") + one;
    parts.push_back(
        {part, what, std::to_string(names.size()), type, std::to_string(parameters), size_text(bytes)});
  }
};

/// Reads the header of a part's weights and compares it with the model of its configuration.
template <class Model, class Config>
void look_at(Report& report, const fs::path& folder, const std::string& part, const std::string& what,
             const std::string& stem, const Config& config, const mole::ParameterNames& names) {
  const mole::Checkpoint file(folder / part, stem);
  report.add(part, what, file);
  Model model(config);
  mole::check_parameters(model, file, names);
}

std::string listed(const std::vector<Index>& values) {
  std::string text;
  for (const Index value : values) text += (text.empty() ? "" : ", ") + std::to_string(value);
  return text;
}

std::string schedule_text(const mole::ScheduleConfig& c) {
  const auto spacing = c.spacing == mole::StepSpacing::leading    ? "leading"
                       : c.spacing == mole::StepSpacing::linspace ? "linspace"
                                                                  : "trailing";
  return std::to_string(c.train_steps) + " steps, spacing " + spacing + ", offset " +
         std::to_string(c.steps_offset) + (c.clip_sample ? ", cuts the clean sample" : "");
}

}  // namespace

void inspect_pictures(const fs::path& folder) {
  using Cpu = mole::Cpu;
  Report report;
  std::string variant;
  std::cout << folder.string() << ": a pipeline of diffusers\n";
  report.look([&] { mole::detail::check_pipeline(folder); });
  report.look([&] {
    variant = find_variant(folder);
    line("weights",
         variant.empty() ? "plain" : "the variant " + variant + " (*." + variant + ".safetensors)");
  });
  const auto stem = mole::diffusers_stem(variant);
  std::optional<mole::UNetConfig> unet;
  std::optional<mole::VaeConfig> vae;
  std::optional<mole::ClipTextConfig> text;
  report.look([&] {
    unet = mole::read_unet_config(folder / "unet" / "config.json");
    line("UNet", "channels " + listed(unet->channels) + "; heads " + listed(unet->heads));
    look_at<mole::UNet<float, Cpu>>(report, folder, "unet", "UNet2DConditionModel", stem, *unet,
                                    {.ones_at_end = true});
  });
  report.look([&] {
    vae = mole::read_vae_config(folder / "vae" / "config.json");
    line("VAE",
         "channels " + listed(vae->channels) + "; scaling factor " + mole::message(vae->scaling_factor));
    look_at<mole::Vae<float, Cpu>>(report, folder, "vae", "AutoencoderKL", stem, *vae,
                                   mole::detail::vae_names());
  });
  report.look([&] {
    text = mole::read_clip_text_config(folder / "text_encoder" / "config.json");
    line("text encoder", std::to_string(text->positions) + " tokens of " + std::to_string(text->vocabulary) +
                             ", width " + std::to_string(text->hidden) + ", " + text->activation);
    look_at<mole::ClipText<float, Cpu>>(report, folder, "text_encoder", "CLIPTextModel",
                                        variant.empty() ? "model" : "model." + variant, *text,
                                        mole::detail::clip_names());
  });
  report.look([&] {
    const mole::ClipTokenizer tokenizer(folder / "tokenizer");
    line("tokenizer", std::to_string(tokenizer.size()) + " tokens, padded by number " +
                          std::to_string(tokenizer.padding()));
    if (text && tokenizer.size() > text->vocabulary)
      report.wrong.push_back("the tokenizer has " + std::to_string(tokenizer.size()) +
                             " tokens and the text encoder " + std::to_string(text->vocabulary));
  });
  report.look([&] {
    const auto path = folder / "scheduler" / "scheduler_config.json";
    const auto c = mole::read_schedule_config(path);
    const auto json = mole::read_json_object(path);
    line("scheduler", mole::detail::ConfigFields(json, "").text("_class_name", "not said") +
                          "; drawn by --sampler ddim or ddpm");
    line("prediction",
         c.prediction == mole::Prediction::epsilon ? "epsilon (the noise)" : "v_prediction (the velocity)");
    line("schedule", schedule_text(c));
  });
  if (unet && vae) {
    const Index factor = Index{1} << (vae->channels.size() - 1), side = unet->sample_size * factor;
    line("pictures", std::to_string(side) + " x " + std::to_string(side) +
                         " pixels; sides are multiples of " + std::to_string(factor));
    if (vae->latent_channels != unet->in_channels)
      report.wrong.push_back("the VAE's latents have " + std::to_string(vae->latent_channels) +
                             " channels and the UNet reads " + std::to_string(unet->in_channels));
  }
  if (unet && text && text->hidden != unet->text_width)
    report.wrong.push_back("the text encoder's width is " + std::to_string(text->hidden) +
                           " and the UNet reads " + std::to_string(unet->text_width));
  for (const auto& wrong : report.wrong) line("wrong", wrong);
  if (report.wrong.empty()) line("wrong", "nothing was found");
  std::cout << "\n" << common::aligned_text(report.parts);
}

}  // namespace program
