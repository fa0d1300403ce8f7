#pragma once
// The subcommands of `mole` and their options. Each throws mole::Error for what the user can mend.

#include <filesystem>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include <mole/models/causal/sampling.hpp>

#include "common/merging.hpp"
#include "common/ranks.hpp"
#include "common/router_arguments.hpp"
#include "common/training.hpp"
#include "mole/examples.hpp"

namespace program {

using common::RunOptions;
using mole::Index;

/// The model that a command loads, and how its texts are written.
struct ModelOptions {
  std::filesystem::path base;
  std::filesystem::path tokenizer;  ///< empty: the base's own
  std::string form;                 ///< none, chatml or a file; empty: what the gates say, else none
  std::string system;               ///< with chatml
  std::string backend = "cpu";
  bool bf16 = false;  ///< frozen weights, activations and experts are bf16; else all is float
  bool frugal = false, quantised = false;  ///< see MemoryOptions
};

/// `mole compose`: trains gates over experts and says what they are worth.
struct ComposeOptions : common::RouterChoice {
  ComposeOptions() { gates.input_scale = mole::InputScale::standardised; }

  RunOptions run{100, 16, 0.05, "mole-out"};
  ModelOptions model;
  std::vector<std::string> experts;
  std::filesystem::path train, test;  ///< without a test file a tenth of the training examples is set aside
  std::vector<std::string> methods;   ///< merging methods to compare with
  common::MergeOptions merging{};
  double weight_decay = 0;
  Batches batches = Batches::mixed;           ///< which examples a step takes together
  Index test_batch = 32, max_new_tokens = 0;  ///< see JudgeOptions
  bool only_mole = false;                     ///< leave out the rows to compare with
  bool no_single_experts = false;             ///< no row to compare with for each expert
  bool dry_run = false;                       ///< say what would be done, and do nothing
  common::RankOptions ranks = {};             ///< the processes that train together
};

/// `mole generate`: answers by saved gates, or by the base alone.
struct GenerateOptions {
  ModelOptions model;
  std::string gates;                 ///< a file, or NAME=FILE by comma; empty: the base alone
  std::vector<std::string> experts;  ///< where the gates' notes are not right
  std::vector<std::string> mask;     ///< experts to leave out
  std::string prompt;
  std::filesystem::path file;  ///< JSONL with prompts, in place of `prompt`
  std::filesystem::path out;   ///< folder of the gates as CSV and pictures; empty: none
  Index max_new_tokens = 128, beams = 1, batch = 16;
  mole::SamplingOptions sampling;
  /// The options of drawing that were given; where `sampling` draws, generation_config.json of the base says the others.
  std::set<std::string> given;
  bool show_gates = false;
};

/// `mole train-expert`: a LoRA for one task.
struct TrainExpertOptions {
  RunOptions run{300, 16, 1e-3, ""};
  ModelOptions model;
  std::filesystem::path train, test;
  std::string task;  ///< of the file's examples, those of this task; empty: all
  Index rank = 8;
  double alpha = 16;
  std::vector<std::string> targets;  ///< empty: all linear layers of the blocks
};

/// `mole merge`: one adapter of several.
struct MergeCommandOptions {
  std::vector<std::string> experts;
  common::MergeOptions merging{};
  std::vector<double> weights;  ///< one an expert; empty: the method's own
  std::filesystem::path out;
};

/// `mole bake`: the mean gates of a task as one adapter.
struct BakeOptions {
  ModelOptions model;
  std::filesystem::path gates;
  std::vector<std::string> experts;
  std::filesystem::path data;  ///< examples of the task, by which gates are averaged and both are judged
  std::string task;            ///< empty: all of the file's examples
  Index batch = 32;
  std::filesystem::path out;
};

void compose(ComposeOptions options);
void generate(const GenerateOptions& options);
void train_expert(const TrainExpertOptions& options);
void merge(const MergeCommandOptions& options);
void bake(const BakeOptions& options);
/// `mole inspect`: what lies at a path, on stdout.
void inspect(const std::filesystem::path& path);

}  // namespace program
