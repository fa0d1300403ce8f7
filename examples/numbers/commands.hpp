#pragma once
// The subcommands of `numbers` and their options. Each throws mole::Error for what the user can mend.

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include <mole/nn/gate.hpp>

#include "numbers/tasks.hpp"

namespace numbers {

/// What every training command has.
struct RunOptions {
  Index steps;
  Index batch;
  double rate;
  std::filesystem::path out;
  std::uint64_t seed = 1;
  std::filesystem::path checkpoint = {};
  bool resume = false;
};

/// `numbers train-base`: a small T5 that has seen all directions between nine languages, a little.
struct TrainBaseOptions {
  RunOptions run{550, 256, 2e-3, "numbers-base"};
  Index numbers = 600;  ///< how many training numbers it sees: few, so that it stays weak
  Index width = 128, heads = 4, head_width = 32, feed_forward = 384, layers = 3;
};
void train_base(const TrainBaseOptions& options);

/// `numbers train-expert`: a LoRA for one task on a frozen base.
struct TrainExpertOptions {
  RunOptions run{250, 128, 5e-3, ""};
  std::filesystem::path base;
  std::string task;
  Index rank = 8;
  double alpha = 16;
};
void train_expert(const TrainExpertOptions& options);

/// `numbers compose`: the main job.
struct ComposeOptions {
  RunOptions run{400, 48, 0.1, "numbers-out"};
  std::filesystem::path base;
  std::vector<std::string> experts;
  std::vector<Task> tasks;
  mole::GateOptions gates;
  double alpha = 0.01;   ///< weight of the balance loss
  Index examples = 100;  ///< few-shot training examples a task
  Index test = 100;      ///< held-out numbers a task
  bool only_mole = false;
};
void compose(const ComposeOptions& options);

/// `numbers translate`: one text through a saved mixture.
struct TranslateOptions {
  std::filesystem::path gates;
  std::filesystem::path base;
  std::vector<std::string> experts;  ///< empty: those the gates file names
  std::vector<std::string> mask;     ///< experts to leave out: the second inference mode
  std::string prompt;
  Index beams = 1;
};
void translate(const TranslateOptions& options);

/// `numbers evaluate`: exact match of a base, of one adapter alone, or of saved gates, on held-out numbers.
struct EvaluateOptions {
  std::filesystem::path base;
  std::vector<std::string> experts;  ///< merged with weight 1 each; empty: the base alone
  std::vector<Task> tasks;
  Index test = 100;
};
void evaluate(const EvaluateOptions& options);

}  // namespace numbers
