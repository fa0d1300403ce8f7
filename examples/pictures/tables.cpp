#include "pictures/tables.hpp"

#include <algorithm>
#include <cmath>

#include <mole/io/csv.hpp>

#include "common/files.hpp"
#include "common/kept.hpp"

namespace pictures {

namespace {

constexpr const char* mean_row = "mean (eq. 2; NLA)";
constexpr const char* paper_row = "MoLE layer/token";

Table table1() {
  return {
      "1",
      "Table 1: two and three subjects in one picture",
      "MoLE is better aligned with the text, and with each subject, than normalised linear arithmetic (NLA) "
      "and SVDiff.",
      "",
      {3},
      false,
      {"base", "sum (eq. 1)", mean_row, "SVDiff", "Mix-of-Show (fusion)", "LoRA Switch", "LoRA Composite",
       "MoLE layer/mean", paper_row, best_method, "hand-made masks", true_pictures},
      {{"MoLE layer/mean", mean_row, "text, 2"},
       {"MoLE layer/mean", mean_row, "halves, 2"},
       {paper_row, mean_row, "text, 2"},
       {paper_row, mean_row, "halves, 2"},
       {paper_row, "SVDiff", "text, 2"},
       {paper_row, "SVDiff", "halves, 2"},
       {best_method, mean_row, "all there, 2"}}};
}

Table table2() {
  return {"2",
          "Table 2: three to six concepts",
          "MoLE stays ahead of NLA and SVDiff as concepts are added.",
          "A picture holds two or three of the concepts: there is no room for six.",
          {3, 4, 5, 6},
          false,
          {mean_row, "SVDiff", paper_row, best_method},
          {{paper_row, mean_row, "text, 2"},
           {paper_row, mean_row, "halves, 2"},
           {best_method, mean_row, "all there, 2"}}};
}

Table table9() {
  return {
      "9",
      "Table 9: one gate a matrix, a layer, a block, the network",
      "Gates of layers and blocks are better than those of matrices or of the network.",
      "The paper's gates have one weight a picture (\"/mean\"). Gates \"/token\" have one a pixel and word.",
      {3},
      false,
      {"MoLE matrix/mean", "MoLE layer/mean", "MoLE block/mean", "MoLE network/mean", "MoLE matrix/token",
       paper_row, "MoLE block/token"},
      {{"MoLE layer/mean", "MoLE matrix/mean", "text, 2"},
       {"MoLE layer/mean", "MoLE network/mean", "text, 2"},
       {"MoLE block/mean", "MoLE matrix/mean", "text, 2"},
       {"MoLE block/mean", "MoLE network/mean", "text, 2"}}};
}

Table table10() {
  auto table = table2();
  table.name = "10";
  table.title = "Table 10: three to six LoRAs";
  table.claim = "MoLE stays ahead of NLA and SVDiff as LoRAs are added.";
  table.note = "Prompts name the first three subjects; the other LoRAs are only in the way.";
  table.few_named = true;
  return table;
}

bool is_share(std::size_t measure) { return measure >= 3; }

std::string shown(const common::Spread& s, std::size_t measure) {
  if (mole::is_nan(s.mean)) return "-";
  return is_share(measure) ? common::with_deviation(s, 100, "%.0f") : common::with_deviation(s, 1, "%.3f");
}
std::string shown_cosine(const common::Spread& s) { return shown(s, 0); }
std::string shown_share(const common::Spread& s) { return shown(s, 3); }

std::size_t place(const std::vector<std::string>& names, const std::string& name) {
  return static_cast<std::size_t>(std::find(names.begin(), names.end(), name) - names.begin());
}

common::Spread spread_of(const std::vector<Measures>& seeds, std::size_t measure) {
  std::vector<double> values;
  for (const auto& seed : seeds) values.push_back(seed[measure]);
  return common::spread(values);
}

}  // namespace

Measures measures_of(const Row& row) {
  const auto &two = row.measured_two, &three = row.measured_three;
  const bool triples = !row.three.empty();
  const double none = std::nan("");
  return {two.text,
          three.text,
          two.half,
          two.present,
          two.all_present,
          triples ? three.present : none,
          triples ? three.all_present : none};
}

std::vector<Table> all_tables() { return {table1(), table2(), table9(), table10()}; }

std::vector<Table> chosen_tables(const std::vector<std::string>& names) {
  const auto all = all_tables();
  std::vector<Table> chosen;
  for (const auto& name : names) {
    if (name == "all") return all;
    const auto found =
        std::find_if(all.begin(), all.end(), [&](const Table& table) { return table.name == name; });
    std::string known;
    for (const auto& table : all) known += table.name + " ";
    MOLE_CHECK_ARG(found != all.end(), "tables: there is no table", name + "; choose of", known + "or all");
    if (std::none_of(chosen.begin(), chosen.end(), [&](const Table& table) { return table.name == name; }))
      chosen.push_back(*found);
  }
  return chosen;
}

const std::vector<std::string>& table_subjects() {
  static const std::vector<std::string> all{"dog face", "cat face", "pizza", "robot", "rocket", "castle"};
  return all;
}

std::string markdown(const Table& table, const TableValues& values) {
  const bool several = table.experts.size() > 1;
  std::string text = "## " + table.title + "\n\nThe paper: " + table.claim + "\n\n";
  if (!table.note.empty()) text += table.note + "\n\n";
  text += several ? "| experts | |" : "| |";
  std::string rule = several ? "|---|---|" : "|---|";
  for (const auto& measure : measures) text += " " + measure + " |", rule += "---|";
  text += "\n" + rule + "\n";
  for (std::size_t n = 0; n < table.experts.size(); ++n)
    for (std::size_t r = 0; r < table.rows.size(); ++r) {
      text += "| " + (several ? std::to_string(table.experts[n]) + " | " : "") + table.rows[r] + " |";
      for (std::size_t m = 0; m < measures.size(); ++m)
        text += " " + shown(spread_of(values.at(n).at(r), m), m) + " |";
      text += "\n";
    }
  text += "\nHere:\n\n";
  const std::vector<std::string> all_measures(measures.begin(), measures.end());
  for (const auto& claim : table.claims) {
    const auto m = place(all_measures, claim.measure);
    for (std::size_t n = 0; n < table.experts.size(); ++n) {
      const auto& rows = values[n];
      text += "- " + (several ? std::to_string(table.experts[n]) + " experts, " : std::string()) +
              claim.measure + ": " +
              common::verdict(claim.better, spread_of(rows.at(place(table.rows, claim.better)), m),
                              claim.worse, spread_of(rows.at(place(table.rows, claim.worse)), m),
                              is_share(m) ? shown_share : shown_cosine) +
              "\n";
    }
  }
  return text;
}

std::string csv(const Table& table, const TableValues& values) {
  std::string text = "experts,row,seed";
  for (const auto& measure : measures) text += "," + mole::csv_field(measure);
  text += "\n";
  for (std::size_t n = 0; n < table.experts.size(); ++n)
    for (std::size_t r = 0; r < table.rows.size(); ++r)
      for (std::size_t seed = 0; seed < values.at(n).at(r).size(); ++seed) {
        text += std::to_string(table.experts[n]) + "," + mole::csv_field(table.rows[r]) + "," +
                std::to_string(seed + 1);
        for (const double value : values[n][r][seed]) text += "," + common::csv_number(value);
        text += "\n";
      }
  return text;
}

std::optional<Measures> load_measures(const std::filesystem::path& folder, const std::string& key) {
  const auto json = common::read_kept(folder, key);
  if (!json) return {};
  try {
    const auto kept = common::numbers_in(json->at("values"));
    Measures values;
    if (kept.size() != values.size()) return {};
    std::copy(kept.begin(), kept.end(), values.begin());
    return values;
  } catch (const nlohmann::json::exception&) {
    return {};
  }
}

void save_measures(const std::filesystem::path& folder, const std::string& key, const Measures& values) {
  common::write_kept(folder, key, {{"values", common::numbers_json({values.begin(), values.end()})}});
}

}  // namespace pictures
