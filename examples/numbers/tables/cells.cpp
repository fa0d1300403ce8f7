#include "numbers/tables/cells.hpp"

#include <mole/core/error.hpp>

namespace numbers {

using common::numbers_in;
using common::numbers_json;

namespace {

std::string list(const std::vector<Task>& tasks) {
  std::string text;
  for (const auto& task : tasks) text += (text.empty() ? "" : ",") + task.name();
  return text;
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

std::optional<Measured> load_cell(const std::filesystem::path& folder, const std::string& key) {
  const auto json = common::read_kept(folder, key);
  if (!json) return {};
  try {
    const auto& heat = json->at("heat");
    return Measured{numbers_in(json->at("rates")),
                    numbers_in(json->at("entropy")),
                    {heat.at("scopes"), heat.at("experts"), heat.at("tasks"), numbers_in(heat.at("values"))}};
  } catch (const nlohmann::json::exception&) {
    return {};
  }
}

void save_cell(const std::filesystem::path& folder, const std::string& key, const Measured& measured) {
  const auto& heat = measured.heat;
  common::write_kept(folder, key,
                     {{"rates", numbers_json(measured.rates)},
                      {"entropy", numbers_json(measured.entropy)},
                      {"heat",
                       {{"scopes", heat.scopes},
                        {"experts", heat.experts},
                        {"tasks", heat.tasks},
                        {"values", numbers_json(heat.values)}}}});
}

}  // namespace numbers
