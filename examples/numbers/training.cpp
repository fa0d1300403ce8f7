#include "numbers/training.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <csignal>
#include <span>
#include <sstream>

#include <mole/autodiff/backward.hpp>
#include <mole/io/safetensors.hpp>
#include <mole/loss/total.hpp>
#include <mole/optim/adamw.hpp>
#include <mole/optim/clip.hpp>
#include <mole/optim/schedule.hpp>

#include "numbers/files.hpp"
#include "numbers/progress.hpp"

namespace numbers {

namespace {

using Optimizer = mole::AdamW<Scalar, B>;

std::atomic<bool> stop_requested{false};

/// While one is alive, the first Ctrl-C asks the loop to stop and a second one ends the program.
class CatchInterrupt {
 public:
  CatchInterrupt() {
    stop_requested = false;
    for (const int signal : {SIGINT, SIGTERM})
      std::signal(signal, [](int caught) {
        stop_requested = true;
        std::signal(caught, SIG_DFL);
      });
  }
  ~CatchInterrupt() {
    for (const int signal : {SIGINT, SIGTERM}) std::signal(signal, SIG_DFL);
  }
  CatchInterrupt(const CatchInterrupt&) = delete;
  CatchInterrupt& operator=(const CatchInterrupt&) = delete;
};

std::vector<double> flat(const Curves& curves) {
  std::vector<double> values = curves.step;
  for (const auto& [name, series] : curves.series) values.insert(values.end(), series.begin(), series.end());
  return values;
}

void save_checkpoint(const TrainingOptions& options, const Optimizer& optimizer, const Curves& curves) {
  mole::SafetensorsWriter writer;
  writer.metadata("run", options.fingerprint);
  std::string names;
  for (const auto& [name, series] : curves.series) names += name + "\n";
  writer.metadata("curves", names);
  auto add = [&](const std::string& name, const Values& tensor) {
    const auto values = tensor.to_host();
    writer.add<Scalar>(name, mole::Dtype::F32, tensor.shape(), std::span<const Scalar>(values));
  };
  for (std::size_t i = 0; i < optimizer.parameters().size(); ++i)
    add("parameter." + std::to_string(i), optimizer.parameters()[i]);
  for (std::size_t i = 0; i < optimizer.state().size(); ++i)
    add("state." + std::to_string(i), optimizer.state()[i]);
  const auto& counts = optimizer.steps();
  writer.add<Index>("steps", mole::Dtype::I64, mole::Shape{static_cast<Index>(counts.size())},
                    std::span<const Index>(counts));
  const auto values = flat(curves);
  writer.add<double>(
      "curves", mole::Dtype::F64,
      mole::Shape{static_cast<Index>(curves.series.size() + 1), static_cast<Index>(curves.step.size())},
      std::span<const double>(values));
  writer.write(options.checkpoint);
}

/// Restores parameters, optimiser and curves; the number of curve points is the number of steps done.
void load_checkpoint(const TrainingOptions& options, Optimizer& optimizer, Curves& curves) {
  const mole::SafetensorsFile file(options.checkpoint);
  const auto& metadata = file.metadata();
  const auto run = metadata.find("run");
  MOLE_CHECK_FORMAT(
      run != metadata.end() && run->second == options.fingerprint, options.checkpoint.string(),
      "was written by another run.\n  there:", run == metadata.end() ? "(unknown)" : run->second,
      "\n  here: ", options.fingerprint, "\nrepeat the options of that run, or start anew without --resume");
  auto restore = [&](const std::string& name, const Values& tensor) {
    MOLE_CHECK_FORMAT(file.contains(name) && file.at(name).shape == tensor.shape(),
                      options.checkpoint.string(), "tensor", name, "is missing or not", tensor.shape());
    tensor.assign(Values::from(tensor.shape(), file.read<Scalar>(name)));
  };
  for (std::size_t i = 0; i < optimizer.parameters().size(); ++i)
    restore("parameter." + std::to_string(i), optimizer.parameters()[i]);
  for (std::size_t i = 0; i < optimizer.state().size(); ++i)
    restore("state." + std::to_string(i), optimizer.state()[i]);
  optimizer.set_steps(file.read<Index>("steps"));
  const auto shape = file.at("curves").shape;
  const auto values = file.read<double>("curves");
  const auto listed = metadata.find("curves");
  const std::string known = listed == metadata.end() ? "" : listed->second;
  std::istringstream names(known);
  MOLE_CHECK_FORMAT(shape.rank() == 2 && shape[0] == std::ranges::count(known, '\n') + 1,
                    options.checkpoint.string(), "tensor curves has shape", shape, "for the curves", known);
  const auto points = static_cast<std::ptrdiff_t>(shape[1]);
  curves.step.assign(values.begin(), values.begin() + points);
  std::string name;
  for (Index row = 1; row < shape[0] && std::getline(names, name); ++row)
    curves.series.emplace_back(
        name, std::vector<double>(values.begin() + row * points, values.begin() + (row + 1) * points));
}

/// Before any work: `file` can be written. Its folder is made where there is none.
void check_replaceable(const std::filesystem::path& file) {
  prepare_folder(file.has_parent_path() ? file.parent_path() : std::filesystem::path("."));
  MOLE_CHECK_ARG(!std::filesystem::exists(file) || std::filesystem::is_regular_file(file), "--checkpoint",
                 file.string(), "is not a regular file; choose another name");
}

void record(Curves& curves, Index step, const Measures& measures) {
  if (curves.series.empty())
    for (const auto& [name, value] : measures) curves.series.emplace_back(name, std::vector<double>());
  curves.step.push_back(static_cast<double>(step + 1));
  for (std::size_t i = 0; i < measures.size(); ++i) curves.series[i].second.push_back(measures[i].second);
}

}  // namespace

Curves train(const std::vector<Values>& parameters, const TrainingOptions& options, const StepLoss& loss) {
  Optimizer optimizer(parameters, {.weight_decay = options.weight_decay});
  Curves curves;
  const bool checkpoints = !options.checkpoint.empty();
  MOLE_CHECK_ARG(checkpoints || !options.resume,
                 "--resume needs --checkpoint FILE, the file to continue from");
  if (options.resume) load_checkpoint(options, optimizer, curves);
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
    return mole::NumericError(options.label + ": " + what + " at step " + std::to_string(done + 1) +
                              "; lower the learning rate (--lr). " + kept);
  };
  auto save = [&] {
    if (!mole::all_finite(parameters) || !mole::all_finite(optimizer.state()))
      throw diverged("weights or the optimiser's moments are NaN or infinite");
    if (!checkpoints) return;
    save_checkpoint(options, optimizer, curves);
    saved = true;
  };
  auto check_stop = [&] {
    if (stop_requested)
      throw Interrupted(options.label + ": stopped after step " + std::to_string(done) +
                        (checkpoints ? "; continue with the same options and --resume"
                                     : "; nothing was saved (--checkpoint FILE would have)"));
  };
  const CatchInterrupt guard;
  Progress bar(options.label, options.steps, done);
  for (; done < options.steps; ++done) {
    auto [value, measures] = loss(done);
    const double now = static_cast<double>(value.item());
    if (!std::isfinite(now)) throw diverged(std::isnan(now) ? "the loss is NaN" : "the loss is infinite");
    // Only here has a finite loss shown that the state after `done` steps is good.
    if (done > first && (stop_requested || done % options.checkpoint_every == 0)) save();
    if (done > first) check_stop();
    optimizer.zero_grad();
    mole::backward(value);
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
