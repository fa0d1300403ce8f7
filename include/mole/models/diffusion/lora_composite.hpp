#pragma once
// Training-free ways to paint with several LoRAs (Zhong et al. 2024, arXiv 2402.16843): Switch takes one of
// them a step, Composite averages what each of them says.

#include <cstddef>
#include <vector>

#include <mole/models/diffusion/sample.hpp>

namespace mole {

namespace detail {

/// Only expert i counts. Its weight is then 1 everywhere, in gates and outside of them.
template <class T, class B>
void only_expert(UNet<T, B>& unet, std::size_t i) {
  std::vector<bool> keep(static_cast<std::size_t>(unet.mixer().n_experts()), false);
  keep[i] = true;
  unet.mixer().set_mask(keep);
}
template <class T, class B>
void all_experts(UNet<T, B>& unet) {
  unet.mixer().set_mask(std::vector<bool>(static_cast<std::size_t>(unet.mixer().n_experts()), true));
}

}  // namespace detail

/// LoRA Switch: sample() with one expert at a time, the next after every `each` steps, in the order in which
/// they were attached. A gate of which it adapts nothing gives no weight. Afterwards all experts count again.
/// Throws ArgumentError if nothing is attached or `each` is below 1, and as sample() does.
template <class T, class B>
Tensor<T, B> sample_switch(UNet<T, B>& unet, const NoiseSchedule& schedule, const Tensor<T, B>& latents,
                           const Tensor<T, B>& text, const Tensor<T, B>& negative,
                           const SampleOptions& options, std::size_t each = 5) {
  MOLE_CHECK_ARG(each >= 1, "sample_switch: expected at least one step for each expert, got", each);
  const auto n = static_cast<std::size_t>(unet.mixer().n_experts());
  const auto result = sample(
      unet, schedule, latents, text, negative, options,
      [&](std::size_t step) { detail::only_expert(unet, step / each % n); }, [](const auto&) {});
  detail::all_experts(unet);
  return result;
}

/// LoRA Composite's output: the mean over the experts of what the UNet says with each alone; with guidance
/// above 1 after guided(). Shapes as UNet's; text and negative [S, L, d].    Afterwards all experts count
/// again.
/// Throws ArgumentError if nothing is attached, and as UNet does.
template <class T, class B>
Tensor<T, B> composite_output(UNet<T, B>& unet, const Tensor<T, B>& latents, Index time,
                              const Tensor<T, B>& text, const Tensor<T, B>& negative, double guidance) {
  const auto n = static_cast<std::size_t>(unet.mixer().n_experts());
  const bool both = guidance > 1;
  const auto states = both ? concat<T, B>({negative, text}, 0) : text;
  const auto input = both ? concat<T, B>({latents, latents}, 0) : latents;
  const auto at = Tensor<Index, B>::from({1}, {time});
  Tensor<T, B> sum;
  for (std::size_t i = 0; i < n; ++i) {
    detail::only_expert(unet, i);
    MolePass<T, B> pass;
    const auto output = unet(input, at, states, pass);
    sum = sum.defined() ? add(sum, output) : output;
  }
  detail::all_experts(unet);
  const auto mean = scale(sum, static_cast<Compute<T>>(1 / static_cast<double>(n)));
  return both ? guided(mean, guidance) : mean;
}

/// LoRA Composite: DDIM or DDPM on composite_output(). Nothing is recorded on the tape.    Throws as it and
/// sample() do.
template <class T, class B>
Tensor<T, B> sample_composite(UNet<T, B>& unet, const NoiseSchedule& schedule, Tensor<T, B> latents,
                              const Tensor<T, B>& text, const Tensor<T, B>& negative,
                              const SampleOptions& options) {
  const NoGrad off;
  return detail::sample_by(
      schedule, std::move(latents), options,
      [&](std::size_t, Index time, const Tensor<T, B>& x) {
        return composite_output(unet, x, time, text, negative, options.guidance);
      },
      [](const auto&, const auto&, const auto&) {});
}

}  // namespace mole
