// Pictures: their CSV files, their scripts, and gnuplot being there or not.

#include <doctest/doctest.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include <mole/core/error.hpp>

#include "common/plots.hpp"
#include "examples_common/folder.hpp"

namespace {

namespace fs = std::filesystem;
using common_test::contents;
using common_test::Folder;

bool has_gnuplot() { return std::system("gnuplot --version >/dev/null 2>&1") == 0; }

// With gnuplot there is a PNG and no note; without, a note of one line.
void check_picture(const common::Plot& plot) {
  CAPTURE(plot.note);
  CHECK(fs::exists(plot.csv));
  CHECK(fs::exists(plot.script));
  if (has_gnuplot()) {
    REQUIRE_FALSE(plot.picture.empty());
    CHECK(contents(plot.picture).starts_with("\x89PNG"));
    CHECK(plot.note.empty());
  } else {
    CHECK(plot.picture.empty());
    CHECK(plot.note.find("install gnuplot") != std::string::npos);
  }
}

common::GateHeat heat(std::size_t scopes) {
  common::GateHeat heat{{}, {"en>fr", "fr>en"}, {"en>fr", "fr>en"}, {}};
  for (std::size_t s = 0; s < scopes; ++s) heat.scopes.push_back("encoder.block." + std::to_string(s));
  for (std::size_t i = 0; i < 2 * scopes; ++i) heat.values.insert(heat.values.end(), {0.25, 0.75});
  return heat;
}

common::Curves curves(std::size_t series, std::size_t steps) {
  common::Curves curves;
  for (std::size_t i = 0; i < steps; ++i) curves.step.push_back(static_cast<double>(i));
  for (std::size_t s = 0; s < series; ++s) {
    curves.series.emplace_back("block " + std::to_string(s),
                               std::vector<double>(steps, 0.5 + 0.01 * double(s)));
  }
  return curves;
}

}  // namespace

TEST_CASE("The gate heat map comes as CSV, script and picture") {
  const Folder folder;
  common::GateHeat two = heat(2);
  two.values[1] = std::nan("");
  const common::Plot plot = common::plot_gates(folder.path, "gates", two);
  check_picture(plot);
  CHECK(contents(plot.csv) ==
        "task,scope,expert,gate\n"
        "en>fr,encoder.block.0,en>fr,0.25\nen>fr,encoder.block.0,fr>en,\n"
        "en>fr,encoder.block.1,en>fr,0.25\nen>fr,encoder.block.1,fr>en,0.75\n"
        "fr>en,encoder.block.0,en>fr,0.25\nfr>en,encoder.block.0,fr>en,0.75\n"
        "fr>en,encoder.block.1,en>fr,0.25\nfr>en,encoder.block.1,fr>en,0.75\n");
}

TEST_CASE("The gate heat map can be drawn for one gate and for as many as there are matrices") {
  const Folder folder;
  for (const std::size_t scopes : {std::size_t{1}, std::size_t{15}, std::size_t{54}}) {
    CAPTURE(scopes);
    check_picture(common::plot_gates(folder.path, "gates", heat(scopes)));
  }
}

TEST_CASE("Names with quotes, underscores and commas reach the picture as they are") {
  const Folder folder;
  common::GateHeat odd = heat(1);
  odd.scopes = {"it's_a, {scope}"};
  const common::Plot plot = common::plot_gates(folder.path, "gates", odd, {.title = "l'été"});
  check_picture(plot);
  CHECK(contents(plot.csv).find("\"it's_a, {scope}\"") != std::string::npos);
}

TEST_CASE("Entropy and loss curves come as CSV, script and picture") {
  const Folder folder;
  const common::Plot few = common::plot_entropy(folder.path, "entropy", curves(2, 2), 6);
  check_picture(few);
  CHECK(contents(few.csv) == "step,block 0,block 1\n0,0.5,0.51\n1,0.5,0.51\n");
  const common::Plot many = common::plot_entropy(folder.path, "entropy_many", curves(11, 3), 6);
  check_picture(many);
  CHECK(contents(many.csv).starts_with("step,mean,10th percentile,90th percentile,block 0,"));
  CHECK(contents(many.csv).find("\n0,0.55,0.51,0.59,0.5,") != std::string::npos);
  common::Curves loss = curves(1, 200);
  loss.series[0].first = "total";
  loss.series.emplace_back("balance", std::vector<double>(200, 11.0));
  const common::Plot plot = common::plot_loss(folder.path, "loss", loss, 6);
  check_picture(plot);
  CHECK(contents(plot.csv).starts_with(
      "step,total,balance,total smoothed,balance smoothed\n0,0.5,11,0.5,11\n"));
}

