// The paper's studies: what they ask for exists, their results are kept, and their reports say what was
// measured.

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <set>
#include <string>
#include <vector>

#include <mole/core/error.hpp>

#include "examples_common/folder.hpp"
#include "numbers/spell.hpp"
#include "numbers/tables/cells.hpp"
#include "numbers/tables/report.hpp"

namespace {

namespace fs = std::filesystem;

numbers::Study small_study() {
  numbers::Study study{"0", "A study", "b is better.", {"en>fr", "fr>en"}, {}, {{"b", "a"}, {"a", "b"}}};
  study.rows = {{"a", {{}}}, {"b", {{}}}};
  return study;
}

const numbers::Results small_results{small_study(), {{{0.1, 0.2}, {0.2, 0.3}}, {{0.5, 0.7}, {0.9, 0.7}}}};

}  // namespace

TEST_CASE("Every row of every study has a value for each column, from tasks that can be spelled") {
  const numbers::TablesOptions options;
  std::set<std::string> spelled;
  for (const auto& study : numbers::all_studies(options)) {
    CAPTURE(study.name);
    CHECK(study.rows.size() > 1);
    for (const auto& row : study.rows) {
      CAPTURE(row.name);
      std::size_t values = 0;
      for (const auto& cell : row.cells) {
        values += cell.averaged ? 1 : cell.judged.size();
        CHECK(options.seeds * cell.test <= 1000);
        for (const auto* tasks : {&cell.experts, &cell.trained_on, &cell.judged})
          for (const auto& task : *tasks)
            if (spelled.insert(task.name()).second) CHECK(numbers::parse_task(task.name()) == task);
      }
      CHECK(values == study.columns.size());
    }
    for (const auto* list : {&study.greater, &study.greater_entropy})
      for (const auto& compared : *list) {
        for (const auto& name : {compared.better, compared.worse})
          CHECK(std::count_if(study.rows.begin(), study.rows.end(),
                              [&](const auto& row) { return row.name == name; }) == 1);
        for (const auto& column : compared.columns)
          CHECK(std::count(study.columns.begin(), study.columns.end(), column) == 1);
      }
  }
}

TEST_CASE("Table 6 has 128 different tasks, and no language stands in for another") {
  const auto& languages = numbers::study_languages();
  CHECK(languages.size() == 64);
  std::set<std::string> spellings;
  for (const auto& language : languages) {
    std::string text;
    for (mole::Index number = 0; number < 1000; number += 7) text += numbers::spell(language, number) + "\n";
    spellings.insert(text);
  }
  CHECK(spellings.size() == 64);
  CHECK(std::set<std::string>(languages.begin(), languages.end()).size() == 64);
  numbers::TablesOptions few;
  few.largest = 24;
  few.studies = {"6"};
  CHECK(numbers::chosen_studies(few).front().columns == std::vector<std::string>{"8", "24"});
}

TEST_CASE("Studies are chosen by name, a figure brings its table, and an unknown one is named") {
  numbers::TablesOptions options;
  options.studies = {"fig7", "9", "5"};
  const auto chosen = numbers::chosen_studies(options);
  REQUIRE(chosen.size() == 2);
  CHECK(chosen[0].name == "9");
  CHECK(chosen[1].name == "5");
  options.studies = {"10"};
  CHECK_THROWS_WITH_AS(numbers::chosen_studies(options), doctest::Contains("no study 10"),
                       mole::ArgumentError);
  options.studies = {"all"};
  CHECK(numbers::chosen_studies(options).size() == numbers::all_studies(options).size());
}

TEST_CASE("Rows are kept by how their names begin, with the claims about them alone") {
  numbers::TablesOptions options;
  options.studies = {"6"};
  options.rows = {"own", "MoLE block"};
  const auto study = numbers::chosen_studies(options).front();
  std::vector<std::string> names;
  for (const auto& row : study.rows) names.push_back(row.name);
  CHECK(names == std::vector<std::string>{"own expert", "MoLE block", "MoLE block, standardised",
                                          "MoLE block, standardised, no balance"});
  CHECK(study.greater.empty());
  options.rows = {"nobody"};
  CHECK_THROWS_WITH_AS(numbers::chosen_studies(options), doctest::Contains("--rows"), mole::ArgumentError);
}

TEST_CASE("Gates of a standardised input have their own settings, and more steps the more tasks there are") {
  numbers::TablesOptions options;
  options.studies = {"input", "6"};
  const auto studies = numbers::chosen_studies(options);
  std::set<std::string> cells;
  for (const auto& row : studies[0].rows) cells.insert(numbers::description(row.cells.front(), options));
  CHECK(cells.size() == studies[0].rows.size());
  for (const auto& row : studies[1].rows) {
    if (row.name == "MoLE network, standardised, no balance") {
      CHECK(row.cells[1].alpha == 0);
      CHECK(row.cells[1].gates.scope == mole::Scope::network);
    }
    if (row.name != "MoLE block, standardised") continue;
    CHECK(row.cells[0].alpha > 0);
    CHECK(row.cells[0].longer == 1);
    CHECK(row.cells[3].longer == 16);
    CHECK(row.cells[0].gates.input_scale == mole::InputScale::standardised);
    CHECK(row.cells[0].decay == 0);
  }
}

