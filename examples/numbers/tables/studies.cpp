#include "numbers/tables/study.hpp"

#include <algorithm>

#include <mole/core/error.hpp>

#include "common/merging.hpp"

namespace numbers {

namespace {

Cell cell(const std::string& method, const TablesOptions& options) {
  Cell made;
  made.method = method;
  made.experts = made.trained_on = made.judged = paper_tasks();
  made.test = options.test;
  return made;
}

std::vector<std::string> names_of(const std::vector<Task>& tasks) {
  std::vector<std::string> names;
  for (const auto& task : tasks) names.push_back(task.name());
  return names;
}

Cell with_count(Cell made, std::size_t count) {
  made.count = count;
  return made;
}

Cell with_scope(Cell made, mole::Scope scope) {
  made.gates.scope = scope;
  return made;
}

// Gates that read a standardised input, by the settings chosen for it on validation numbers.
Cell standardised(Cell made, mole::InputScale scale = mole::InputScale::standardised) {
  made.gates.input_scale = scale;
  made.gates.temperature = 1;
  made.rate = 0.05;
  made.decay = 0;
  return made;
}

Cell with_balance(Cell made, double alpha, double temperature) {
  made.alpha = alpha;
  made.gates.temperature = temperature;
  return made;
}

Study table3(const TablesOptions& options) {
  Study study{
      "3",
      "Table 3: six translation tasks",
      "MoLE is better than LoRAHub and PEMs on average.",
      names_of(paper_tasks()),
      {},
      {{"MoLE block", "LoRAHub"}, {"MoLE block", "PEMs"}, {"MoLE block", "LoRAHub, a search a task"}}};
  study.rows = {{"base", {cell("base", options)}},
                {"own expert", {with_count(cell("mean", options), 1)}},
                {"sum (eq. 1)", {cell("sum", options)}},
                {"mean (eq. 2)", {cell("mean", options)}},
                {"PEMs", {cell("pems", options)}},
                {"LoRAHub", {cell("lorahub", options)}},
                {"LoRAHub, a search a task", {cell("lorahub-each", options)}},
                {"MoLE block", {cell("mole", options)}}};
  return study;
}

Study table4(const TablesOptions& options) {
  Study study{"4",
              "Table 4: one LoRA alone, summed and normalised with others",
              "Normalised composition loses each LoRA's own traits as more are combined; the plain sum loses "
              "the model.",
              names_of(paper_tasks()),
              {},
              {{"alone", "mean of 2"},
               {"mean of 2", "mean of 3"},
               {"mean of 3", "mean of 6"},
               {"mean of 6", "sum of 6"}}};
  study.rows.push_back({"alone", {with_count(cell("mean", options), 1)}});
  for (const std::string method : {"mean", "sum"})
    for (const std::size_t count : {2, 3, 6})
      study.rows.push_back(
          {method + " of " + std::to_string(count), {with_count(cell(method, options), count)}});
  return study;
}

Study table5(const TablesOptions& options) {
  Study study{"5",
              "Table 5: only some layers of one LoRA",
              "Layers of one LoRA carry different traits: a part of them can be nearly as good as all, or "
              "better, by task.",
              names_of(paper_tasks()),
              {},
              {{"decoder", "all layers"}, {"encoder", "all layers"}}};
  const auto row = [&](const std::string& name, const std::string& part) {
    auto made = with_count(cell("mean", options), 1);
    made.part = part;
    study.rows.push_back({name, {made}});
  };
  row("all layers", "");
  for (const std::string stack : {"encoder", "decoder"}) {
    row(stack, stack + ".");
    for (const std::string block : {"0", "1", "2"})
      row(stack + " block " + block, stack + ".block." + block + ".");
  }
  study.rows.push_back({"none (base)", {cell("base", options)}});
  return study;
}

Study table6(const TablesOptions& options) {
  Study study{"6",
              "Table 6: more experts",
              "MoLE is best at every number of LoRAs, and declines as they grow.",
              {},
              {},
              {}};
  study.note =
      "The more tasks, the fewer held-out numbers each: 800 in all, at least 5 a task. The steps of the first "
      "row of gates are the same, so at 48 tasks they see each example twice, at 128 not all. The rows of a "
      "standardised input have steps in proportion to the tasks. LoRAHub tries 40 weightings and "
      "reads 800 examples, however many experts there are; it has one search for all tasks, as MoLE has one "
      "set of gates. With a search for each (table 3) it is another method.";
  const std::vector<std::pair<std::string, std::string>> methods{{"own expert", "mean"},
                                                                 {"mean (eq. 2)", "mean"},
                                                                 {"PEMs", "pems"},
                                                                 {"LoRAHub", "lorahub"},
                                                                 {"MoLE block", "mole"}};
  for (const auto& [name, method] : methods) study.rows.push_back({name, {}});
  // A batch of 48 lacks most of 128 tasks. The balance loss then pulls every gate towards experts that are not needed.
  for (const auto* name : {"MoLE block, standardised", "MoLE network, standardised",
                           "MoLE block, standardised, no balance", "MoLE network, standardised, no balance"})
    study.rows.push_back({name, {}});
  for (const std::size_t count : {8, 24, 48, 128}) {
    if (count > static_cast<std::size_t>(options.largest)) break;
    study.columns.push_back(std::to_string(count));
    std::vector<Task> tasks;
    for (std::size_t i = 0; i < count / 2; ++i) {
      tasks.push_back({"en", study_languages()[i]});
      tasks.push_back({study_languages()[i], "en"});
    }
    for (std::size_t m = 0; m < methods.size(); ++m) {
      auto made = cell(methods[m].second, options);
      made.experts = made.trained_on = made.judged = tasks;
      made.test = std::max<Index>(5, std::min<Index>(options.test, 800 / static_cast<Index>(count)));
      made.count = m == 0 ? 1 : 0;
      made.averaged = true;
      study.rows[m].cells.push_back(made);
    }
    auto made = standardised(study.rows[methods.size() - 1].cells.back());
    made.longer = static_cast<double>(count) / 8;
    for (std::size_t row = methods.size(); row < study.rows.size(); row += 2) {
      study.rows[row].cells.push_back(made);
      study.rows[row + 1].cells.push_back(with_scope(made, mole::Scope::network));
      made.alpha = 0;
    }
  }
  study.greater = {{"MoLE block", "LoRAHub"}, {"MoLE block", "PEMs"}, {"MoLE block", "mean (eq. 2)"}};
  return study;
}

Study table7(const TablesOptions& options) {
  Study study{"7",
              "Table 7: the balance loss, and raised temperatures instead",
              "The balance loss keeps the gates' entropy up (Figure 5) and is better than none; raising the "
              "temperature does not replace it.",
              names_of(paper_tasks()),
              {},
              {{"balance 0.01", "no balance"},
               {"balance 0.01", "no balance, tau 0.6"},
               {"balance 0.01", "no balance, tau 1.2"}},
              {{"balance 0.01", "no balance"}, {"balance 0.1", "balance 0.01"}}};
  study.note = "Temperatures train with the gates: 0.3, or the tau of a row, is where they start.";
  const auto base = cell("mole", options);
  study.rows = {{"no balance", {with_balance(base, 0, 0.3)}},
                {"no balance, tau 0.6", {with_balance(base, 0, 0.6)}},
                {"no balance, tau 1.2", {with_balance(base, 0, 1.2)}},
                {"balance 0.01", {base}},
                {"balance 0.1", {with_balance(base, 0.1, 0.3)}}};
  return study;
}

Study table8(const TablesOptions& options) {
  Study study{"8",
              "Table 8: tasks that no expert and no gate was trained on",
              "Gates trained on some tasks serve others: MoLE is better than LoRAHub and PEMs there too.",
              {},
              {},
              {{"MoLE block", "LoRAHub"},
               {"MoLE block", "PEMs"},
               {"MoLE block", "base"},
               {"MoLE block", "LoRAHub, a search a task"}}};
  const auto unseen = parse_tasks("es>en,it>en,pt>en,nl>en,fr>de,de>fr,fr>ro,ro>fr");
  study.columns = names_of(unseen);
  study.note =
      "PEMs, LoRAHub and MoLE choose by the examples of the six trained tasks. LoRAHub as its paper has it "
      "searches for each unseen task, by 100 examples of it.";
  for (const auto& [name, method] :
       std::vector<std::pair<std::string, std::string>>{{"base", "base"},
                                                        {"mean (eq. 2)", "mean"},
                                                        {"PEMs", "pems"},
                                                        {"LoRAHub", "lorahub"},
                                                        {"LoRAHub, a search a task", "lorahub-each"},
                                                        {"MoLE block", "mole"}}) {
    auto made = cell(method, options);
    made.judged = unseen;
    study.rows.push_back({name, {made}});
  }
  return study;
}

Study table9(const TablesOptions& options) {
  Study study{"9",
              "Table 9: one gate a matrix, a layer, a block, the network",
              "Gates of layers and blocks are better than those of matrices or of the whole network.",
              names_of(paper_tasks()),
              {},
              {{"MoLE block", "MoLE matrix"},
               {"MoLE layer", "MoLE matrix"},
               {"MoLE block", "MoLE network"},
               {"MoLE layer", "MoLE network"}}};
  study.note = "Figure 7 shows the gates of seed 1.";
  for (const auto scope : {mole::Scope::matrix, mole::Scope::layer, mole::Scope::block, mole::Scope::network})
    study.rows.push_back(
        {std::string("MoLE ") + to_string(scope), {with_scope(cell("mole", options), scope)}});
  return study;
}

Study figure8(const TablesOptions& options) {
  Study study{"fig8",
              "Figure 8: experts masked after training",
              "A masked expert's trait goes and the others stay, without training again.",
              names_of(paper_tasks()),
              {},
              {}};
  study.rows.push_back({"all experts", {cell("mole", options)}});
  for (const auto& task : paper_tasks()) {
    auto made = cell("mole", options);
    made.masked = task.name();
    study.rows.push_back({"without " + task.name(), {made}});
    const auto without = study.rows.back().name;
    auto others = names_of(paper_tasks());
    std::erase(others, task.name());
    study.greater.push_back({"all experts", without, {task.name()}});
    study.greater.push_back({without, "all experts", others, true});
  }
  return study;
}

Study routers(const TablesOptions& options) {
  Study study{"routers", "Every way to combine, on the six tasks", "", names_of(paper_tasks()), {}, {}};
  const auto add = [&](const std::string& name, const std::string& method) -> Cell& {
    study.rows.push_back({name, {cell(method, options)}});
    return study.rows.back().cells.front();
  };
  study.note =
      "svd, magnitude_prune and dare_linear are of the mean of the experts, TIES weighs by itself; pruning "
      "keeps a fifth. As in PEFT, the plain methods prune A and B by themselves, and svd and *_svd cut to "
      "the "
      "experts' rank; at full rank *_svd is the method of its paper, with one weight for all experts that "
      "the "
      "examples like best, as PEMs have it. PEMs and LoRAHub are those of table 3. Arrow is not trained and "
      "has gates of tokens. X-LoRA has a scaling a layer and sequence; token scalings are one a layer and "
      "token, in the decoder a sequence; its classifier starts alike for all seeds.";
  add("sum (eq. 1)", "sum");
  add("mean (eq. 2)", "mean");
  for (const std::string method : {"svd", "magnitude_prune", "magnitude_prune_svd", "ties", "ties_svd",
                                   "dare_linear", "dare_linear_svd", "dare_ties", "dare_ties_svd"})
    add(method, method);
  for (const std::string method : {"magnitude_prune_svd", "ties_svd", "dare_linear_svd", "dare_ties_svd"}) {
    auto& whole =
        add(common::merging_name({.method = method, .tuned = true, .rank = mole::full_rank}), method);
    whole.tuned = whole.full_rank = true;
  }
  add("PEMs", "pems");
  add("LoRAHub", "lorahub");
  add("LoRAHub, a search a task", "lorahub-each");
  add("Arrow, top 2", "arrow").gates = {.top_k = 2, .temperature = 1};
  const auto add_xlora = [&](const std::string& name, mole::Scope scope, mole::Pooling pooling) {
    auto& xlora = add(name, "xlora");
    xlora.gates = {.scope = scope, .pooling = pooling, .temperature = 1};
    xlora.rate = xlora_rate;
  };
  add_xlora("X-LoRA", mole::Scope::layer, mole::Pooling::mean);
  add_xlora("X-LoRA, token scalings", mole::Scope::layer, mole::Pooling::token);
  add_xlora("X-LoRA, one scaling for all layers", mole::Scope::network, mole::Pooling::mean);
  add("released MoLE code's gate", "hidden");
  add("MoLE block, token gate", "mole").gates.pooling = mole::Pooling::token;
  add("MoLE block, top 2", "mole").gates.top_k = 2;
  add("MoLE block", "mole");
  return study;
}

Study input_study(const TablesOptions& options) {
  Study study{"input",
              "The gates' input, plain and standardised",
              "Gates read the concatenated outputs of the experts, scaled to unit length (eq. 9).",
              names_of(paper_tasks()),
              {},
              {}};
  study.note =
      "The paper's input has temperature 0.3, rate 0.1 and weight decay 0.1; the standardised ones have 1, 0.05 "
      "and none. One spread: all features are divided by the same number. X-LoRA's classifier has rate 0.05.";
  using mole::InputScale, mole::Scope;
  const auto add = [&](const std::string& name, const Cell& made) { study.rows.push_back({name, {made}}); };
  const auto base = cell("mole", options);
  for (const auto scope : {Scope::matrix, Scope::layer, Scope::block, Scope::network}) {
    const auto name = std::string("MoLE ") + to_string(scope);
    const auto made = with_scope(base, scope);
    add(name, made);
    add(name + ", standardised", standardised(made));
    add(name + ", one spread", standardised(made, InputScale::common));
    study.greater.push_back({name + ", standardised", name});
  }
  auto token = base;
  token.gates.pooling = mole::Pooling::token;
  add("MoLE block, token gate", token);
  add("MoLE block, token gate, standardised", standardised(token));
  for (const auto scope : {Scope::block, Scope::network}) {
    auto many = with_scope(base, scope);
    many.examples = 8 * options.examples;
    const auto name = std::string("MoLE ") + to_string(scope) + ", 8 x the examples";
    add(name, many);
    add(name + ", standardised", standardised(many));
  }
  for (const auto scope : {Scope::matrix, Scope::block, Scope::network}) {
    auto xlora = cell("xlora", options);
    xlora.gates = {.scope = scope, .temperature = 1};
    xlora.rate = 0.05;
    const auto name = std::string("X-LoRA, ") + to_string(scope);
    add(name, xlora);
    xlora.gates.input_scale = InputScale::standardised;
    add(name + ", standardised", xlora);
  }
  return study;
}

// Keeps the rows whose names begin as one of `wanted`, and the claims about them.
void keep_rows(Study& study, const std::vector<std::string>& wanted) {
  if (wanted.empty()) return;
  std::erase_if(study.rows, [&](const Row& row) {
    return std::none_of(wanted.begin(), wanted.end(),
                        [&](const auto& name) { return row.name.starts_with(name); });
  });
  const auto kept = [&](const std::string& name) {
    return std::any_of(study.rows.begin(), study.rows.end(),
                       [&](const Row& row) { return row.name == name; });
  };
  for (auto* claims : {&study.greater, &study.greater_entropy})
    std::erase_if(*claims, [&](const Comparison& c) { return !kept(c.better) || !kept(c.worse); });
}

}  // namespace

const std::vector<std::string>& study_languages() {
  // Near languages first. Nothing is left out but "no", which is "nb" again, and scripts that spell numbers
  // in more than 90 bytes.
  static const std::vector<std::string> all{
      "fr", "de", "ro", "es",                                                   // 8 tasks
      "it", "pt", "nl", "sv", "da",  "nb", "ca", "af",                          // 24
      "lb", "fo", "nn", "cs", "sk",  "hr", "sl", "hu", "et", "tr", "id", "sw",  // 48
      "ms", "su", "vi", "eo", "cy",  "ga", "mt", "is", "sq", "lt", "lv", "az",  // 128
      "bs", "se", "pl", "fi", "fil", "ak", "ee", "qu", "ff", "kk", "ky", "fa",  //
      "he", "am", "ar", "hi", "uk",  "ru", "be", "bg", "mk", "sr", "el", "hy",  //
      "ja", "ko", "zh", "yue"};
  return all;
}

std::vector<Study> all_studies(const TablesOptions& options) {
  return {table3(options), table4(options), table5(options),  table6(options),  table7(options),
          table8(options), table9(options), figure8(options), routers(options), input_study(options)};
}

std::vector<Study> chosen_studies(const TablesOptions& options) {
  auto all = all_studies(options);
  for (auto& study : all) keep_rows(study, options.rows);
  std::vector<Study> chosen;
  std::string known;
  for (const auto& study : all) {
    known += study.name + " ";
    if (study.name == "7") known += "fig5 ";
    if (study.name == "9") known += "fig7 ";
  }
  for (auto name : options.studies) {
    if (name == "all") {
      std::erase_if(all, [](const Study& study) { return study.rows.empty(); });
      return all;
    }
    if (name == "fig5") name = "7";
    if (name == "fig7") name = "9";
    const auto found = std::find_if(all.begin(), all.end(), [&](const Study& s) { return s.name == name; });
    MOLE_CHECK_ARG(found != all.end(), "tables: there is no study", name + "; choose of", known + "or all");
    MOLE_CHECK_ARG(!found->rows.empty(), "tables: no row of study", name, "begins as --rows says");
    if (std::none_of(chosen.begin(), chosen.end(), [&](const Study& s) { return s.name == name; }))
      chosen.push_back(*found);
  }
  return chosen;
}

}  // namespace numbers
