// The table of results as text and CSV.

#include <doctest/doctest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

#include <mole/core/error.hpp>

#include "common/table.hpp"
#include "examples_common/folder.hpp"

namespace {

namespace fs = std::filesystem;
using common_test::contents;
using common_test::Folder;

common::ResultTable sample() {
  common::ResultTable table({"en>fr", "fr>en"});
  table.add("base", {0.099, 0.1});
  table.add("somme, équation 1", {0, 1});
  table.add("MoLE", {0.82449, std::nan("")});
  return table;
}

}  // namespace

TEST_CASE("A table's columns line up, accents counted as one column") {
  CHECK(sample().text() ==
        "method             en>fr  fr>en  average\n"
        "----------------------------------------\n"
        "base                 9.9   10.0     10.0\n"
        "somme, équation 1    0.0  100.0     50.0\n"
        "MoLE                82.4      -     82.4\n");
}

TEST_CASE("A table shows what a terminal would obey, and does not obey it") {
  CHECK(common::aligned_text({{"a\x1b[31m", "b\n"}}).starts_with("a\\x1b[31m  b\\x0a\n"));
}

TEST_CASE("A table's CSV has percentages with one decimal and quotes what needs it") {
  CHECK(sample().csv() ==
        "method,en>fr,fr>en,average\n"
        "base,9.9,10.0,10.0\n"
        "\"somme, équation 1\",0.0,100.0,50.0\n"
        "MoLE,82.4,,82.4\n");
}

TEST_CASE("A row of another width is refused by name") {
  common::ResultTable table({"en>fr"});
  CHECK_THROWS_WITH_AS(table.add("mean", {0.1, 0.2}),
                       "ResultTable: row 'mean' has 2 values, expected one for each of the 1 columns",
                       mole::ArgumentError);
  CHECK(table.rows() == 0);
  CHECK_THROWS_AS(common::ResultTable({}), mole::ArgumentError);
}

TEST_CASE("A CSV replaces the file before it and leaves nothing else behind") {
  const Folder folder;
  const fs::path path = folder.path / "results.csv";
  std::ofstream(path) << "old, and longer than what follows, so that a remainder would show: "
                      << std::string(500, 'x');
  sample().write_csv(path);
  CHECK(contents(path) == sample().csv());
  CHECK(std::distance(fs::directory_iterator(folder.path), fs::directory_iterator()) == 1);
}