TEST_CASE(
    "Every way to combine is a row of the routers' study, and rows of table 3 are the same cells there") {
  const numbers::TablesOptions options;
  const auto studies = numbers::all_studies(options);
  const auto study = [&](const std::string& name) {
    const auto found =
        std::find_if(studies.begin(), studies.end(), [&](const auto& s) { return s.name == name; });
    REQUIRE(found != studies.end());
    return *found;
  };
  const auto all = study("routers"), three = study("3");
  const auto description = [&](const numbers::Study& in, const std::string& name) {
    const auto row =
        std::find_if(in.rows.begin(), in.rows.end(), [&](const auto& r) { return r.name == name; });
    CAPTURE(name);
    REQUIRE(row != in.rows.end());
    return numbers::description(row->cells.front(), options);
  };
  std::set<std::string> methods, cells;
  for (const auto& row : all.rows) {
    methods.insert(row.cells.front().method);
    cells.insert(numbers::description(row.cells.front(), options));
  }
  CHECK(cells.size() == all.rows.size());
  for (const std::string router : {"mole", "hidden", "arrow", "xlora"}) CHECK(methods.count(router) == 1);
  for (const std::string method : {"svd", "magnitude_prune", "magnitude_prune_svd", "ties", "ties_svd",
                                   "dare_linear", "dare_linear_svd", "dare_ties", "dare_ties_svd"})
    CHECK(methods.count(method) == 1);
  for (const std::string name :
       {"sum (eq. 1)", "mean (eq. 2)", "PEMs", "LoRAHub", "LoRAHub, a search a task", "MoLE block"})
    CHECK(description(all, name) == description(three, name));
}

TEST_CASE("Cells that were measured before keep their descriptions, so that they are not measured again") {
  const numbers::TablesOptions options;
  const std::string tasks = "en>fr,fr>en,en>de,de>en,en>ro,ro>en";
  const std::string all = "\nexperts " + tasks + "\ntrained on " + tasks + "\njudged by " + tasks;
  const std::string first =
      " count 0 part '' masked '' seed 1 test 100 averaged 0 examples 100 steps 200 batch 48";
  std::set<std::string> cells;
  for (const auto& study : numbers::all_studies(options))
    if (study.name == "routers")
      for (const auto& row : study.rows) cells.insert(numbers::description(row.cells.front(), options));
  for (const auto& known : std::vector<std::string>{
           "cell svd" + first +
               " rate 0.1 balance 0.01 scope block input experts pooling mean top-k 0 temperature 0.3",
           "cell arrow" + first +
               " rate 0.1 balance 0.01 scope block input experts pooling mean top-k 2 temperature 1",
           "cell xlora" + first +
               " rate 0.01 balance 0.01 scope layer input experts pooling mean top-k 0 temperature 1",
           "cell mole" + first +
               " rate 0.1 balance 0.01 scope block input experts pooling token top-k 0 temperature 0.3"}) {
    CAPTURE(known);
    CHECK(cells.count(known + all) == 1);
  }
}

TEST_CASE("A cell's result is read back, and a damaged or foreign file counts as not measured") {
  const common_test::Folder folder;
  const numbers::Measured measured{
      {0.25, std::nan("")}, {1.5, 1.25}, {{"s"}, {"en>fr"}, {"t"}, {std::nan("")}}};
  numbers::save_cell(folder.path, "key", measured);
  const auto read = numbers::load_cell(folder.path, "key");
  REQUIRE(read.has_value());
  CHECK(read->rates[0] == 0.25);
  CHECK(std::isnan(read->rates[1]));
  CHECK(read->entropy == measured.entropy);
  CHECK(read->heat.experts == measured.heat.experts);
  CHECK(std::isnan(read->heat.values[0]));
  CHECK_FALSE(numbers::load_cell(folder.path, "other").has_value());

  const auto file = folder.path / (numbers::short_name("key") + ".json");
  fs::copy_file(file, folder.path / (numbers::short_name("other") + ".json"));
  CHECK_FALSE(numbers::load_cell(folder.path, "other").has_value());
  for (const char* damage : {"", "{", "[]", "{\"key\": \"key\"}", "{\"key\": \"key\", \"rates\": \"x\"}"}) {
    CAPTURE(damage);
    std::ofstream(file) << damage;
    CHECK_FALSE(numbers::load_cell(folder.path, "key").has_value());
  }
}