TEST_CASE("Expert loads come as CSV with their variation, script and picture") {
  const Folder folder;
  common::ExpertLoads loads;
  loads.experts = {"en>fr", "fr>en", "en>de"};
  loads.add("en>fr", {1, 0, 0});
  loads.add("all, tasks", {0.5, 0.5, std::nan("")});
  const common::Plot plot = common::plot_load(folder.path, "load", loads);
  check_picture(plot);
  CHECK(contents(plot.csv) ==
        "panel,expert,load,variation\n"
        "en>fr,en>fr,1,1.414214\nen>fr,fr>en,0,1.414214\nen>fr,en>de,0,1.414214\n"
        "\"all, tasks\",en>fr,0.5,0\n\"all, tasks\",fr>en,0.5,0\n\"all, tasks\",en>de,,0\n");
  const auto script = contents(plot.script);
  CHECK(script.find("'en>fr   CV 1.41'") != script.npos);
  CHECK(script.find("'all, tasks   CV 0.00'") != script.npos);
}

TEST_CASE("Loads of one expert, of many, of none and below zero can be drawn") {
  const Folder folder;
  common::ExpertLoads one{{"e"}, {"t"}, {1}};
  check_picture(common::plot_load(folder.path, "one", one));
  common::ExpertLoads many;
  std::vector<double> values;
  for (int i = 0; i < 48; ++i)
    many.experts.push_back("expert " + std::to_string(i)), values.push_back(i / 1e3);
  for (int i = 0; i < 9; ++i) many.add("task " + std::to_string(i), values);
  check_picture(common::plot_load(folder.path, "many", many));
  check_picture(common::plot_load(folder.path, "none", {{"a", "b"}, {"t"}, {std::nan(""), std::nan("")}}));
  check_picture(common::plot_load(folder.path, "below", {{"a", "b"}, {"t"}, {-0.75, 0.25}}));
}

TEST_CASE("Curves of one step, of equal or of wide-ranging values can be drawn") {
  const Folder folder;
  check_picture(common::plot_entropy(folder.path, "one", curves(1, 1), 1));
  check_picture(common::plot_loss(folder.path, "flat", curves(2, 1)));
  common::Curves steep = curves(1, 3);
  steep.series[0].second = {100, 1, 0.001};
  check_picture(common::plot_loss(folder.path, "steep", steep));
  steep.series[0].second = {0, 0, 0};
  check_picture(common::plot_loss(folder.path, "zero", steep));
}

TEST_CASE("Without gnuplot the numbers are written all the same and one line says how to draw them") {
  const Folder folder;
  const common::Plot plot =
      common::plot_gates(folder.path, "gates", heat(2), {.gnuplot = "no-such-program-gnuplot"});
  CHECK(plot.picture.empty());
  CHECK(plot.note.find("no-such-program-gnuplot is not installed") != std::string::npos);
  CHECK(plot.note.find("gnuplot gates.gp") != std::string::npos);
  CHECK(plot.note.find('\n') == std::string::npos);
  CHECK(contents(plot.csv).starts_with("task,scope,expert,gate\n"));
  CHECK(contents(plot.script).find("gates.csv") != std::string::npos);
}

TEST_CASE("A gnuplot that fails leaves a note and no old picture") {
  const Folder folder;
  std::ofstream(folder.path / "gates.png") << "old";
  const common::Plot plot = common::plot_gates(folder.path, "gates", heat(2), {.gnuplot = "/bin/false"});
  CHECK(plot.note.find("gnuplot failed") != std::string::npos);
  CHECK_FALSE(fs::exists(folder.path / "gates.png"));
}

TEST_CASE("What a gnuplot that fails has begun is removed") {
  const Folder folder;
  const auto program = folder.path / "gnuplot";
  std::ofstream(program) << "#!/bin/sh\n: >gates.png\nexit 1\n";
  fs::permissions(program, fs::perms::owner_all);
  const common::Plot plot = common::plot_gates(folder.path, "gates", heat(2), {.gnuplot = program.string()});
  CHECK(plot.note.find("gnuplot failed") != std::string::npos);
  CHECK_FALSE(fs::exists(folder.path / "gates.png"));
}

TEST_CASE("Numbers that do not fit and folders that are not there are errors") {
  const Folder folder;
  common::GateHeat wrong = heat(2);
  wrong.values.pop_back();
  CHECK_THROWS_WITH_AS(common::plot_gates(folder.path, "gates", wrong),
                       "plot_gates: 7 values, expected tasks x scopes x experts = 8", mole::ArgumentError);
  CHECK_THROWS_WITH_AS(common::plot_load(folder.path, "load", {{"a", "b"}, {"t"}, {1}}),
                       "plot_load: 1 values, expected panels x experts = 2", mole::ArgumentError);
  CHECK_THROWS_AS(common::plot_load(folder.path, "load", {}), mole::ArgumentError);
  common::Curves uneven = curves(1, 3);
  uneven.step.pop_back();
  CHECK_THROWS_AS(common::plot_entropy(folder.path, "entropy", uneven, 6), mole::ArgumentError);
  CHECK_THROWS_AS(common::plot_loss(folder.path, "loss", {}), mole::ArgumentError);
  CHECK_THROWS_AS(common::plot_gates(folder.path / "missing", "gates", heat(2)), mole::Error);
}
