#pragma once
// The paper's tables about pictures as data, and what comes out of them.

#include <array>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "common/spread.hpp"
#include "pictures/commands.hpp"
#include "pictures/compose_run.hpp"

namespace pictures {

/// What is measured of a row, in this order; NaN where there is nothing to measure.
inline const std::array<std::string, 7> measures{"text, 2",      "text, 3",  "halves, 2",   "there, 2",
                                                 "all there, 2", "there, 3", "all there, 3"};
using Measures = std::array<double, 7>;
Measures measures_of(const Row& row);

/// A part of a claim: one row is above another in a measure, at every number of experts.
struct Claim {
  std::string better, worse, measure;
};

/// One table of the paper, as far as this study can ask its question.
struct Table {
  std::string name, title;
  std::string claim;  ///< what the paper found
  std::string note;   ///< how it is asked here
  std::vector<std::size_t> experts;
  bool few_named = false;  ///< prompts name the first three subjects, however many experts there are
  std::vector<std::string> rows;
  std::vector<Claim> claims;
};

/// All of them, in the paper's order.
std::vector<Table> all_tables();

/// Those that are named. Throws mole::ArgumentError for an unknown name, with the names there are.
std::vector<Table> chosen_tables(const std::vector<std::string>& names);

/// The subjects in the order in which tables take them: those with shipped experts first.
const std::vector<std::string>& table_subjects();

/// The values of a table: [number of experts][row][seed].
using TableValues = std::vector<std::vector<std::vector<Measures>>>;

/// The table in Markdown, means over seeds with their deviation, and for each claim whether it holds here.
std::string markdown(const Table& table, const TableValues& values);

/// `experts,row,seed,<measures>`.
std::string csv(const Table& table, const TableValues& values);

/// A measured row on the disk, so that a run that was stopped goes on where it was. `key` is all that it depends on; a
/// missing, damaged or foreign file is no row.
std::optional<Measures> load_measures(const std::filesystem::path& folder, const std::string& key);
void save_measures(const std::filesystem::path& folder, const std::string& key, const Measures& values);

}  // namespace pictures
