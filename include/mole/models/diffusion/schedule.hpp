#pragma once
// The noise of a diffusion model over its training's steps, and the samplers that take it away again.
//
//   a_t = product over i <= t of (1 - beta_i)
//   x_t = sqrt(a_t) z + sqrt(1 - a_t) n                      z clean, n normal noise
//   the model's output o is n (epsilon) or v = sqrt(a_t) n - sqrt(1 - a_t) z

#include <algorithm>
#include <cmath>
#include <numbers>
#include <string>
#include <utility>
#include <vector>

#include <mole/core/error.hpp>
#include <mole/ops/arithmetic.hpp>
#include <mole/ops/clamp.hpp>
#include <mole/ops/shape.hpp>

namespace mole {

/// What a denoiser's output is.
enum class Prediction { epsilon, velocity };
/// Where the steps of a sampler lie on the training's grid.
enum class StepSpacing { leading, linspace, trailing };
/// How the betas go over the training's steps.
enum class BetaSchedule {
  linear,         ///< from beta_start to beta_end
  scaled_linear,  ///< their roots are linear, not they themselves
  squared_cosine  ///< a_t falls as cos^2 (Nichol & Dhariwal 2021), no beta above 0.999; start and end are not read
};

/// A noise schedule. The defaults are those of Stable Diffusion.
struct ScheduleConfig {
  Index train_steps = 1000;
  double beta_start = 0.00085, beta_end = 0.012;
  BetaSchedule betas = BetaSchedule::scaled_linear;
  Prediction prediction = Prediction::epsilon;
  bool clip_sample = false;  ///< the clean sample is cut to clip_sample_range at every step
  double clip_sample_range = 1;
  bool set_alpha_to_one = false;  ///< the last step of DDIM goes to a = 1, else to a_0
  Index steps_offset = 1;         ///< added to the steps of leading spacing
  StepSpacing spacing = StepSpacing::leading;
};

/// A step of a sampler: from one time of the training's grid to the next, which is negative after the last.
struct SamplerStep {
  Index time = 0, next = -1;
};

/// The clean sample and the noise that a denoiser's output stands for.
template <class T, class B>
struct Denoised {
  Tensor<T, B> clean, noise;
};

/// A schedule in double precision.
class NoiseSchedule {
 public:
  /// Throws ArgumentError for a number of steps below 1, or betas that are not in order within (0, 1).
  explicit NoiseSchedule(const ScheduleConfig& config = {}) : config_(config) {
    const auto& c = config_;
    MOLE_CHECK_ARG(c.train_steps >= 1 && c.train_steps <= 1'000'000,
                   "NoiseSchedule: expected 1 to 1000000 steps, got", c.train_steps);
    MOLE_CHECK_ARG(c.beta_start > 0 && c.beta_end >= c.beta_start && c.beta_end < 1,
                   "NoiseSchedule: expected 0 < beta_start <= beta_end < 1, got", c.beta_start, "and",
                   c.beta_end);
    MOLE_CHECK_ARG(c.clip_sample_range > 0, "NoiseSchedule: expected a clip_sample_range above 0, got",
                   c.clip_sample_range);
    double product = 1;
    for (Index i = 0; i < c.train_steps; ++i) alphas_.push_back(product *= 1 - beta(i));
  }

  const ScheduleConfig& config() const { return config_; }
  /// a_t for every t of the training's grid.
  const std::vector<double>& alphas_cumprod() const { return alphas_; }

