#include "numbers/tables/cells.hpp"

#include <cmath>
#include <fstream>
#include <iterator>
#include <span>

#include <nlohmann/json.hpp>

#include <mole/core/error.hpp>
#include <mole/core/fingerprint.hpp>

#include "common/files.hpp"

namespace numbers {

namespace {

std::string list(const std::vector<Task>& tasks) {
  std::string text;
  for (const auto& task : tasks) text += (text.empty() ? "" : ",") + task.name();
  return text;
}

std::filesystem::path file_of(const std::filesystem::path& folder, const std::string& key) {
  return folder / (short_name(key) + ".json");
}

// JSON knows no NaN: null stands for it.
nlohmann::json numbers_of(const std::vector<double>& values) {
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

}  // namespace

std::string description(const Cell& cell, const TablesOptions& options) {
  const auto& g = cell.gates;
  return mole::message("cell", cell.method, "count", cell.count, "part", "'" + cell.part + "'", "masked",
                       "'" + cell.masked + "'", "seed", cell.seed, "test", cell.test, "averaged",
                       cell.averaged, "examples", options.examples, "steps", options.run.steps, "batch",
                       options.run.batch, "rate", cell.rate, "balance", cell.alpha, "scope",
                       to_string(g.scope), "input", to_string(g.input), "pooling", to_string(g.pooling),
                       "top-k", g.top_k, "temperature", g.temperature) +
         // Left out where they are as ever, so that cells measured before are still known.
         (g.input_scale == mole::InputScale::unit ? std::string()
                                                  : std::string(" input scale ") + to_string(g.input_scale)) +
         (cell.decay == Cell{}.decay ? std::string() : mole::message(" decay", cell.decay)) +
         (cell.examples == 0 ? std::string() : mole::message(" own examples", cell.examples)) +
         (cell.longer == 1 ? std::string() : mole::message(" steps times", cell.longer)) +
         (cell.tuned ? " tuned" : "") + (cell.full_rank ? " full rank" : "") + "\nexperts " +
         list(cell.experts) + "\ntrained on " + list(cell.trained_on) + "\njudged by " + list(cell.judged);
}

std::string short_name(const std::string& text) {
  mole::Fingerprint digest;
  digest.add(std::as_bytes(std::span(text)));
  return digest.hex();
}

std::optional<Measured> load_cell(const std::filesystem::path& folder, const std::string& key) {
  std::ifstream in(file_of(folder, key), std::ios::binary);
  if (!in) return {};
  const std::string text{std::istreambuf_iterator<char>(in), {}};
  const auto json = nlohmann::json::parse(text, nullptr, false);
  try {
    if (json.is_discarded() || json.at("key") != key) return {};
    const auto& heat = json.at("heat");
    return Measured{numbers_in(json.at("rates")),
                    numbers_in(json.at("entropy")),
                    {heat.at("scopes"), heat.at("experts"), heat.at("tasks"), numbers_in(heat.at("values"))}};
  } catch (const nlohmann::json::exception&) {
    return {};
  }
}

void save_cell(const std::filesystem::path& folder, const std::string& key, const Measured& measured) {
  const auto& heat = measured.heat;
  const nlohmann::json json{{"key", key},
                            {"rates", numbers_of(measured.rates)},
                            {"entropy", numbers_of(measured.entropy)},
                            {"heat",
                             {{"scopes", heat.scopes},
                              {"experts", heat.experts},
                              {"tasks", heat.tasks},
                              {"values", numbers_of(heat.values)}}}};
  common::write_text(file_of(folder, key), json.dump(1) + "\n");
}

}  // namespace numbers
