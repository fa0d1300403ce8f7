#pragma once
// The paper's studies as data: which mixtures are measured, on which tasks, and what the paper found.

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include <mole/experts/gate.hpp>

#include "common/plots.hpp"
#include "numbers/commands.hpp"
#include "numbers/tasks.hpp"

namespace numbers {

/// One way to combine experts, and the tasks it is judged by. Its result is one rate a judged task, or their
/// mean.
struct Cell {
  /// base; sum, mean (eq. 1 and 2); pems (factors added with the lambda that the examples like best);
  /// lorahub (one search for all tasks), lorahub-each (one a judged task); another of mole's
  /// composition_methods(); mole, hidden, arrow or xlora (routers).
  std::string method;
  std::vector<Task> experts;
  std::vector<Task> trained_on;  ///< tasks of the few-shot examples
  std::vector<Task> judged;
  Index test = 100;         ///< held-out numbers a judged task
  bool tuned = false;       ///< merging methods: see MergeOptions
  bool full_rank = false;   ///< *_svd: nothing is cut
  std::size_t count = 0;    ///< sum, mean: each judged task's own expert and count - 1 others; 0: all
  std::string part = {};    ///< of the LoRAs, only the slots whose names begin so
  std::string masked = {};  ///< the expert left out once the gates are trained
  mole::GateOptions gates{.temperature = 0.3};
  double rate = 0.1;       ///< peak learning rate of the router
  double alpha = 0.01;     ///< weight of the balance loss
  double decay = 0.1;      ///< weight decay on the gates
  Index examples = 0;      ///< few-shot training examples a task; 0: as many as the options say
  double longer = 1;       ///< times the options' steps
  bool averaged = false;   ///< one value, the mean over the judged tasks
  std::uint64_t seed = 1;  ///< few-shot examples, their order, the search, and which held-out numbers
};

/// A row of a table: its cells' values side by side.
struct Row {
  std::string name;
  std::vector<Cell> cells;
};

/// A part of a claim: one row's average is above another's.
struct Comparison {
  std::string better, worse;              ///< names of rows
  std::vector<std::string> columns = {};  ///< those that are averaged; none: all
  bool or_equal = false;                  ///< no worse, up to the spread, is enough
};

/// One table or figure of the paper.
struct Study {
  std::string name;  ///< as it is asked for: "9", "fig8"
  std::string title;
  std::string claim;  ///< what the paper found
  std::vector<std::string> columns;
  std::vector<Row> rows;
  std::vector<Comparison> greater;  ///< of exact match: what must be so for the claim to hold here
  std::vector<Comparison> greater_entropy = {};  ///< the same of the gates' entropy after training
  std::string note = {};                         ///< what a reader must know of how it was measured here
};

/// What a cell gave.
struct Measured {
  std::vector<double> rates;    ///< exact match, in [0, 1]
  std::vector<double> entropy;  ///< routers: of the gates, in nats, their mean at each training step
  common::GateHeat heat;        ///< routers: mean gates on the judged tasks; no values for the rest
};

/// A run whose options a study has set.
inline RunOptions in_study(RunOptions run) {
  run.to_resume = "run the same command again, it goes on from there";
  run.to_calm = "this training does not suit this base; try a larger --batch or --expert-batch";
  return run;
}

/// `numbers tables`.
struct TablesOptions {
  RunOptions run = in_study({200, 48, 0.1, "numbers-tables"});  ///< of the gates; the rate is each cell's
  RunOptions expert = in_study({500, 64, 5e-3, ""});            ///< of experts that are not there yet
  std::filesystem::path base;
  std::vector<std::string> studies;  ///< names; "all"
  std::vector<std::string> rows;     ///< only rows whose names begin so; empty: all
  Index seeds = 3;
  Index only_seed = 0;   ///< if above 0, this seed is measured and no table written
  Index examples = 100;  ///< few-shot training examples a task
  Index test = 100;      ///< held-out numbers a task and seed
  Index largest = 128;   ///< experts in table 6, at most
};

/// Every study, in the paper's order.
std::vector<Study> all_studies(const TablesOptions& options);

/// Those that `options` names; fig5 is drawn with table 7, fig7 with table 9.
/// Throws mole::ArgumentError for an unknown name, with the names there are, and where no row of a study is wanted.
std::vector<Study> chosen_studies(const TablesOptions& options);

/// The languages of table 6, the first 4, 12, 24 and 64 of which make 8, 24, 48 and 128 tasks with English.
const std::vector<std::string>& study_languages();

}  // namespace numbers
