#pragma once
// Learning rates over the steps of a run.

#include <algorithm>
#include <cmath>
#include <numbers>

#include <mole/core/error.hpp>
#include <mole/core/shape.hpp>

namespace mole {

/// How the rate goes on after the warm-up.
enum class ScheduleKind { constant, linear, cosine };

/// Rises in equal parts to `peak` over warmup_steps, then stays (constant) or falls to `floor` at total_steps
/// along a line or half a cosine, and stays there. A pure function of the step: nothing to save.
struct Schedule {
  ScheduleKind kind = ScheduleKind::constant;
  double peak = 1e-3;
  Index warmup_steps = 0;
  Index total_steps = 0;  ///< of the whole run, warm-up included; not read by constant
  double floor = 0;       ///< the rate at the end; not read by constant

  /// The rate of step 0, 1, ..; the first one is above 0 already. Step warmup_steps runs at the peak.
  /// Throws ArgumentError for a negative step, or for members that make no schedule.
  double rate(Index step) const {
    MOLE_CHECK_ARG(step >= 0 && warmup_steps >= 0, "Schedule: expected step and warmup_steps >= 0, got", step,
                   "and", warmup_steps);
    if (step < warmup_steps) return peak * static_cast<double>(step + 1) / static_cast<double>(warmup_steps);
    if (kind == ScheduleKind::constant) return peak;
    MOLE_CHECK_ARG(total_steps > warmup_steps, "Schedule: expected total_steps above the", warmup_steps,
                   "steps of warm-up, got", total_steps);
    const double done = std::min(
        1.0, static_cast<double>(step - warmup_steps) / static_cast<double>(total_steps - warmup_steps));
    const double left = kind == ScheduleKind::linear ? 1 - done : (1 + std::cos(std::numbers::pi * done)) / 2;
    return floor + (peak - floor) * left;
  }
};

}  // namespace mole
