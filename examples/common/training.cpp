#include "common/training.hpp"

#include <algorithm>
#include <iostream>
#include <optional>

#include <mole/io/run_checkpoint.hpp>

#include "common/files.hpp"
#include "common/progress.hpp"

namespace common {

mole::TrainingOptions training_options(const RunOptions& run, const std::string& label) {
  constexpr Index warmup = 20;
  constexpr double floor = 0.05;
  mole::TrainingOptions options;
  options.label = label;
  options.steps = run.steps;
  options.schedule = {mole::ScheduleKind::cosine, run.rate, warmup, std::max(run.steps, warmup + 1),
                      run.rate * floor};
  options.advice = {run.to_resume, run.to_calm, "--checkpoint FILE keeps what is done"};
  return options;
}

void check_checkpoint(const RunOptions& run) {
  MOLE_CHECK_ARG(!run.checkpoint.empty() || !run.resume,
                 "--resume needs --checkpoint FILE, the file to continue from");
  if (!run.checkpoint.empty() && !run.resume) mole::check_no_other_file(run.checkpoint);
}

mole::Checkpoints checkpoints_of(const RunOptions& run, const std::string& fingerprint) {
  check_checkpoint(run);
  if (run.checkpoint.empty()) return {};
  auto checkpoints = mole::run_checkpoints(run.checkpoint, fingerprint, run.resume);
  checkpoints.prepare = [file = run.checkpoint] { prepare_file(file, "--checkpoint"); };
  return checkpoints;
}

void report_uncaptured(const std::string& why) {
  std::cerr << "steps are no longer captured: " << why << "\n";
}

mole::Curves detail::with_progress(
    const mole::TrainingOptions& options, bool shown,
    const std::function<mole::Curves(const mole::TrainingHooks& hooks)>& train) {
  const mole::CatchInterrupt interrupt;
  std::optional<Progress> bar;
  mole::TrainingHooks hooks;
  hooks.stop = [&] { return interrupt.requested(); };
  hooks.progress = [&](Index done, double loss) {
    if (!shown) return;
    // Steps of an earlier process do not count in the bar's rate.
    if (bar)
      bar->update(done, loss);
    else
      bar.emplace(options.label, options.steps, done);
  };
  return train(hooks);
}

}  // namespace common
