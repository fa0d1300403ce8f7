#pragma once
// Pictures from noise: the loop of a sampler over a UNet.

#include <cstddef>
#include <functional>
#include <string>
#include <type_traits>
#include <vector>

#include <mole/models/diffusion/schedule.hpp>
#include <mole/models/unet/model.hpp>

namespace mole {

/// How sample() goes from noise to latents.
struct SampleOptions {
  enum class Sampler { ddim, ddpm } sampler = Sampler::ddim;
  Index steps = 50;
  double guidance = 7.5;     ///< w of guided(); at most 1: the negative text is not read
  double eta = 0;            ///< of DDIM
  RandomStream noise{0, 0};  ///< what DDPM, and DDIM with eta above 0, draw from
};

/// What a step of sample() did.
template <class T, class B>
struct SampledStep {
  std::size_t number;  ///< from 0
  SamplerStep step;
  const Tensor<T, B>& latents;  ///< after it
  const MolePass<T, B>& pass;   ///< its gates; with guidance, rows [negative | prompt]
};

namespace detail {

/// The loop of a sampler: output(i, time, latents) is the guided output of step i, done(i, step, latents)
/// comes after.
template <class T, class B, class Output, class Done>
Tensor<T, B> sample_by(const NoiseSchedule& schedule, Tensor<T, B> latents, const SampleOptions& options,
                       Output output, Done done) {
  const bool ddpm = options.sampler == SampleOptions::Sampler::ddpm;
  const auto steps = ddpm ? schedule.ddpm_steps(options.steps) : schedule.ddim_steps(options.steps);
  RandomStream stream = options.noise;
  for (std::size_t i = 0; i < steps.size(); ++i) {
    const auto said = output(i, steps[i].time, latents);
    Tensor<T, B> noise;
    if (ddpm || options.eta > 0) {
      noise = Tensor<T, B>::randn(latents.shape(), stream);
      ++stream.stream;
    }
    latents = ddpm ? schedule.ddpm(said, latents, steps[i], noise)
                   : schedule.ddim(said, latents, steps[i], options.eta, noise);
    done(i, steps[i], latents);
  }
  return latents;
}

}  // namespace detail

/// Latents [S, H, W, C] from noise of that shape, given the states `text` and `negative` [S, L, d]. With
/// guidance above 1 the model runs on the batch [negative | prompt]; gates are per sample, so the halves have
/// their own. before(number) is called before each step, where experts may be exchanged, or before(number, pass),
/// where gates may be set by hand (MolePass::gates); after(SampledStep) after it. Nothing is recorded on the tape.
/// Throws ArgumentError for a number of steps that does not fit, ShapeError for shapes that do not.
template <class T, class B, class Before, class After>
Tensor<T, B> sample(const UNet<T, B>& unet, const NoiseSchedule& schedule, const Tensor<T, B>& latents,
                    const Tensor<T, B>& text, const Tensor<T, B>& negative, const SampleOptions& options,
                    Before before, After after) {
  const NoGrad off;
  const bool both = options.guidance > 1;
  const auto states = both ? concat<T, B>({negative, text}, 0) : text;
  MolePass<T, B> pass;
  return detail::sample_by(
      schedule, latents, options,
      [&](std::size_t i, Index time, const Tensor<T, B>& x) {
        pass = {};
        if constexpr (std::is_invocable_v<Before&, std::size_t, MolePass<T, B>&>)
          before(i, pass);
        else
          before(i);
        const auto input = both ? concat<T, B>({x, x}, 0) : x;
        const auto output = unet(input, Tensor<Index, B>::from({1}, {time}), states, pass);
        return both ? guided(output, options.guidance) : output;
      },
      [&](std::size_t i, const SamplerStep& step, const Tensor<T, B>& x) {
        after(SampledStep<T, B>{i, step, x, pass});
      });
}
/// The same without looking on.
template <class T, class B>
Tensor<T, B> sample(const UNet<T, B>& unet, const NoiseSchedule& schedule, const Tensor<T, B>& latents,
                    const Tensor<T, B>& text, const Tensor<T, B>& negative,
                    const SampleOptions& options = {}) {
  return sample(
      unet, schedule, latents, text, negative, options, [](std::size_t) {}, [](const auto&) {});
}

}  // namespace mole
