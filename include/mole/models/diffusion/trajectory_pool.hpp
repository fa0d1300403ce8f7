#pragma once
// Pictures in flight, to train on: each is at a step of the sampler of its own. One call of the UNet serves twice.
// With its gradient it gives the picture that a loss judges. Without, it moves every picture one step on. So training
// meets the latents that the model itself makes, at no more cost than the step.

#include <cstddef>
#include <utility>
#include <vector>

#include <mole/models/diffusion/schedule.hpp>
#include <mole/models/unet/model.hpp>
#include <mole/ops/gather.hpp>

namespace mole {

/// How many pictures are in flight, and the steps of their sampler (DDIM, eta 0).
struct PoolOptions {
  Index pictures = 8;
  Index steps = 20;
  RandomStream random{0, 0};  ///< its seed; noise and prompts are drawn from streams from here on
};

/// What a step of the pool shows of the pictures before it.
template <class T, class B>
struct PoolStep {
  Tensor<T, B> clean;                ///< [S, H, W, C]: what the UNet says they will be, on the tape
  std::vector<std::size_t> prompts;  ///< of each, a row of the states
  std::vector<std::size_t> steps;    ///< of each, counted from 0, the noisiest
};

/// S pictures in flight. At the start they are spread over the steps of the sampler. A picture that is done begins
/// again: new noise, and another prompt. All is a pure function of the options and of what the model says.
template <class T, class B>
class TrajectoryPool {
 public:
  /// picture: [H, W, C] of the latents. states [P, L, d]: what the UNet reads for each of P prompts.
  /// Throws ArgumentError for no pictures or a number of steps that does not fit, ShapeError for other shapes.
  TrajectoryPool(const NoiseSchedule& schedule, Shape picture, Tensor<T, B> states,
                 const PoolOptions& options = {})
      : schedule_(schedule),
        uncut_(without_cut(schedule)),
        steps_(schedule.ddim_steps(options.steps)),
        states_(std::move(states)),
        random_{options.random.seed, options.random.stream} {
    MOLE_CHECK_ARG(options.pictures >= 1, "TrajectoryPool: expected at least one picture, got",
                   options.pictures);
    MOLE_CHECK_SHAPE(picture.rank() == 3 && picture.size() > 0 && states_.rank() == 3 && states_.size() > 0,
                     "TrajectoryPool: expected pictures [H, W, C] and states [prompts, L, d], got", picture,
                     "and", states_.shape());
    one_ = Shape{1, picture[0], picture[1], picture[2]};
    const auto S = static_cast<std::size_t>(options.pictures);
    std::vector<Tensor<T, B>> starts;
    for (std::size_t i = 0; i < S; ++i) {
      starts.push_back(fresh());
      at_.push_back(i * steps_.size() / S);
      prompts_.push_back(draw_prompt());
    }
    latents_ = concat<T, B>(starts, 0);
  }

  /// The pictures now [S, H, W, C], the noisy ones that the next step reads.
  const Tensor<T, B>& latents() const { return latents_; }

  /// One call of the UNet on all pictures, which moves them on. `pass` holds its gates.    Pullback of `clean`: that
  /// of the UNet; where the schedule cuts clean pictures (clip_sample), the gradient passes as if nothing were cut, or
  /// a picture at its limits could not be mended.    Throws as the UNet does.
  PoolStep<T, B> step(const UNet<T, B>& unet, MolePass<T, B>& pass) {
    std::vector<SamplerStep> moves;
    std::vector<Index> times;
    for (const std::size_t at : at_) {
      moves.push_back(steps_[at]);
      times.push_back(steps_[at].time);
    }
    const auto S = static_cast<Index>(times.size());
    const auto output = unet(latents_, Tensor<Index, B>::from({S}, times), states(), pass);
    PoolStep<T, B> seen{clean(output, times), prompts_, at_};
    const NoGrad off;
    move(schedule_.ddim(output.detach(), latents_, moves));
    return seen;
  }

 private:
  Tensor<T, B> fresh() { return Tensor<T, B>::randn(one_, random_.next()); }
  std::size_t draw_prompt() {
    const auto P = static_cast<double>(states_.size(0));
    return static_cast<std::size_t>(uniform(random_.next(), 0) * P);
  }

  /// The states of the pictures' prompts [S, L, d].
  Tensor<T, B> states() const {
    std::vector<Index> rows(prompts_.begin(), prompts_.end());
    const Index P = states_.size(0), L = states_.size(1), d = states_.size(2);
    const auto picked =
        gather(reshape(states_, {P, L * d}), Tensor<Index, B>::from({static_cast<Index>(rows.size())}, rows));
    return reshape(picked, {picked.size(0), L, d});
  }

  Tensor<T, B> clean(const Tensor<T, B>& output, const std::vector<Index>& times) const {
    const auto clean = uncut_.denoised(output, latents_, times).clean;
    if (!schedule_.config().clip_sample) return clean;
    const double range = schedule_.config().clip_sample_range;
    return clamp(clean, -range, range, ClampGradient::straight_through);
  }

  static NoiseSchedule without_cut(const NoiseSchedule& schedule) {
    auto config = schedule.config();
    config.clip_sample = false;
    return NoiseSchedule(config);
  }

  void move(const Tensor<T, B>& next) {
    std::vector<Tensor<T, B>> parts;
    for (std::size_t i = 0; i < at_.size(); ++i) {
      const auto row = static_cast<Index>(i);
      const bool done = ++at_[i] == steps_.size();
      parts.push_back(done ? fresh() : slice(next, 0, row, row + 1));
      if (!done) continue;
      at_[i] = 0;
      prompts_[i] = draw_prompt();
    }
    latents_ = concat<T, B>(parts, 0);
  }

  NoiseSchedule schedule_, uncut_;
  std::vector<SamplerStep> steps_;
  Tensor<T, B> states_;
  Generator random_;
  Shape one_;
  Tensor<T, B> latents_;
  std::vector<std::size_t> at_, prompts_;
};

}  // namespace mole
