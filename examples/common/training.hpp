#pragma once
// A training command of a program: its options, a progress bar, checkpoints, and a clean stop on Ctrl-C.

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <utility>

#include <mole/train/loop.hpp>

namespace common {

using mole::Index;

/// What every training command has.
struct RunOptions {
  Index steps;
  Index batch;
  double rate;  ///< peak learning rate
  std::filesystem::path out;
  std::uint64_t seed = 1;
  std::filesystem::path checkpoint = {};  ///< empty: none
  bool resume = false;                    ///< continue from `checkpoint`
  /// What errors and interruptions advise.
  std::string to_resume = "continue with the same options and --resume",
              to_calm = "lower the learning rate (--lr)";
};

/// The loop's options for a run: a cosine from `run.rate` down to a twentieth of it behind 20 steps of
/// warm-up. `label` stands in front of messages and the progress bar.
mole::TrainingOptions training_options(const RunOptions& run, const std::string& label);

/// Throws mole::ArgumentError for --resume without --checkpoint, and for a --checkpoint that would replace another file.
void check_checkpoint(const RunOptions& run);

/// The checkpoints that the run asks for. `fingerprint` names all that the result depends on; a checkpoint of
/// another run is refused. Throws as check_checkpoint().
mole::Checkpoints checkpoints_of(const RunOptions& run, const std::string& fingerprint);

/// Says on stderr that steps are captured no longer, and why: for mole::ReplayOptions.
void report_uncaptured(const std::string& why);

namespace detail {

/// train(hooks), where the hooks draw a progress bar, if it is `shown`, and stop on Ctrl-C.
mole::Curves with_progress(const mole::TrainingOptions& options, bool shown,
                           const std::function<mole::Curves(const mole::TrainingHooks& hooks)>& train);

}  // namespace detail

/// mole::train() with a progress bar, the run's checkpoints, and a clean stop on Ctrl-C. Throws as it does.
template <class O>
mole::Curves train(O& optimizer, const mole::TrainingOptions& options, const mole::Checkpoints& checkpoints,
                   const mole::StepFunction& step) {
  return detail::with_progress(options, true, [&](const mole::TrainingHooks& hooks) {
    return mole::train(optimizer, options, step, checkpoints, hooks);
  });
}

/// The same on every rank of `ranks`, a mole::DataParallel whose steps are `step`: rank 0 alone draws and saves,
/// and Ctrl-C on any of them stops all. Throws as mole::DataParallel::run() does, too.
template <class O, class Ranks>
mole::Curves train(O& optimizer, const mole::TrainingOptions& options, const mole::Checkpoints& checkpoints,
                   const mole::StepFunction& step, Ranks& ranks) {
  return detail::with_progress(options, ranks.rank() == 0, [&](mole::TrainingHooks hooks) {
    ranks.stop_when(std::exchange(hooks.stop, [&] { return ranks.stopping(); }));
    return ranks.run(
        [&] { return mole::train(optimizer, options, step, ranks.kept_by_first(checkpoints), hooks); });
  });
}

}  // namespace common
