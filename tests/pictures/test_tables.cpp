// The paper's tables about pictures: what they ask, and what is said of what comes out.

#include <algorithm>
#include <cmath>
#include <fstream>
#include <set>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <testing.hpp>

#include "examples_common/folder.hpp"
#include "pictures/spectral_file.hpp"
#include "pictures/tables.hpp"

namespace pictures::table_tests {

using common_test::Folder;

TEST_CASE("Every row of every table is a row that can be made, and every claim is of its rows and measures") {
  ComposeOptions options;
  for (const auto& table : all_tables()) {
    CAPTURE(table.name);
    for (const auto& row : table.rows) {
      if (row == true_pictures) continue;
      CAPTURE(row);
      options.methods = {row};
      const auto methods = chosen_methods({"dog face", "cat face", "pizza"}, options);
      CHECK(methods.size() == 1);
      CHECK(methods.front().name == row);
    }
    for (const auto& claim : table.claims) {
      CHECK(std::count(table.rows.begin(), table.rows.end(), claim.better) == 1);
      CHECK(std::count(table.rows.begin(), table.rows.end(), claim.worse) == 1);
      CHECK(std::count(measures.begin(), measures.end(), claim.measure) == 1);
    }
    for (const auto count : table.experts) CHECK(count <= table_subjects().size());
  }
  CHECK(chosen_tables({"9", "1", "9"}).size() == 2);
  CHECK(chosen_tables({"all"}).size() == all_tables().size());
  CHECK(mole::testing::lacks<mole::ArgumentError>([] { chosen_tables({"3"}); }, {"3", "10", "all"}) == "");
}

TEST_CASE("A table says means and deviations, and of each claim whether it holds") {
  const Table table{"t", "Title", "a beats b.", "",
                    {3}, false,   {"a", "b"},   {{"a", "b", "text, 2"}, {"b", "a", "there, 2"}}};
  const double none = std::nan("");
  const TableValues values{{{{0.9, 0.8, 0.5, 1, 0, none, none}, {0.8, 0.8, 0.5, 0.5, 0, none, none}},
                            {{0.5, 0.8, 0.5, 0, 0, none, none}, {0.6, 0.8, 0.5, 0.5, 0, none, none}}}};
  const auto text = markdown(table, values);
  CAPTURE(text);
  CHECK(text.find("| a | 0.850 ± 0.071 | 0.800 ± 0.000 | 0.500 ± 0.000 | 75 ± 35 | 0 ± 0 | - | - |\n") !=
        text.npos);
  CHECK(text.find("- text, 2: holds: a 0.850 ± 0.071 > b 0.550 ± 0.071\n") != text.npos);
  CHECK(text.find("- there, 2: does not hold: b 25 ± 35 < a 75 ± 35\n") != text.npos);
  CHECK(csv(table, values).find("\n3,b,2,0.6,0.8,0.5,0.5,0,,\n") != std::string::npos);
}

TEST_CASE("A measured row is read back, and a damaged or foreign file is no row") {
  const Folder folder;
  const Measures values{0.5, 0.25, std::nan(""), 1, 0, 0.75, std::nan("")};
  save_measures(folder.path, "key", values);
  const auto read = load_measures(folder.path, "key");
  REQUIRE(read.has_value());
  CHECK((*read)[0] == 0.5);
  CHECK(std::isnan((*read)[2]));
  CHECK(!load_measures(folder.path, "other").has_value());
  for (const auto& entry : std::filesystem::directory_iterator(folder.path))
    std::ofstream(entry.path()) << "{\"key\": \"key\", \"values\": [1]}";
  CHECK(!load_measures(folder.path, "key").has_value());
}

TEST_CASE("SVDiff's shifts are read back, and those of another base are refused") {
  using Table = mole::SlotTable<float, mole::Cpu>;
  using Values = mole::Tensor<float, mole::Cpu>;
  const Folder folder;
  const auto path = folder.path / spectral_file;
  Table table;
  table.add_group({}, {{"a.q", 3, 2}, {"a.k", 4, 5}});
  save_shifts(path, table, std::vector<Values>{Values::from({2}, {0.5f, -1.f}), Values::zeros({4})});
  const auto read = load_shifts(path, table);
  CHECK(read.at(0).to_host() == std::vector<float>{0.5f, -1.f});
  Table other;
  other.add_group({}, {{"a.q", 3, 3}, {"a.k", 4, 5}});
  CHECK(mole::testing::lacks<mole::FormatError>([&] { load_shifts(path, other); },
                                                {"a.q.delta", "[2]", "[3]"}) == "");
  Table fewer;
  fewer.add_group({}, {{"a.q", 3, 2}});
  CHECK_THROWS_AS(load_shifts(path, fewer), mole::FormatError);
  Table renamed;
  renamed.add_group({}, {{"b.q", 3, 2}, {"a.k", 4, 5}});
  CHECK(mole::testing::lacks<mole::FormatError>([&] { load_shifts(path, renamed); },
                                                {"b.q.delta", "another base"}) == "");
}

}  // namespace pictures::table_tests
