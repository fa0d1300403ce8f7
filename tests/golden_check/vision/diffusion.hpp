#pragma once
// Goldens of a Stable Diffusion pipeline: text encoder, UNet, VAE, schedule, samplers, training loss.

#include <filesystem>
#include <string>
#include <vector>

#include <golden_check/vision/clip.hpp>
#include <mole/loss/mse.hpp>
#include <mole/models/diffusion/pipeline.hpp>

namespace golden {

/// Latents or pixels of a golden, channels last.
template <class T, class B>
Tensor<T, B> image_of(const Golden& golden, const std::string& name) {
  return channels_last(golden.tensor<T, B>(name));
}

/// One line: an image with its channels last against a tensor with its channels first.
template <class T, class B>
void compare_image(const Golden& golden, const Tensor<T, B>& found, const std::string& name) {
  golden.compare(name, channels_first(found.detach()), name);
}

/// A row of the text states.
template <class T, class B>
void check_text(const Golden& golden, const mole::StableDiffusion<T, B>& model) {
  const auto ids = golden.indices<B>("input_ids");
  const auto states = model.states(ids);
  golden.compare("text.last_hidden_state", states, "text.last_hidden_state");
  golden.compare("text.pooled", model.text.pooled(states, ids), "text.pooled");
}

/// The UNet on unet.* and unet_odd.*, module by module.
template <class T, class B>
void check_unet(const Golden& golden, const mole::UNet<T, B>& unet) {
  const mole::NoGrad off;
  const auto time = golden.indices<B>("unet.timestep");
  const auto text = golden.tensor<T, B>("unet.text");
  golden.compare("unet.time_sinusoid",
                 mole::timestep_sinusoid<T>(time, unet.config().channels.front(),
                                            {unet.config().flip_sin_to_cos, unet.config().freq_shift}),
                 "unet.time_sinusoid");
  mole::MolePass<T, B> pass;
  golden.compare("unet.time_embedding", unet.time_embedding(time, time.size(), pass), "unet.time_embedding");
  const mole::ModuleWatch<T, B> watch = [&](const std::string& name, const Tensor<T, B>& y) {
    const auto tensor = "unet.at." + name;
    if (golden.contains(tensor)) compare_image(golden, y, tensor);
  };
  compare_image(golden, unet(image_of<T, B>(golden, "unet.latents"), time, text, pass, watch), "unet.sample");
  const auto odd = image_of<T, B>(golden, "unet_odd.latents");
  const auto at = Tensor<Index, B>::from({1}, {Index(golden.setting("unet_odd.timestep", 501))});
  compare_image(golden, unet(odd, at, slice(text, 0, 0, odd.size(0)), pass), "unet_odd.sample");
}

template <class T, class B>
void check_vae(const Golden& golden, const mole::Vae<T, B>& vae) {
  const mole::NoGrad off;
  const auto posterior = vae.encode(image_of<T, B>(golden, "vae.image"));
  compare_image(golden, posterior.mean, "vae.mean");
  compare_image(golden, posterior.log_variance, "vae.logvar");
  compare_image(golden, vae.decode(image_of<T, B>(golden, "vae.latents")), "vae.decoded");
}

/// Whole numbers, all of which must be equal.
inline void compare_times(const Golden& golden, const std::string& name, const std::vector<Index>& found) {
  const auto expected = golden.read<Index>(name);
  if (found == expected)
    golden.compare_with(name, std::vector<double>{0}, {0});
  else
    golden.failure(name + " has other times");
}

inline void check_timesteps(const Golden& golden, const mole::ScheduleConfig& config) {
  const std::string prefix = "timesteps.";
  for (const auto& name : golden.file().names()) {
    if (name.rfind(prefix, 0) != 0) continue;
    golden.part(name, [&] {
      const auto dot = name.find('.', prefix.size());
      const auto spacing = name.substr(prefix.size(), dot - prefix.size());
      auto own = config;
      own.spacing = spacing == "leading"    ? mole::StepSpacing::leading
                    : spacing == "linspace" ? mole::StepSpacing::linspace
                                            : mole::StepSpacing::trailing;
      compare_times(golden, name, mole::NoiseSchedule(own).timesteps(std::stol(name.substr(dot + 1))));
    });
  }
}

template <class T, class B>
void check_samplers(const Golden& golden, const mole::StableDiffusion<T, B>& model) {
  const auto& schedule = model.schedule;
  golden.compare("schedule.alphas_cumprod", schedule.alphas_cumprod(), "schedule.alphas_cumprod");
  check_timesteps(golden, schedule.config());
  golden.part("ddim", [&] {
    const auto n = golden.shape("ddim.timesteps")[0];
    compare_times(golden, "ddim.timesteps", schedule.timesteps(n));
    std::vector<T> all;
    mole::SampleOptions options{.steps = n, .guidance = golden.setting("guidance", 3)};
    const auto latents = mole::sample(
        model.unet, schedule, image_of<T, B>(golden, "ddim.initial"), golden.tensor<T, B>("ddim.text"),
        golden.tensor<T, B>("ddim.negative"), options, [](std::size_t) {},
        [&](const mole::SampledStep<T, B>& step) {
          const auto values = channels_first(step.latents).to_host();
          all.insert(all.end(), values.begin(), values.end());
        });
    golden.compare("ddim.latents", all, "ddim.latents");
    compare_image(golden, model.vae.image01(latents), "ddim.image");
  });
  golden.part("ddpm", [&] {
    const auto steps = schedule.ddpm_steps(golden.shape("ddpm.timesteps")[0]);
    std::vector<Index> times;
    for (const auto& step : steps) times.push_back(step.time);
    compare_times(golden, "ddpm.timesteps", times);
    const std::string prefix = "ddpm.prev.";
    for (const auto& name : golden.file().names()) {
      if (name.rfind(prefix, 0) != 0) continue;
      const auto& step = steps[std::stoul(name.substr(prefix.size()))];
      golden.compare(
          name,
          schedule.ddpm(golden.tensor<T, B>("ddpm.model_output"), golden.tensor<T, B>("ddpm.sample"), step,
                        golden.tensor<T, B>("ddpm.noise")),
          name);
    }
  });
}

/// The training loss at train.*: noisy [S, h, w, C] and text may ask for gradients.
template <class T, class B>
Tensor<T, B> training_loss(const Golden& golden, const mole::UNet<T, B>& unet, const Tensor<T, B>& noisy,
                           const Tensor<T, B>& text, mole::MolePass<T, B>& pass) {
  const auto output = unet(noisy, golden.indices<B>("train.timestep"), text, pass);
  return mole::mse(output, image_of<T, B>(golden, "train.target"));
}

template <class T, class B>
void check_training(const Golden& golden, const mole::StableDiffusion<T, B>& model) {
  const auto times = golden.read<Index>("train.timestep");
  const auto clean = golden.tensor<T, B>("train.clean"), noise = golden.tensor<T, B>("train.noise");
  golden.compare("train.noisy", model.schedule.noisy(clean, noise, times), "train.noisy");
  golden.compare("train.target", model.schedule.target(clean, noise, times), "train.target");
  const auto noisy = golden.tensor<T, B>("train.noisy").set_requires_grad(),
             text = golden.tensor<T, B>("train.text").set_requires_grad();
  mole::MolePass<T, B> pass;
  const auto loss = training_loss(golden, model.unet, channels_last(noisy), text, pass);
  golden.compare("train.loss", loss, "train.loss");
  backward(loss);
  golden.compare("train.d_noisy", noisy.grad(), "train.d_noisy");
  golden.compare("train.d_text", text.grad(), "train.d_text");
}

/// A folder with base/ of a pipeline and expected.safetensors.
template <class T, class B>
void check_diffusion(Golden& golden, const std::filesystem::path& folder) {
  auto model = mole::load_stable_diffusion<T, B>(folder / "base");
  accept_vision(golden);
  golden.part("text", [&] { check_text(golden, model); });
  golden.part("unet", [&] { check_unet(golden, model.unet); });
  golden.part("vae", [&] { check_vae(golden, model.vae); });
  golden.part("samplers", [&] { check_samplers(golden, model); });
  golden.part("train", [&] { check_training(golden, model); });
}

}  // namespace golden
