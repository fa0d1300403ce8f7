#pragma once
// The subcommands of `numbers` and their options. Each throws mole::Error for what the user can mend. They
// are templates on the backend (compose.hpp, pretrain.hpp, translate.hpp), instantiated once for each
// backend (see mole_add_backends() in cmake/backends.cmake).

#include <filesystem>
#include <string>
#include <vector>

#include "common/merging.hpp"
#include "common/ranks.hpp"
#include "common/router_arguments.hpp"
#include "common/training.hpp"
#include "numbers/tasks.hpp"

namespace numbers {

using common::MergeOptions;
using common::RunOptions;

/// `numbers train-base`: a small T5 that has seen all directions between nine languages, a little.
struct TrainBaseOptions {
  RunOptions run{550, 256, 2e-3, "numbers-base"};
  Index numbers = 600;  ///< how many training numbers it sees: few, so that it stays weak
  Index width = 128, heads = 4, head_width = 32, feed_forward = 384, layers = 3;
};

/// `numbers train-expert`: a LoRA for one task on a frozen base.
struct TrainExpertOptions {
  RunOptions run{250, 128, 5e-3, ""};
  std::filesystem::path base;
  std::string task;
  Index rank = 8;
  double alpha = 16;
};

/// Peak learning rate of X-LoRA's classifier where none is given: gates start at zero and take more.
inline constexpr double xlora_rate = 0.01;

/// `numbers compose`: the main job.
struct ComposeOptions : common::RouterChoice {
  ComposeOptions() { gates.input_scale = mole::InputScale::standardised; }

  RunOptions run{800, 48, 0.05, "numbers-out"};
  std::filesystem::path base;
  std::vector<std::string> experts;
  std::vector<Task> tasks;
  std::vector<std::string> methods;  ///< merging methods to compare with, see MergeOptions
  MergeOptions merging{};            ///< theirs; the method's name and the seed are filled in
  double weight_decay = 0;           ///< of AdamW, on the gates
  Index examples = 6400;             ///< few-shot training examples a task
  Index test = 100;                  ///< held-out numbers a task
  bool only_mole = false;
  bool diagnose = false;           ///< print what limits the gates, see diagnosis.hpp
  bool validation = false;         ///< judge by training numbers set aside: for choosing options
  common::RankOptions ranks = {};  ///< the processes that train together
};

/// `numbers translate`: one text through a saved mixture.
struct TranslateOptions {
  std::filesystem::path gates;
  std::filesystem::path base;
  std::vector<std::string> experts;  ///< empty: those the gates file names
  std::vector<std::string> mask;     ///< experts to leave out: the second inference mode
  std::string prompt;
  Index beams = 1;
  std::filesystem::path out;  ///< pictures and CSV of the gates go here; empty: none
};

/// `numbers evaluate`: exact match of a base, of one adapter alone, or of saved gates, on held-out numbers.
struct EvaluateOptions {
  std::filesystem::path base;
  std::vector<std::string> experts;  ///< merged with weight 1 each; empty: the base alone
  std::vector<Task> tasks;
  Index test = 100;
};

/// The settings of gates that read the paper's input (eq. 9, InputScale::unit), as tuned for it.
inline constexpr double unit_temperature = 0.3, unit_rate = 0.1, unit_decay = 0.1;

struct TablesOptions;

/// The subcommands on one backend.
struct Commands {
  void (*train_base)(const TrainBaseOptions& options);
  void (*train_expert)(const TrainExpertOptions& options);
  void (*compose)(const ComposeOptions& options);
  void (*translate)(const TranslateOptions& options);
  void (*evaluate)(const EvaluateOptions& options);
  void (*tables)(const TablesOptions& options);
};

/// The subcommands on the backend called "cpu" or "cuda". Throws mole::ArgumentError for any other name, and
/// for a backend that this build lacks, with what to do about it.
const Commands& commands_on(const std::string& backend);

}  // namespace numbers