  /// The times of n steps, from the noisiest on, as diffusers places them. Throws ArgumentError for n outside
  /// [1, train_steps], and where the offset leads beyond the grid.
  std::vector<Index> timesteps(Index n) const {
    const Index all = config_.train_steps;
    MOLE_CHECK_ARG(n >= 1 && n <= all, "timesteps: expected 1 to", all, "steps, got", n);
    std::vector<Index> times;
    // Halves round to the even neighbour, as NumPy's do.
    const auto whole = [](double value) { return static_cast<Index>(std::nearbyint(value)); };
    for (Index i = 0; i < n; ++i) {
      const Index back = n - 1 - i;
      if (config_.spacing == StepSpacing::leading) {
        times.push_back(back * (all / n) + config_.steps_offset);
      } else if (config_.spacing == StepSpacing::linspace) {
        const double step = n == 1 ? 0 : static_cast<double>(all - 1) / static_cast<double>(n - 1);
        times.push_back(whole(static_cast<double>(back) * step));
      } else {
        const double step = static_cast<double>(all) / static_cast<double>(n);
        times.push_back(whole(static_cast<double>(all) - static_cast<double>(i) * step) - 1);
      }
    }
    MOLE_CHECK_ARG(times.front() < all, "timesteps:", n, "steps with steps_offset", config_.steps_offset,
                   "begin at", times.front(), "of", all, "; take fewer");
    return times;
  }

  /// The steps of DDIM: each goes back by train_steps / n, whatever the spacing.
  std::vector<SamplerStep> ddim_steps(Index n) const {
    std::vector<SamplerStep> steps;
    for (const Index time : timesteps(n)) steps.push_back({time, time - config_.train_steps / n});
    return steps;
  }
  /// The steps of DDPM: each goes to the next of them, the last to none.
  std::vector<SamplerStep> ddpm_steps(Index n) const {
    const auto times = timesteps(n);
    std::vector<SamplerStep> steps;
    for (std::size_t i = 0; i < times.size(); ++i)
      steps.push_back({times[i], i + 1 < times.size() ? times[i + 1] : -1});
    return steps;
  }

  /// x_t = sqrt(a_t) z + sqrt(1 - a_t) n, a time for each sample or one for all.
  /// clean and noise [S, ..], times of S or 1 elements.    Pullback: that of mul and add.
  /// Throws ArgumentError for a time outside the grid, ShapeError for other shapes.
  template <class T, class B>
  Tensor<T, B> noisy(const Tensor<T, B>& clean, const Tensor<T, B>& noise,
                     const std::vector<Index>& times) const {
    return add(by_sample(clean, times, true), by_sample(noise, times, false));
  }
  /// What a denoiser is to say of noisy(clean, noise, times): the noise, or the velocity.
  /// Shapes and errors as there.
  template <class T, class B>
  Tensor<T, B> target(const Tensor<T, B>& clean, const Tensor<T, B>& noise,
                      const std::vector<Index>& times) const {
    if (config_.prediction == Prediction::epsilon) return noise;
    return sub(by_sample(noise, times, true), by_sample(clean, times, false));
  }

  /// The clean sample and the noise by the output o at x and time t:
  ///   epsilon   clean = (x - sqrt(1 - a) o) / sqrt(a), noise = o
  ///   velocity  clean = sqrt(a) x - sqrt(1 - a) o, noise = sqrt(a) o + sqrt(1 - a) x
  /// With clip_sample the clean one is cut to its range; the noise is not computed again.
  /// Throws ArgumentError for a time outside the grid, ShapeError for other shapes.
  template <class T, class B>
  Denoised<T, B> denoised(const Tensor<T, B>& output, const Tensor<T, B>& x, Index time) const {
    const double a = alpha(time), rest = 1 - a;
    Denoised<T, B> result;
    if (config_.prediction == Prediction::epsilon) {
      result.clean = mixed(x, 1 / std::sqrt(a), output, -std::sqrt(rest) / std::sqrt(a));
      result.noise = output;
    } else {
      result.clean = mixed(x, std::sqrt(a), output, -std::sqrt(rest));
      result.noise = mixed(output, std::sqrt(a), x, std::sqrt(rest));
    }
    if (config_.clip_sample)
      result.clean = clamp(result.clean, -config_.clip_sample_range, config_.clip_sample_range);
    return result;
  }

