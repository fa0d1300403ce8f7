#pragma once
// One training loop for base, experts and gates, on any backend B: steps, schedule, progress, checkpoints,
// and a clean stop.

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include <mole/optim/adamw.hpp>
#include <mole/optim/clip_gradients.hpp>
#include <mole/optim/schedule.hpp>
#include <mole/train/finite.hpp>

#include "numbers/checkpoint.hpp"
#include "numbers/commands.hpp"
#include "numbers/interrupt.hpp"
#include "numbers/model.hpp"
#include "numbers/plots.hpp"
#include "numbers/progress.hpp"

namespace numbers {

/// What a run does, apart from its loss.
struct TrainingOptions {
  std::string label;  ///< in front of the progress bar
  Index steps = 0;
  double rate = 1e-3;   ///< peak learning rate of a cosine schedule
  Index warmup = 20;    ///< steps
  double floor = 0.05;  ///< final rate as a share of the peak
  double weight_decay = 0;
  double clip = 1;                   ///< largest gradient norm; 0 does not clip
  std::filesystem::path checkpoint;  ///< empty: none
  Index checkpoint_every = 25;       ///< steps
  bool resume = false;               ///< continue from `checkpoint`
  std::string fingerprint;         ///< all that the result depends on; a checkpoint of another run is refused
  std::string to_resume, to_calm;  ///< what to do after an interruption, and where the loss diverges
};

/// What one step measured, beside the loss itself: name and value, recorded as curves.
using Measures = std::vector<std::pair<std::string, double>>;

/// What all training commands have, in a run's options.
inline TrainingOptions training_options(const RunOptions& run, const std::string& label,
                                        const std::string& fingerprint) {
  TrainingOptions options;
  options.label = label;
  options.steps = run.steps;
  options.rate = run.rate;
  options.checkpoint = run.checkpoint;
  options.resume = run.resume;
  options.fingerprint = fingerprint;
  options.to_resume = run.to_resume;
  options.to_calm = run.to_calm;
  return options;
}

/// The loss of step `step`, whose gradients it leaves in the parameters, and its measures.
using StepLoss = std::function<std::pair<double, Measures>(Index step)>;

/// What a checkpoint holds of a run on any backend.
template <class B>
RunState run_state(const mole::AdamW<Scalar, B>& optimizer, const Curves& curves) {
  RunState state{{}, optimizer.steps(), curves};
  auto add = [&](const std::string& kind, const std::vector<Values<B>>& tensors) {
    for (std::size_t i = 0; i < tensors.size(); ++i)
      state.tensors.push_back({kind + std::to_string(i), tensors[i].shape(), tensors[i].to_host()});
  };
  add("parameter.", optimizer.parameters());
  add("state.", optimizer.state());
  return state;
}

/// Sets parameters, optimiser and curves to those of a checkpoint.    Throws as load_checkpoint.
template <class B>
void resume(const TrainingOptions& options, mole::AdamW<Scalar, B>& optimizer, Curves& curves) {
  auto state = run_state(optimizer, curves);
  load_checkpoint(options.checkpoint, options.fingerprint, state);
  std::size_t at = 0;
  for (const auto* tensors : {&optimizer.parameters(), &optimizer.state()})
    for (const auto& tensor : *tensors)
      tensor.assign(Values<B>::from(tensor.shape(), state.tensors[at++].values));
  optimizer.set_steps(state.steps);
  curves = state.curves;
}

/// Appends the measures of a step, counted from 0, to the curves.
inline void record(Curves& curves, Index step, const Measures& measures) {
  if (curves.series.empty())
    for (const auto& [name, value] : measures) curves.series.emplace_back(name, std::vector<double>());
  curves.step.push_back(static_cast<double>(step + 1));
  for (std::size_t i = 0; i < measures.size(); ++i) curves.series[i].second.push_back(measures[i].second);
}

/// Trains `parameters` with AdamW and returns the measures over the steps, "loss" first. Same options, same
/// threads: same parameters to the bit, also when the run was interrupted and resumed.
/// Throws Interrupted on Ctrl-C, mole::NumericError when the loss is NaN or infinite (the last good
/// checkpoint stays), mole::FormatError when the checkpoint belongs to another run.
template <class B>
Curves train(const std::vector<Values<B>>& parameters, const TrainingOptions& options, const StepLoss& loss) {
  mole::AdamW<Scalar, B> optimizer(parameters, {.weight_decay = options.weight_decay});
  Curves curves;
  const bool checkpoints = !options.checkpoint.empty();
  MOLE_CHECK_ARG(checkpoints || !options.resume,
                 "--resume needs --checkpoint FILE, the file to continue from");
  if (options.resume) resume(options, optimizer, curves);
  if (checkpoints) check_replaceable(options.checkpoint);
  const auto first = static_cast<Index>(curves.step.size());
  auto done = first;
  bool saved = options.resume;
  const mole::Schedule schedule{mole::ScheduleKind::cosine, options.rate, options.warmup,
                                std::max(options.steps, options.warmup + 1), options.rate * options.floor};
  auto diverged = [&](const std::string& what) {
    const auto kept = saved         ? "The last good state is in " + options.checkpoint.string()
                      : checkpoints ? std::string("There was no checkpoint yet")
                                    : std::string("Nothing was saved (--checkpoint FILE)");
    return mole::NumericError(options.label + ": " + what + " at step " + std::to_string(done + 1) + "; " +
                              options.to_calm + ". " + kept);
  };
  auto save = [&] {
    if (!mole::all_finite(parameters) || !mole::all_finite(optimizer.state()))
      throw diverged("weights or the optimiser's moments are NaN or infinite");
    if (!checkpoints) return;
    save_checkpoint(options.checkpoint, options.fingerprint, run_state(optimizer, curves));
    saved = true;
  };
  const CatchInterrupt interrupt;
  auto check_stop = [&] {
    if (interrupt.requested())
      throw Interrupted(
          options.label + ": stopped after step " + std::to_string(done) +
          (checkpoints ? "; " + options.to_resume : "; nothing was saved (--checkpoint FILE would have)"));
  };
  Progress bar(options.label, options.steps, done);
  for (; done < options.steps; ++done) {
    optimizer.zero_grad();
    auto [now, measures] = loss(done);
    if (!std::isfinite(now)) throw diverged(std::isnan(now) ? "the loss is NaN" : "the loss is infinite");
    // Only here has a finite loss shown that the state after `done` steps is good.
    if (done > first && (interrupt.requested() || done % options.checkpoint_every == 0)) save();
    if (done > first) check_stop();
    try {
      if (options.clip > 0) mole::clip_grad_norm(parameters, options.clip);
    } catch (const mole::NumericError& error) {
      throw diverged(error.what());
    }
    optimizer.step(schedule.rate(done));
    measures.insert(measures.begin(), {"loss", now});
    record(curves, done, measures);
    bar.update(done + 1, now);
  }
  if (done > first) save();
  check_stop();
  return curves;
}

}  // namespace numbers
