// The tables of the numbers program from the outside.

#include "numbers/program.hpp"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <random>
#include <sstream>
#include <string>
#include <vector>

using namespace program_test;

TEST_CASE("Tables trains what is missing, writes table, CSV and pictures, and measures nothing twice") {
  const auto& shop = Workshop::get();
  const Arguments command{"tables", "9",
                          "fig8",   "--base",
                          "base",   "--out",
                          "study",  "--seeds",
                          "2",      "--steps",
                          "3",      "--batch",
                          "4",      "--test",
                          "2",      "--examples",
                          "3",      "--expert-steps",
                          "2",      "--expert-batch",
                          "4"};
  const auto first = shop.run(command);
  CAPTURE(first.err);
  CHECK(first.code == 0);
  CHECK(holds(first.err, "9: MoLE network, seed 2"));
  CHECK(holds(first.out, "## Table 9"));
  CHECK(contents(shop / "study/table9.md").starts_with("## Table 9"));
  CHECK(contents(shop / "study/fig8.csv")
            .starts_with("row,seed,en>fr,fr>en,en>de,de>en,en>ro,ro>en,average\n"));
  const auto experts = [&] {
    const fs::directory_iterator folders(shop / "study/experts");
    return std::count_if(begin(folders), end(folders), [](const auto& folder) {
      return folder.path().filename().string().starts_with("en-fr-") &&
             fs::exists(folder.path() / "adapter_model.safetensors");
    });
  };
  CHECK(experts() == 1);
  for (const char* picture : {"table9", "fig7-block", "fig7-matrix", "fig8", "fig8-masks"})
    CHECK(fs::exists(shop / ("study/" + std::string(picture) + ".csv")));

  const auto pages = contents(shop / "study/README.md");
  CHECK(pages.find("## Table 9") < pages.find("## Figure 8"));

  const auto again = shop.run(command);
  CHECK(again.code == 0);
  CHECK(again.err == "");
  // The first run also says which experts it made.
  CHECK(first.out.ends_with(again.out));
  CHECK(holds(again.out, "## Table 9"));

  // Experts of another training are other experts.
  auto longer = command;
  *(std::find(longer.begin(), longer.end(), "--expert-steps") + 1) = "3";
  longer.erase(std::find(longer.begin(), longer.end(), "fig8"));
  longer.insert(longer.end(), {"--rows", "MoLE network"});
  CHECK(holds(shop.run(longer).err, "9: MoLE network, seed 2"));
  CHECK(experts() == 2);
}

TEST_CASE("Tables of single seeds leave a run of all of them nothing to measure") {
  const auto& shop = Workshop::get();
  const auto with = [&](const Arguments& seeds) {
    Arguments command{
        "tables",         "9", "--base",         "base", "--out",  "apart", "--rows",     "MoLE network",
        "--steps",        "3", "--batch",        "4",    "--test", "2",     "--examples", "3",
        "--expert-steps", "2", "--expert-batch", "4"};
    command.insert(command.end(), seeds.begin(), seeds.end());
    return shop.run(command);
  };
  for (const std::string seed : {"1", "2"}) {
    const auto one = with({"--seed", seed});
    CAPTURE(one.err);
    CHECK(one.code == 0);
    CHECK(holds(one.err, "9: MoLE network, seed " + seed + " (row 1 of 1)"));
    CHECK(holds(one.out, "9: the rows of seed " + seed + " are kept in apart"));
    CHECK_FALSE(fs::exists(shop / "apart/table9.md"));
  }
  const auto all = with({"--seeds", "2"});
  CHECK(all.code == 0);
  CHECK(all.err == "");
  CHECK(holds(all.out, "## Table 9"));
  CHECK(holds(with({"--seed", "1000"}).err, "held-out numbers"));
}

TEST_CASE("Tables that is stopped says how to go on, and ends as if it had not been") {
  const auto& shop = Workshop::get();
  const auto command = [](const std::string& out) {
    return Arguments{"tables",         "9,",
                     "--base",         "base",
                     "--out",          out,
                     "--seeds",        "1",
                     "--rows",         "MoLE matrix,MoLE network",
                     "--steps",        "350",
                     "--batch",        "4",
                     "--test",         "1",
                     "--examples",     "3",
                     "--expert-steps", "1",
                     "--expert-batch", "2"};
  };
  REQUIRE(shop.run(command("whole"), "/nonexistent").code == 0);
  const auto saved = [&] {
    const auto folder = shop / "halves/gates";
    if (!fs::exists(folder)) return false;
    const fs::directory_iterator files(folder);
    return std::any_of(begin(files), end(files),
                       [](const auto& file) { return file.path().extension() == ".safetensors"; });
  };
  const auto stopped = shop.interrupt(command("halves"), saved);
  CHECK(stopped.code == 130);
  CHECK(holds(stopped.err, "9: MoLE matrix, seed 1 (row 1 of 2)"));
  CHECK(holds(stopped.err, "run the same command again"));
  CHECK(!holds(stopped.err, "--resume"));
  CHECK(shop.run(command("halves"), "/nonexistent").code == 0);
  CHECK(contents(shop / "halves/table9.csv") == contents(shop / "whole/table9.csv"));
}

TEST_CASE("Tables merges, searches and routes in every way that the studies name") {
  const auto& shop = Workshop::get();
  const auto result = shop.run(
      {"tables", "3",          "6", "8",         "routers", "--base",         "base", "--out",
       "ways",   "--seeds",    "1", "--steps",   "1",       "--batch",        "2",    "--test",
       "1",      "--examples", "1", "--largest", "8",       "--expert-steps", "1",    "--expert-batch",
       "2"});
  CAPTURE(result.err);
  CHECK(result.code == (MOLE_NUMBERS_SEARCH ? 0 : 1));
  if (!MOLE_NUMBERS_SEARCH) {
    CHECK(holds(result.err, "NLopt"));
    CHECK_FALSE(fs::exists(shop / "ways/table3.md"));
    return;
  }
  for (const std::string name : {"table3", "table6", "table8", "routers"}) {
    CAPTURE(name);
    // A line a row and seed, and one of means, with one number a column.
    std::istringstream lines(contents(shop / ("ways/" + name + ".csv")));
    std::string line;
    REQUIRE(std::getline(lines, line));
    const auto columns = std::count(line.begin(), line.end(), ',');
    int seeds = 0, means = 0;
    while (std::getline(lines, line)) {
      // Names of rows may hold a comma; they are quoted then.
      const auto rest = line.substr(line.starts_with('"') ? line.find("\",") + 1 : line.find(','));
      if (rest.starts_with(",deviation")) continue;
      CAPTURE(line);
      (rest.starts_with(",mean,") ? means : seeds) += 1;
      CHECK(std::count(rest.begin(), rest.end(), ',') == columns);
      CHECK(!holds(rest + ",", ",,"));
    }
    CHECK(seeds > 4);
    CHECK(means == seeds);
  }
}

TEST_CASE("Tables names an unknown study, and tests that there are not enough numbers for") {
  const auto& shop = Workshop::get();
  const auto unknown = shop.run({"tables", "10", "--base", "base", "--out", "none"});
  CHECK(unknown.code == 1);
  CHECK(holds(unknown.err,
              "there is no study 10; choose of 3 4 5 6 7 fig5 8 9 fig7 fig8 routers input or all"));
  const auto many = shop.run({"tables", "9", "--base", "base", "--out", "none", "--seeds", "11"});
  CHECK(many.code == 1);
  CHECK(holds(many.err, "1000 there are"));
}