  /// A step of DDIM (Song et al. 2021), a' being a at the step's next time:
  ///   x' = sqrt(a') clean + sqrt(1 - a' - s^2) noise + s n,   s = eta sqrt((1 - a') / (1 - a) (1 - a / a'))
  /// n is new noise, read where eta > 0 alone.    Pullback: that of scale and add.    Throws as denoised()
  /// does.
  template <class T, class B>
  Tensor<T, B> ddim(const Tensor<T, B>& output, const Tensor<T, B>& x, const SamplerStep& step,
                    double eta = 0, const Tensor<T, B>& n = {}) const {
    const double a = alpha(step.time), next = after(step);
    const double sigma = eta * std::sqrt(std::max(0.0, (1 - next) / (1 - a) * (1 - a / next)));
    const auto parts = denoised(output, x, step.time);
    const auto y =
        mixed(parts.clean, std::sqrt(next), parts.noise, std::sqrt(std::max(0.0, 1 - next - sigma * sigma)));
    if (sigma == 0) return y;
    MOLE_CHECK_ARG(n.defined(), "ddim: eta above 0 needs noise");
    return mixed(y, 1, n, sigma);
  }

  /// The same two for pictures that are each at a time of their own: a step for each sample, eta 0.
  /// output, x [S, ..].    Pullback: that of mul and add.    Throws as denoised() does.
  template <class T, class B>
  Denoised<T, B> denoised(const Tensor<T, B>& output, const Tensor<T, B>& x,
                          const std::vector<Index>& times) const {
    Denoised<T, B> result;
    if (config_.prediction == Prediction::epsilon) {
      const auto scaled = [&](const Tensor<T, B>& value, bool rest) {
        return by_factor(value, times, [rest](double a) { return std::sqrt((rest ? 1 - a : 1) / a); });
      };
      result.clean = sub(scaled(x, false), scaled(output, true));
      result.noise = output;
    } else {
      result.clean = sub(by_sample(x, times, true), by_sample(output, times, false));
      result.noise = add(by_sample(output, times, true), by_sample(x, times, false));
    }
    if (config_.clip_sample)
      result.clean = clamp(result.clean, -config_.clip_sample_range, config_.clip_sample_range);
    return result;
  }
  template <class T, class B>
  Tensor<T, B> ddim(const Tensor<T, B>& output, const Tensor<T, B>& x,
                    const std::vector<SamplerStep>& steps) const {
    std::vector<Index> times;
    for (const auto& step : steps) times.push_back(step.time);
    const auto parts = denoised(output, x, times);
    // Not by_sample(): a next time may be beyond the grid.
    std::size_t i = 0, j = 0;
    const auto kept = by_factor(parts.clean, times, [&](double) { return std::sqrt(after(steps[i++])); });
    const auto left = by_factor(parts.noise, times, [&](double) { return std::sqrt(1 - after(steps[j++])); });
    return add(kept, left);
  }

  /// An ancestral step of DDPM (Ho et al. 2020), r = a / a' with a' = 1 after the last:
  ///   x' = sqrt(a') (1 - r) / (1 - a) clean + sqrt(r) (1 - a') / (1 - a) x + sqrt(variance) n
  /// with variance (1 - a') / (1 - a) (1 - r), at least 1e-20. n is new noise, read where the time is above
  /// 0.
  /// Pullback: that of scale and add.    Throws as denoised() does.
  template <class T, class B>
  Tensor<T, B> ddpm(const Tensor<T, B>& output, const Tensor<T, B>& x, const SamplerStep& step,
                    const Tensor<T, B>& n) const {
    const double a = alpha(step.time), next = step.next >= 0 ? alpha(step.next) : 1, r = a / next;
    const auto clean = denoised(output, x, step.time).clean;
    const auto y = mixed(clean, std::sqrt(next) * (1 - r) / (1 - a), x, std::sqrt(r) * (1 - next) / (1 - a));
    if (step.time == 0) return y;
    MOLE_CHECK_ARG(n.defined(), "ddpm: a step needs noise");
    return mixed(y, 1, n, std::sqrt(std::max((1 - next) / (1 - a) * (1 - r), 1e-20)));
  }

