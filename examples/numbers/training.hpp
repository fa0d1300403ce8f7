#pragma once
// One training loop for base, experts and gates: steps, schedule, progress, checkpoints, and a clean stop.

#include <filesystem>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "numbers/model.hpp"
#include "numbers/plots.hpp"

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
  std::string fingerprint;  ///< all that the result depends on; a checkpoint of another run is refused
};

/// What one step measured, beside the loss itself: name and value, recorded as curves.
using Measures = std::vector<std::pair<std::string, double>>;

/// The loss of step `step` on the tape, and its measures.
using StepLoss = std::function<std::pair<Values, Measures>(Index step)>;

/// Raised by Ctrl-C once the checkpoint is written.
struct Interrupted : mole::Error {
  using mole::Error::Error;
};

/// Trains `parameters` with AdamW and returns the measures over the steps, "loss" first. Same options, same
/// threads: same parameters to the bit, also when the run was interrupted and resumed.
/// Throws Interrupted on Ctrl-C, mole::NumericError when the loss is NaN or infinite (the last good
/// checkpoint stays), mole::FormatError when the checkpoint belongs to another run.
Curves train(const std::vector<Values>& parameters, const TrainingOptions& options, const StepLoss& loss);

}  // namespace numbers
