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
  bool spread = true;         ///< at the start over the steps of the sampler; else all are at the noisiest
};

/// What a step of the pool shows of pictures before it.
template <class T, class B>
struct PoolStep {
  Tensor<T, B> clean;                ///< [n, H, W, C]: what the UNet says they will be, on the tape
  std::vector<std::size_t> prompts;  ///< of each, a row of the states
  std::vector<std::size_t> steps;    ///< of each, counted from 0, the noisiest
  Tensor<T, B> next;                 ///< [n, H, W, C]: they one step on, off the tape
};

/// S pictures in flight. A picture that is done begins again: new noise, and another prompt. All is a pure function of
/// the options and of what the model says. What is drawn depends on the number of the step alone: pictures may be
/// computed in parts, by several ranks, and a run may be resumed.
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
        start_{options.random.seed, options.random.stream} {
    MOLE_CHECK_ARG(options.pictures >= 1, "TrajectoryPool: expected at least one picture, got",
                   options.pictures);
    MOLE_CHECK_SHAPE(picture.rank() == 3 && picture.size() > 0 && states_.rank() == 3 && states_.size() > 0,
                     "TrajectoryPool: expected pictures [H, W, C] and states [prompts, L, d], got", picture,
                     "and", states_.shape());
    one_ = Shape{1, picture[0], picture[1], picture[2]};
    first_.resize(static_cast<std::size_t>(options.pictures));
    if (options.spread)
      for (std::size_t i = 0; i < first_.size(); ++i) first_[i] = i * steps_.size() / first_.size();
    begin();
  }

  /// The pictures now [S, H, W, C], the noisy ones that the next step reads.
  const Tensor<T, B>& latents() const { return latents_; }

  /// How many steps the pictures were moved on.
  Index done() const { return done_; }

  /// One call of the UNet on all pictures, which moves them on. `pass` holds its gates.    Pullback of `clean`: that
  /// of the UNet; where the schedule cuts clean pictures (clip_sample), the gradient passes as if nothing were cut, or
  /// a picture at its limits could not be mended.    Throws as the UNet does.
  PoolStep<T, B> step(const UNet<T, B>& unet, MolePass<T, B>& pass) {
    auto seen = look(unet, pass, 0, latents_.size(0));
    move_on(seen.next);
    return seen;
  }

  /// The same for the pictures [first, last) alone, all of which stay where they are: parts of a step, after which
  /// move_on() takes the `next` of all parts. Pullback and errors as there; ShapeError for pictures that are none.
  PoolStep<T, B> look(const UNet<T, B>& unet, MolePass<T, B>& pass, Index first, Index last) const {
    MOLE_CHECK_SHAPE(0 <= first && first < last && last <= latents_.size(0), "TrajectoryPool: there are",
                     latents_.size(0), "pictures, and not those from", first, "to", last);
    PoolStep<T, B> seen;
    std::vector<SamplerStep> moves;
    std::vector<Index> times;
    for (auto i = static_cast<std::size_t>(first); i < static_cast<std::size_t>(last); ++i) {
      seen.prompts.push_back(prompts_[i]);
      seen.steps.push_back(at_[i]);
      moves.push_back(steps_[at_[i]]);
      times.push_back(moves.back().time);
    }
    const bool all = last - first == latents_.size(0);
    const auto latents = all ? latents_ : slice(latents_, 0, first, last);
    const auto output =
        unet(latents, Tensor<Index, B>::from({last - first}, times), states(seen.prompts), pass);
    seen.clean = clean(output, latents, times);
    const NoGrad off;
    seen.next = schedule_.ddim(output.detach(), latents, moves);
    return seen;
  }

  /// Moves every picture a step on: to `next` [S, H, W, C], or to new noise where it is done. Throws ShapeError.
  void move_on(const Tensor<T, B>& next) {
    MOLE_CHECK_SHAPE(next.shape() == latents_.shape(), "TrajectoryPool: expected pictures", latents_.shape(),
                     "got", next.shape());
    std::vector<Tensor<T, B>> parts;
    for (std::size_t i = 0; i < at_.size(); ++i) {
      const auto row = static_cast<Index>(i);
      if (++at_[i] < steps_.size()) {
        parts.push_back(slice(next, 0, row, row + 1));
      } else {
        parts.push_back(Tensor<T, B>::randn(one_, random_.next()));
        restart(i);
      }
    }
    latents_ = concat<T, B>(parts, 0).detach();
    ++done_;
  }

  /// The pool after `done` steps, where the pictures were `latents` [S, H, W, C]: to resume a run.
  /// Throws ArgumentError for a negative number, ShapeError for other pictures.
  void resume(Index done, const Tensor<T, B>& latents) {
    MOLE_CHECK_ARG(done >= 0, "TrajectoryPool: expected a number of steps, got", done);
    MOLE_CHECK_SHAPE(latents.shape() == latents_.shape(), "TrajectoryPool: expected pictures",
                     latents_.shape(), "got", latents.shape());
    begin();
    for (; done_ < done; ++done_)
      for (std::size_t i = 0; i < at_.size(); ++i) {
        if (++at_[i] < steps_.size()) continue;
        random_.next();  // the noise
        restart(i);
      }
    latents_ = latents.clone();
  }

 private:
  /// All pictures as they are before the first step.
  void begin() {
    random_ = start_;
    done_ = 0;
    at_ = first_;
    prompts_.resize(at_.size());
    std::vector<Tensor<T, B>> noise;
    for (auto& prompt : prompts_) {
      noise.push_back(Tensor<T, B>::randn(one_, random_.next()));
      prompt = draw_prompt();
    }
    latents_ = concat<T, B>(noise, 0);
  }
  /// Picture i begins again; its noise has been drawn.
  void restart(std::size_t i) {
    at_[i] = 0;
    prompts_[i] = draw_prompt();
  }
  std::size_t draw_prompt() {
    const auto P = static_cast<double>(states_.size(0));
    return static_cast<std::size_t>(uniform(random_.next(), 0) * P);
  }

  /// The states of these prompts [n, L, d].
  Tensor<T, B> states(const std::vector<std::size_t>& prompts) const {
    const std::vector<Index> rows(prompts.begin(), prompts.end());
    const Index P = states_.size(0), L = states_.size(1), d = states_.size(2);
    const auto picked =
        gather(reshape(states_, {P, L * d}), Tensor<Index, B>::from({static_cast<Index>(rows.size())}, rows));
    return reshape(picked, {picked.size(0), L, d});
  }

  Tensor<T, B> clean(const Tensor<T, B>& output, const Tensor<T, B>& latents,
                     const std::vector<Index>& times) const {
    const auto clean = uncut_.denoised(output, latents, times).clean;
    if (!schedule_.config().clip_sample) return clean;
    const double range = schedule_.config().clip_sample_range;
    return clamp(clean, -range, range, ClampGradient::straight_through);
  }

  static NoiseSchedule without_cut(const NoiseSchedule& schedule) {
    auto config = schedule.config();
    config.clip_sample = false;
    return NoiseSchedule(config);
  }

  NoiseSchedule schedule_, uncut_;
  std::vector<SamplerStep> steps_;
  Tensor<T, B> states_;
  Generator start_, random_;
  Shape one_;
  Tensor<T, B> latents_;
  std::vector<std::size_t> first_, at_,
      prompts_;  ///< of each the step it starts at, its step now, and its prompt
  Index done_ = 0;
};

}  // namespace mole