 private:
  double beta(Index i) const {
    const auto& c = config_;
    const double at = static_cast<double>(i), all = static_cast<double>(c.train_steps);
    if (c.betas == BetaSchedule::squared_cosine) {
      const auto kept = [](double share) {
        const double root = std::cos((share + 0.008) / 1.008 * std::numbers::pi / 2);
        return root * root;
      };
      return std::min(1 - kept((at + 1) / all) / kept(at / all), 0.999);
    }
    const bool scaled = c.betas == BetaSchedule::scaled_linear;
    const double from = scaled ? std::sqrt(c.beta_start) : c.beta_start,
                 to = scaled ? std::sqrt(c.beta_end) : c.beta_end;
    const double level = from + (to - from) * (c.train_steps == 1 ? 0 : at / (all - 1));
    return scaled ? level * level : level;
  }

  /// a' of a step of DDIM.
  double after(const SamplerStep& step) const {
    return step.next >= 0 ? alpha(step.next) : config_.set_alpha_to_one ? 1 : alphas_.front();
  }

  double alpha(Index time) const {
    MOLE_CHECK_ARG(time >= 0 && time < config_.train_steps, "NoiseSchedule: time", time, "is outside [0,",
                   config_.train_steps, ")");
    return alphas_[static_cast<std::size_t>(time)];
  }

  /// a x + b y
  template <class T, class B>
  static Tensor<T, B> mixed(const Tensor<T, B>& x, double a, const Tensor<T, B>& y, double b) {
    return add(scale(x, static_cast<Compute<T>>(a)), scale(y, static_cast<Compute<T>>(b)));
  }

  /// sqrt(a_t) x, or sqrt(1 - a_t) x.
  template <class T, class B>
  Tensor<T, B> by_sample(const Tensor<T, B>& x, const std::vector<Index>& times, bool kept) const {
    return by_factor(x, times, [kept](double a) { return std::sqrt(kept ? a : 1 - a); });
  }

  /// factor(a_t) x, asked for each time in turn.
  template <class T, class B, class F>
  Tensor<T, B> by_factor(const Tensor<T, B>& x, const std::vector<Index>& times, F factor) const {
    const auto S = static_cast<Index>(times.size());
    MOLE_CHECK_SHAPE(x.rank() >= 1 && (S == 1 || x.size(0) == S),
                     "NoiseSchedule: expected a time for each sample or one for all, got", S, "for",
                     x.shape());
    std::vector<T> factors;
    for (const Index time : times) factors.push_back(static_cast<T>(factor(alpha(time))));
    Shape shape;
    for (int i = 0; i < x.rank(); ++i) shape.push_back(i == 0 ? S : 1);
    return mul(x, Tensor<T, B>::from(shape, factors));
  }

  ScheduleConfig config_;
  std::vector<double> alphas_;
};

/// o = o_negative + w (o_prompt - o_negative), classifier-free guidance (Ho & Salimans 2022).  output [2 S,
/// ..] of the batch [negative | prompt], result [S, ..].    Throws ShapeError for an odd batch.
template <class T, class B>
Tensor<T, B> guided(const Tensor<T, B>& output, double w) {
  MOLE_CHECK_SHAPE(output.rank() >= 1 && output.size(0) % 2 == 0,
                   "guided: expected a batch [negative | prompt], got", output.shape());
  const Index S = output.size(0) / 2;
  const auto negative = slice(output, 0, 0, S), prompt = slice(output, 0, S, 2 * S);
  return add(negative, scale(sub(prompt, negative), static_cast<Compute<T>>(w)));
}

}  // namespace mole
