#pragma once
// Results of long studies on the disk, each in a file of its own: a study that was stopped goes on where it was.

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

namespace common {

/// 16 hex digits of a text: the file name of what it describes.
std::string short_name(const std::string& text);

/// What was kept under `key`, which says all that the result depends on. Empty where there is none, where the file is
/// damaged, and where it belongs to another key.
std::optional<nlohmann::json> read_kept(const std::filesystem::path& folder, const std::string& key);

/// Keeps a result, an object, whole or not at all. Throws mole::Error naming the file.
void write_kept(const std::filesystem::path& folder, const std::string& key, nlohmann::json result);

/// Numbers in JSON, which knows no NaN: null stands for it. numbers_in() throws nlohmann's exception for what is no list
/// of numbers.
nlohmann::json numbers_json(const std::vector<double>& values);
std::vector<double> numbers_in(const nlohmann::json& array);

}  // namespace common
