// The table of results as text and CSV, and files that are whole or absent.

#include <doctest/doctest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

#include <mole/core/error.hpp>

#include "numbers/folder.hpp"
#include "numbers/table.hpp"

namespace {

namespace fs = std::filesystem;
using numbers_test::contents;
using numbers_test::Folder;

numbers::ResultTable sample() {
  numbers::ResultTable table({"en>fr", "fr>en"});
  table.add("base", {0.099, 0.1});
  table.add("somme, équation 1", {0, 1});
  table.add("MoLE", {0.82449, std::nan("")});
  return table;
}

}  // namespace

TEST_CASE("a table's columns line up, accents counted as one column") {
  CHECK(sample().text() ==
        "method             en>fr  fr>en  average\n"
        "----------------------------------------\n"
        "base                 9.9   10.0     10.0\n"
        "somme, équation 1    0.0  100.0     50.0\n"
        "MoLE                82.4      -     82.4\n");
}

TEST_CASE("a table's CSV has percentages with one decimal and quotes what needs it") {
  CHECK(sample().csv() ==
        "method,en>fr,fr>en,average\n"
        "base,9.9,10.0,10.0\n"
        "\"somme, équation 1\",0.0,100.0,50.0\n"
        "MoLE,82.4,,82.4\n");
}

TEST_CASE("a row of another width is refused by name") {
  numbers::ResultTable table({"en>fr"});
  CHECK_THROWS_WITH_AS(table.add("mean", {0.1, 0.2}),
                       "ResultTable: row 'mean' has 2 values, expected one for each of the 1 columns",
                       mole::ArgumentError);
  CHECK(table.rows() == 0);
  CHECK_THROWS_AS(numbers::ResultTable({}), mole::ArgumentError);
}

TEST_CASE("a CSV replaces the file before it and leaves nothing else behind") {
  const Folder folder;
  const fs::path path = folder.path / "results.csv";
  std::ofstream(path) << "old, and longer than what follows, so that a remainder would show: "
                      << std::string(500, 'x');
  sample().write_csv(path);
  CHECK(contents(path) == sample().csv());
  CHECK(std::distance(fs::directory_iterator(folder.path), fs::directory_iterator()) == 1);
}

TEST_CASE("an output folder that cannot be is an error that names it, before any work") {
  const Folder folder;
  const fs::path file = folder.path / "file";
  std::ofstream(file) << "x";
  CHECK_THROWS_AS(numbers::prepare_folder(file / "below"), mole::ArgumentError);
  CHECK_THROWS_AS(numbers::prepare_folder(file), mole::ArgumentError);
  CHECK_THROWS_AS(sample().write_csv(file / "results.csv"), mole::Error);
  try {
    numbers::prepare_folder(file / "below");
  } catch (const mole::ArgumentError& error) {
    CHECK(std::string(error.what()).find((file / "below").string()) != std::string::npos);
    CHECK(std::string(error.what()).find("choose a folder") != std::string::npos);
  }
  CHECK(contents(file) == "x");
  // /proc refuses new files whoever asks, root too.
  if (fs::exists("/proc/self")) CHECK_THROWS_AS(numbers::prepare_folder("/proc"), mole::ArgumentError);
}

TEST_CASE("a writable output folder is made with its parents and stays empty") {
  const Folder folder;
  const fs::path deep = folder.path / "a" / "b";
  numbers::prepare_folder(deep);
  numbers::prepare_folder(deep);
  CHECK(fs::is_directory(deep));
  CHECK(fs::is_empty(deep));
}
