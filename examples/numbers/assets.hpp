#pragma once
// Bases and experts on the disk: where the shipped ones lie, and experts as a model attaches them.

#include <filesystem>
#include <string>
#include <vector>

#include <mole/nn/lora.hpp>

#include "numbers/tasks.hpp"

namespace numbers {

/// The folder of the shipped base, and that of the shipped experts.
std::filesystem::path shipped_base();
std::filesystem::path shipped_experts();

/// The folder name of a task's expert: "en>fr" -> "en-fr", as shells like it.
std::string folder_name(const Task& task);

/// 16 hex digits over a base's weights, so that a run is not resumed on another base.
std::string base_digest(const std::filesystem::path& folder);

/// Experts in PEFT's format, from `names`: each a folder, or a task whose expert lies in `root`. An expert
/// named by a task, or lying in a folder such as en-fr, is called by the task's name.
/// Throws mole::ArgumentError for an empty list or a folder that does not exist.
std::vector<mole::LoraSet> load_experts(const std::vector<std::string>& names,
                                        const std::filesystem::path& root);

}  // namespace numbers
