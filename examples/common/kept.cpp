#include "common/kept.hpp"

#include <cmath>
#include <fstream>
#include <iterator>
#include <span>

#include <mole/core/fingerprint.hpp>
#include <mole/core/scalar.hpp>

#include "common/files.hpp"

namespace common {

namespace {

std::filesystem::path file_of(const std::filesystem::path& folder, const std::string& key) {
  return folder / (short_name(key) + ".json");
}

}  // namespace

std::string short_name(const std::string& text) {
  mole::Fingerprint digest;
  digest.add(std::as_bytes(std::span(text)));
  return digest.hex();
}

std::optional<nlohmann::json> read_kept(const std::filesystem::path& folder, const std::string& key) {
  std::ifstream in(file_of(folder, key), std::ios::binary);
  if (!in) return {};
  const std::string text{std::istreambuf_iterator<char>(in), {}};
  const auto json = nlohmann::json::parse(text, nullptr, false);
  if (!json.is_object() || json.value("key", nlohmann::json()) != key) return {};
  return json;
}

void write_kept(const std::filesystem::path& folder, const std::string& key, nlohmann::json result) {
  result["key"] = key;
  write_text(file_of(folder, key), result.dump(1) + "\n");
}

nlohmann::json numbers_json(const std::vector<double>& values) {
  auto array = nlohmann::json::array();
  for (const double value : values)
    array.push_back(mole::is_finite(value) ? nlohmann::json(value) : nlohmann::json(nullptr));
  return array;
}

std::vector<double> numbers_in(const nlohmann::json& array) {
  std::vector<double> values;
  for (const auto& value : array) values.push_back(value.is_null() ? std::nan("") : value.get<double>());
  return values;
}

}  // namespace common