TEST_CASE("Cells that differ in anything have different descriptions") {
  const numbers::TablesOptions options;
  std::set<std::string> all;
  std::size_t count = 0;
  const auto add = [&](auto change) {
    numbers::Cell cell;
    cell.method = "mole";
    change(cell);
    all.insert(numbers::description(cell, options));
    ++count;
  };
  add([](auto&) {});
  add([](auto& c) { c.method = "mean"; });
  add([](auto& c) { c.experts = numbers::paper_tasks(); });
  add([](auto& c) { c.trained_on = numbers::paper_tasks(); });
  add([](auto& c) { c.judged = numbers::paper_tasks(); });
  add([](auto& c) { c.test = 7; });
  add([](auto& c) { c.count = 2; });
  add([](auto& c) { c.part = "encoder."; });
  add([](auto& c) { c.masked = "en>fr"; });
  add([](auto& c) { c.gates.scope = mole::Scope::layer; });
  add([](auto& c) { c.gates.pooling = mole::Pooling::token; });
  add([](auto& c) { c.gates.top_k = 2; });
  add([](auto& c) { c.gates.temperature = 2; });
  add([](auto& c) { c.rate = 0.5; });
  add([](auto& c) { c.alpha = 0.5; });
  add([](auto& c) { c.averaged = true; });
  add([](auto& c) { c.seed = 2; });
  add([](auto& c) { c.tuned = true; });
  add([](auto& c) { c.full_rank = true; });
  add([](auto& c) { c.decay = 0; });
  add([](auto& c) { c.examples = 7; });
  add([](auto& c) { c.longer = 2; });
  CHECK(all.size() == count);
}

TEST_CASE("A spread is the mean and the deviation of n - 1") {
  const auto s = numbers::spread({1, 2, 6});
  CHECK(s.mean == doctest::Approx(3));
  CHECK(s.deviation == doctest::Approx(std::sqrt(7.0)));
  CHECK(std::isnan(numbers::spread({1}).deviation));
  CHECK_THROWS_AS(numbers::spread({}), mole::ArgumentError);
  CHECK(numbers::average(small_results, 1).mean == doctest::Approx(0.7));
}

TEST_CASE("A report holds the table, and says of each comparison whether it holds") {
  const auto text = numbers::markdown(small_results);
  CAPTURE(text);
  CHECK(text.find("| | en>fr | fr>en | average |\n|---|---|---|---|\n| a | 15.0 | 25.0 | 20.0 ± 7.1 |\n"
                  "| b | 70.0 | 70.0 | 70.0 ± 14.1 |\n") != text.npos);
  CHECK(text.find("- holds: b 70.0 ± 14.1 > a 20.0 ± 7.1\n") != text.npos);
  CHECK(text.find("- does not hold: a 20.0 ± 7.1 < b 70.0 ± 14.1\n") != text.npos);

  auto close = small_results;
  close.rates[1] = {{0.2, 0.2}, {0.2, 0.3}};
  CHECK(numbers::markdown(close).find("- within the spread: b 22.5 ± 3.5 ≈ a 20.0 ± 7.1") != text.npos);

  auto part = close;
  part.study.greater = {{"b", "a", {"fr>en"}}, {"a", "b", {}, true}};
  const auto parts = numbers::markdown(part);
  CAPTURE(parts);
  CHECK(parts.find("- on fr>en within the spread: b 25.0 ± 7.1 ≈ a 25.0 ± 7.1\n") != parts.npos);
  CHECK(parts.find("- holds: a 20.0 ± 7.1 ≈ b 22.5 ± 3.5\n") != parts.npos);
}

TEST_CASE("A report on entropies has the last of each row, and says whether the claim holds") {
  numbers::StudyRun run{small_results, {{{1.7, 0.5}, {1.7, 0.6}}, {{1.7, 0.9}, {1.7, 1.1}}}, {}};
  run.results.study.greater_entropy = {{"b", "a"}};
  const auto text = numbers::entropy_markdown(run);
  CAPTURE(text);
  CHECK(text.find("- a: 0.550 ± 0.071\n- b: 1.000 ± 0.141\n") != text.npos);
  CHECK(text.find("- holds: b 1.000 ± 0.141 > a 0.550 ± 0.071\n") != text.npos);
}

TEST_CASE("A study of expert counts compares at each count") {
  auto results = small_results;
  results.study.columns = {"8", "24"};
  const auto text = numbers::markdown(results);
  CHECK(text.find("| | 8 experts | 24 experts |\n|---|---|---|\n| a | 15.0 ± 7.1 | 25.0 ± 7.1 |\n") !=
        text.npos);
  CHECK(text.find("- 24 experts: holds: b 70.0 ± 0.0 > a 25.0 ± 7.1") != text.npos);
}

TEST_CASE("A study's CSV has a line a row and seed, and its picture is drawn where gnuplot is") {
  const common_test::Folder folder;
  for (const bool counts : {false, true}) {
    auto results = small_results;
    if (counts) results.study.columns = {"8", "24"};
    const auto plot = numbers::plot_study(folder.path, counts ? "lines" : "points", results);
    const auto csv = common_test::contents(plot.csv);
    CHECK(csv.starts_with(counts
                              ? "row,seed,8,24,average\na,1,10,20,15\n"
                              : "row,seed,en>fr,fr>en,average\na,1,10,20,15\na,2,20,30,25\nb,1,50,70,60\n"));
    CHECK(csv.find("\na,mean,15,25,20\nb,mean,70,70,70\na,deviation,7.07") != csv.npos);
    if (std::system("gnuplot --version >/dev/null 2>&1") == 0) {
      CAPTURE(plot.note);
      CHECK(fs::file_size(plot.picture) > 1000);
    }
  }
}
