#pragma once
// Measured cells on the disk: a study that was stopped goes on where it was.

#include <filesystem>
#include <optional>
#include <string>

#include "common/kept.hpp"
#include "numbers/tables/study.hpp"

namespace numbers {

/// All that a cell's result depends on but base and experts.
std::string description(const Cell& cell, const TablesOptions& options);

using common::short_name;

/// The result saved under `key` in `folder`; empty when there is none, when it is damaged, or when it belongs
/// to another key.
std::optional<Measured> load_cell(const std::filesystem::path& folder, const std::string& key);

/// Saves a result, whole or not at all. Throws mole::Error naming the file.
void save_cell(const std::filesystem::path& folder, const std::string& key, const Measured& measured);

}  // namespace numbers
