#pragma once
// The diffusion loss (Ho et al. 2020): pictures are noised at random times, and the UNet is to say what the noise was,
// or the velocity.
//
//   x_t = sqrt(a_t) z + sqrt(1 - a_t) n,   loss = mean (unet(x_t, t, text) - target)^2

#include <cstdint>
#include <vector>

#include <mole/loss/mse.hpp>
#include <mole/models/diffusion/schedule.hpp>
#include <mole/models/unet/model.hpp>
#include <mole/ops/gather.hpp>
#include <mole/ops/shape.hpp>

namespace mole {

/// Pictures with what the UNet reads for each, to draw batches from.
template <class T, class B>
struct CaptionedLatents {
  Tensor<T, B> latents;  ///< [n, H, W, C]
  Tensor<T, B> states;   ///< [n, L, d]
};

/// Noisy pictures, their times and states, and what the UNet is to say.
template <class T, class B>
struct NoisyBatch {
  Tensor<T, B> noisy, states, target;  ///< [S, H, W, C], [S, L, d], [S, H, W, C]
  Tensor<Index, B> times;              ///< [S]

  /// f(tensor) for each of them, as Replayed asks for.
  template <class F>
  void each_tensor(F f) {
    f(noisy), f(states), f(target), f(times);
  }

  /// Those of the pictures [first, last).
  NoisyBatch rows(Index first, Index last) const {
    return {slice(noisy, 0, first, last), slice(states, 0, first, last), slice(target, 0, first, last),
            slice(times, 0, first, last)};
  }
};

/// What is drawn for a batch of pictures, on the host.
template <class T>
struct DrawnNoise {
  std::vector<Index> times;  ///< [S]
  std::vector<T> noise;      ///< [S, ..]
};

/// Times and noise for pictures of the shape [S, ..]. They can be drawn while a device works on the step before.
template <class T>
DrawnNoise<T> draw_noise(const NoiseSchedule& schedule, const Shape& pictures, RandomStream random) {
  DrawnNoise<T> drawn;
  for (Index i = 0; i < pictures[0]; ++i)
    drawn.times.push_back(
        static_cast<Index>(uniform(random, i) * static_cast<double>(schedule.config().train_steps)));
  drawn.noise = normal_numbers<T>(pictures.size(), {random.seed, random.stream + (std::uint64_t{1} << 40)});
  return drawn;
}

/// Pictures z [S, ..] with their states, noised as drawn. Throws ShapeError.
template <class T, class B>
NoisyBatch<T, B> noised(const NoiseSchedule& schedule, const Tensor<T, B>& pictures,
                        const Tensor<T, B>& states, const DrawnNoise<T>& drawn) {
  const auto noise = Tensor<T, B>::from(pictures.shape(), drawn.noise);
  return {schedule.noisy(pictures, noise, drawn.times), states, schedule.target(pictures, noise, drawn.times),
          Tensor<Index, B>::from({pictures.size(0)}, drawn.times)};
}

/// Pictures z [S, ..] with their states, noised as `random` draws it. Throws ShapeError.
template <class T, class B>
NoisyBatch<T, B> noised(const NoiseSchedule& schedule, const Tensor<T, B>& pictures,
                        const Tensor<T, B>& states, RandomStream random) {
  return noised(schedule, pictures, states, draw_noise<T>(schedule, pictures.shape(), random));
}

/// S of the pictures, drawn from `random` with repetition, and noised.
template <class T, class B>
NoisyBatch<T, B> draw_noisy(const NoiseSchedule& schedule, const CaptionedLatents<T, B>& pictures, Index S,
                            RandomStream random) {
  const Index n = pictures.latents.size(0);
  std::vector<Index> rows;
  const RandomStream choice{random.seed, random.stream + (std::uint64_t{1} << 41)};
  for (Index i = 0; i < S; ++i)
    rows.push_back(static_cast<Index>(uniform(choice, i) * static_cast<double>(n)));
  const auto picked = [&](const Tensor<T, B>& all) {
    const auto shape = all.shape().with(0, S);
    return reshape(gather(reshape(all, {n, -1}), Tensor<Index, B>::from({S}, rows)), shape);
  };
  return noised(schedule, picked(pictures.latents), picked(pictures.states), random);
}

/// The diffusion loss of a batch, the mean over all of its numbers; `pass` holds the gates.    Pullback: that of the
/// UNet.    Throws as the UNet does.
template <class T, class B>
Tensor<T, B> diffusion_loss(const UNet<T, B>& unet, const NoisyBatch<T, B>& batch, MolePass<T, B>& pass) {
  return mse(unet(batch.noisy, batch.times, batch.states, pass), batch.target);
}

}  // namespace mole
