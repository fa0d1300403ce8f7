#pragma once
// The training loop: steps under a schedule, gradient clipping, checkpoints and resuming, a clean stop. It
// knows neither model nor batch: the caller's function makes the gradients of a step.

#include <cmath>
#include <functional>
#include <string>
#include <utility>

#include <mole/core/error.hpp>
#include <mole/core/shape.hpp>
#include <mole/optim/clip_gradients.hpp>
#include <mole/optim/schedule.hpp>
#include <mole/train/curves.hpp>
#include <mole/train/finite.hpp>
#include <mole/train/interrupt.hpp>
#include <mole/train/run_state.hpp>

namespace mole {

/// What errors advise. A program says it in the words of its own options.
struct TrainingAdvice {
  std::string to_resume = "resume it from its checkpoint";       ///< where a run was stopped
  std::string to_calm = "lower the learning rate";               ///< where its loss diverges
  std::string to_save = "with checkpoints it could be resumed";  ///< where nothing was saved
};

/// What a run does, apart from its loss.
struct TrainingOptions {
  std::string label = "training";  ///< in front of every message
  Index steps = 0;                 ///< in all, those of the run that is resumed included
  Schedule schedule = {};          ///< of the learning rate
  double clip = 1;                 ///< largest gradient norm; 0 does not clip
  Index checkpoint_every = 25;     ///< steps
  TrainingAdvice advice = {};
};

/// What a step did: its loss, whose gradients it left in the parameters, and what else it measured.
struct StepResult {
  double loss = 0;
  Measures measures = {};
};

/// Makes step 0, 1, .. of a run. It depends on the step and the parameters alone: a resumed run calls it as
/// the unbroken one would have.
using StepFunction = std::function<StepResult(Index step)>;

/// Where a run's state is kept; run_checkpoints() of mole/io/run_checkpoint.hpp keeps it in a file. All of
/// these may be empty.
struct Checkpoints {
  std::string name;                           ///< what messages call the place, such as a file
  std::function<void()> prepare;              ///< throws, before any work, where save() would
  std::function<void(RunState&)> load;        ///< replaces the state; empty: the run starts anew
  std::function<void(const RunState&)> save;  ///< replaces what was saved before, whole or not at all
};

/// What a program wants to know of a run, and to tell it. Both may be empty.
struct TrainingHooks {
  /// Called with the number of steps done and the last loss: once before the first step of this process (the
  /// loss is NaN then), and after each step.
  std::function<void(Index done, double loss)> progress;
  /// Asked after each step; once it is true the run saves its state and throws Interrupted.
  std::function<bool()> stop;
};

/// Takes options.steps steps of `optimizer` (an Sgd, an AdamW, or what has their members) and returns the
/// measures over the steps, "loss" first. Same options, same threads: same parameters to the bit, also when
/// the run was stopped and resumed. A state is saved only once a finite loss has shown that it is good.
/// Throws Interrupted when stopped; NumericError when the loss, the gradients or the weights become NaN or
/// infinite (what was saved last stays); ArgumentError for a checkpoint of more than options.steps steps; and
/// what `step` and `checkpoints` throw.
template <class O>
Curves train(O& optimizer, const TrainingOptions& options, const StepFunction& step,
             const Checkpoints& checkpoints = {}, const TrainingHooks& hooks = {}) {
  MOLE_CHECK_ARG(options.checkpoint_every >= 1, options.label + ": expected checkpoint_every >= 1, got",
                 options.checkpoint_every);
  const auto& parameters = optimizer.parameters();
  Curves curves;
  if (checkpoints.load) {
    auto state = run_state(optimizer, {});
    checkpoints.load(state);
    restore(optimizer, state);
    curves = std::move(state.curves);
  }
  if (checkpoints.prepare) checkpoints.prepare();
  const auto first = static_cast<Index>(curves.step.size());
  MOLE_CHECK_ARG(first <= options.steps, options.label + ": the checkpoint", checkpoints.name, "holds", first,
                 "steps, more than the", options.steps, "of this run");
  auto done = first;
  bool saved = static_cast<bool>(checkpoints.load);

  const auto diverged = [&](const std::string& what, const std::string& remedy) {
    const auto kept = saved              ? "The last good state is in " + checkpoints.name
                      : checkpoints.save ? std::string("There was no checkpoint yet")
                                         : "Nothing was saved; " + options.advice.to_save;
    return NumericError(options.label + ": " + what + " at step " + std::to_string(done + 1) + "; " + remedy +
                        ". " + kept);
  };
  const auto save = [&] {
    if (!all_finite(parameters) || !all_finite(optimizer.state()))
      throw diverged("weights or the optimiser's moments are NaN or infinite", options.advice.to_calm);
    if (!checkpoints.save) return;
    checkpoints.save(run_state(optimizer, curves));
    saved = true;
  };
  const auto asked_to_stop = [&] { return hooks.stop && hooks.stop(); };
  const auto stopped = [&] {
    return Interrupted(
        options.label + ": stopped after step " + std::to_string(done) + "; " +
        (checkpoints.save ? options.advice.to_resume : "nothing was saved; " + options.advice.to_save));
  };

  if (hooks.progress) hooks.progress(done, detail::not_a_number<double>());
  for (; done < options.steps; ++done) {
    optimizer.zero_grad();
    auto [loss, measures] = step(done);
    // A smaller rate calms nothing before the first step was taken.
    if (!is_finite(loss))
      throw diverged(is_nan(loss) ? "the loss is NaN" : "the loss is infinite",
                     done == 0 ? "nothing was trained yet, so look at the weights, the adapters and the data"
                               : options.advice.to_calm);
    // Only here has a finite loss shown that the state after `done` steps is good.
    if (done > first) {
      const bool stop = asked_to_stop();
      if (stop || done % options.checkpoint_every == 0) save();
      if (stop) throw stopped();
    }
    try {
      if (options.clip > 0) clip_grad_norm(parameters, options.clip);
    } catch (const NumericError& error) {
      throw diverged(error.what(), options.advice.to_calm);
    }
    optimizer.step(options.schedule.rate(done));
    measures.insert(measures.begin(), {"loss", loss});
    curves.add(done, measures);
    if (hooks.progress) hooks.progress(done + 1, loss);
  }
  if (done > first) save();
  if (asked_to_stop()) throw stopped();
  return curves;
}

}  // namespace mole
