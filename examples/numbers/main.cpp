// numbers: trains, composes and uses LoRA experts that translate spelled-out numbers.

#include <iostream>

#include <CLI/CLI.hpp>

#include "common/command_line.hpp"
#include "common/ranks.hpp"
#include "common/waiting_threads.hpp"
#include "numbers/assets.hpp"
#include "numbers/commands.hpp"
#include "numbers/spell.hpp"
#include "numbers/tables/study.hpp"

namespace {

using namespace numbers;
using common::add_run_options;
using common::split_list;
using common::whole;
const auto positive = common::positive();

std::string joined(const std::vector<Task>& tasks) {
  std::string text;
  for (const auto& task : tasks) text += (text.empty() ? "" : ",") + task.name();
  return text;
}

void print_spelled(const std::vector<std::string>& languages, Index first, Index last) {
  std::string text;
  for (const auto& language : languages)
    for (Index number = first; number <= last; ++number)
      text += language + "\t" + std::to_string(number) + "\t" + spell(language, number) + "\n";
  std::cout << text;
}

int run(int argc, char** argv) {
  CLI::App app{
      "Translates spelled-out numbers (\"en>fr two hundred six\" -> \"deux cent six\") with a small frozen "
      "T5 and\n"
      "LoRA experts, one a task, that MoLE gates combine.\n\n"
      "  numbers compose                              the main job: train gates, compare, draw\n"
      "  numbers tables 9                             one of the paper's tables, here\n"
      "  numbers translate --gates numbers-out/gates.safetensors 'en>fr two hundred six'\n"};
  app.name("numbers");
  app.require_subcommand(1);
  app.fallthrough();
  app.get_formatter()->column_width(34);
  common::Machine machine;
  common::add_machine_options(app, machine);

  const std::string six = joined(paper_tasks());
  std::string experts = six, tasks = six, mask;
  std::string base = shipped_base().string(), methods;

  TrainBaseOptions base_options;
  auto* base_command = app.add_subcommand(
      "train-base",
      "Train a deliberately weak base on all directions between nine languages (Hugging Face T5 format)");
  add_run_options(*base_command, base_options.run, "folder of the new base");
  base_command
      ->add_option("--numbers", base_options.numbers, "training numbers it sees, of 9000; few keep it weak")
      ->capture_default_str()
      ->check(whole(1, 9000, "1..9000"));
  base_command->add_option("--width", base_options.width, "d_model")->capture_default_str()->check(positive);
  base_command->add_option("--layers", base_options.layers, "blocks of encoder and decoder each")
      ->capture_default_str()
      ->check(positive);
  base_command->add_option("--heads", base_options.heads, "attention heads")
      ->capture_default_str()
      ->check(positive);
  base_command->add_option("--head-width", base_options.head_width, "d_kv")
      ->capture_default_str()
      ->check(positive);
  base_command->add_option("--feed-forward", base_options.feed_forward, "d_ff")
      ->capture_default_str()
      ->check(positive);
  base_command->callback([&] {
    common::expect_one_process("numbers train-base");
    commands_on(machine.backend).train_base(base_options);
  });

  TrainExpertOptions expert_options;
  auto* expert_command =
      app.add_subcommand("train-expert", "Train a LoRA for one task on a frozen base (PEFT format)");
  expert_command->add_option("--task", expert_options.task, "source>target, such as 'en>fr'")->required();
  expert_command->add_option("--base", base, "folder of the base")->capture_default_str();
  expert_command->add_option("--rank", expert_options.rank, "rank of every LoRA")
      ->capture_default_str()
      ->check(positive);
  expert_command->add_option("--alpha", expert_options.alpha, "LoRA alpha; the scale is alpha / rank")
      ->capture_default_str()
      ->check(common::positive_number());
  add_run_options(*expert_command, expert_options.run,
                  "folder of the new expert; en-fr for task en>fr if not given");
  expert_command->callback([&] {
    common::expect_one_process("numbers train-expert");
    expert_options.base = base;
    commands_on(machine.backend).train_expert(expert_options);
  });

  ComposeOptions compose_options;
  auto* compose_command = app.add_subcommand(
      "compose", "Train gates over experts on a few examples; compare, write gates, table and pictures");
  compose_command->add_option("--base", base, "folder of the base")->capture_default_str();
  compose_command
      ->add_option("--experts", experts, "tasks of shipped experts, or folders of PEFT adapters, by comma")
      ->capture_default_str();
  compose_command->add_option("--tasks", tasks, "tasks to train on and to judge by")->capture_default_str();
  common::RouterArguments router_arguments(*compose_command, compose_options);
  compose_command->add_option("--examples", compose_options.examples, "training examples a task (few-shot)")
      ->capture_default_str()
      ->check(positive);
  compose_command->add_option("--test", compose_options.test, "held-out numbers a task, of 1000")
      ->capture_default_str()
      ->check(whole(1, 1000, "1..1000"));
  compose_command->add_option("--weight-decay", compose_options.weight_decay, "AdamW's, on the gates")
      ->capture_default_str()
      ->check(common::number_from_zero());
  compose_command->add_flag(
      "--validation", compose_options.validation,
      "judge by training numbers set aside, to choose options without the held-out ones");
  compose_command->add_flag(
      "--diagnose", compose_options.diagnose,
      "also print what limits the gates: their loss beside that of the tasks' own experts,\n"
      "and how many texts each gate gives to another expert most of all");
  const std::string merging_group = "Merging methods (--methods)";
  compose_command
      ->add_option("--methods", methods,
                   "methods to compare with, by comma, a row each: sum, normalised, svd, ties, ties_svd,\n"
                   "dare_linear, ..., pems (factors added), lorahub (a search of the weights)")
      ->group(merging_group);
  common::MergeArguments merge_arguments(*compose_command, compose_options.merging, merging_group);
  compose_command->add_flag("--only-mole", compose_options.only_mole, "leave out the rows to compare with");
  add_run_options(*compose_command, compose_options.run, "folder for gates, table and pictures");
  compose_command->get_option("--lr")->description(
      mole::message("peak learning rate of AdamW; with --input-scale unit", unit_rate, "(xlora:", xlora_rate,
                    ") if it is not given"));
  compose_command->footer(mole::message(
      "With --input-scale unit, the paper's input, gates have settings of their own where none are given:\n"
      "--temperature",
      unit_temperature, "--lr", unit_rate, "--weight-decay", unit_decay));
  common::add_rank_options(*compose_command, compose_options.ranks, "mpirun -np 2 numbers compose");
  compose_command->callback([&] {
    compose_options.base = base;
    compose_options.experts = split_list(experts);
    compose_options.tasks = parse_tasks(tasks);
    compose_options.methods = split_list(methods);
    merge_arguments.read();
    router_arguments.read();
    const bool xlora = compose_options.router == "xlora";
    if (xlora) compose_options.xlora.seed = compose_options.run.seed;
    if (compose_options.gates.input_scale == mole::InputScale::unit) {
      const auto given = [&](const char* option) { return compose_command->count(option) > 0; };
      if (!given("--lr")) compose_options.run.rate = xlora ? xlora_rate : unit_rate;
      if (!given("--weight-decay")) compose_options.weight_decay = unit_decay;
      if (!given("--temperature") && !xlora && compose_options.router != "arrow")
        compose_options.gates.temperature = unit_temperature;
    }
    compose_options.ranks.run(machine.backend, [&](const common::RankOptions& ranks) {
      auto own = compose_options;
      own.ranks = ranks;
      commands_on(machine.backend).compose(own);
    });
  });

  TranslateOptions translate_options;
  std::string translate_experts;
  auto* translate_command =
      app.add_subcommand("translate", "Translate one text with saved gates and show which experts they used");
  translate_command->add_option("prompt", translate_options.prompt, "task and text, 'en>fr two hundred six'")
      ->required();
  translate_command
      ->add_option("--gates", translate_options.gates, "gates.safetensors of a compose run, of any router")
      ->required();
  translate_command->add_option("--base", base, "folder of the base")->capture_default_str();
  translate_command->add_option("--experts", translate_experts,
                                "folders of the experts, if not the shipped ones");
  translate_command->add_option("--mask", mask, "experts to leave out, by comma; the rest is renormalised");
  translate_command->add_option("--beams", translate_options.beams, "1 is greedy")
      ->capture_default_str()
      ->check(whole(1, 64, "1..64"));
  translate_command->add_option("--out", translate_options.out,
                                "folder for the gates as CSV and pictures, token by token for token gates");
  translate_command->callback([&] {
    common::expect_one_process("numbers translate");
    translate_options.base = base;
    translate_options.experts = split_list(translate_experts);
    translate_options.mask = split_list(mask);
    commands_on(machine.backend).translate(translate_options);
  });

  EvaluateOptions evaluate_options;
  std::string evaluate_experts;
  auto* evaluate_command = app.add_subcommand(
      "evaluate", "Exact match of a base, or of a base with experts merged in, on held-out numbers");
  evaluate_command->add_option("--base", base, "folder of the base")->capture_default_str();
  evaluate_command->add_option("--experts", evaluate_experts,
                               "merged with weight 1 each; none: the base alone");
  evaluate_command->add_option("--tasks", tasks, "tasks to judge by")->capture_default_str();
  evaluate_command->add_option("--test", evaluate_options.test, "held-out numbers a task, of 1000")
      ->capture_default_str()
      ->check(whole(1, 1000, "1..1000"));
  evaluate_command->callback([&] {
    common::expect_one_process("numbers evaluate");
    evaluate_options.base = base;
    evaluate_options.experts = split_list(evaluate_experts);
    evaluate_options.tasks = parse_tasks(tasks);
    commands_on(machine.backend).evaluate(evaluate_options);
  });

  TablesOptions tables_options;
  std::vector<std::string> studies;
  std::string rows;
  auto* tables_command = app.add_subcommand(
      "tables", "Rerun the paper's tables and figures on the numbers problem, each row over several seeds");
  tables_command->add_option("studies", studies, "those below, or all")->required();
  tables_command->footer(
      "Studies:\n"
      "  3            six tasks: base, experts, sum, mean, PEMs, LoRAHub, MoLE\n"
      "  4            one LoRA alone, summed and normalised with others\n"
      "  5            only some layers of one LoRA\n"
      "  6            8, 24, 48 and 128 experts (first trains those that are not shipped; see --largest)\n"
      "  7, fig5      with and without the balance loss, raised temperatures, gate entropy\n"
      "  8            tasks that no expert and no gate was trained on\n"
      "  9, fig7      a gate a matrix, a layer, a block, the network, and their heat maps\n"
      "  fig8         experts masked after training\n"
      "  routers      every way to combine: all merging methods, Arrow, X-LoRA, MoLE's variants\n"
      "  input        gates that read the paper's input, and a standardised one\n\n"
      "A row of gates takes minutes a seed on a processor and seconds on a GPU (--backend cuda), an expert\n"
      "alike, a row without gates half a minute. Stop when you like: the same command goes on. A first "
      "look:\n"
      "  numbers tables 9 --seeds 1 --steps 50 --test 20 --out first-look\n");
  tables_command
      ->add_option("--out", tables_options.run.out, "tables, CSV, pictures; what is there is not redone")
      ->capture_default_str();
  tables_command->add_option(
      "--rows", rows,
      "only rows whose names begin so, by comma, or by semicolon where one has a comma:\n"
      "'own expert,MoLE', 'MoLE network, standardised, no balance;'");
  tables_command
      ->add_option("--seeds", tables_options.seeds, "each with its own examples and held-out numbers")
      ->capture_default_str()
      ->check(whole(1, 1000, "1..1000"));
  tables_command
      ->add_option(
          "--seed", tables_options.only_seed,
          "only measure this seed, for runs side by side with one --out; a run without it then makes\n"
          "the tables")
      ->check(whole(1, 1000, "1..1000"));
  tables_command->add_option("--steps", tables_options.run.steps, "training steps of the gates")
      ->capture_default_str()
      ->check(positive);
  tables_command->add_option("--batch", tables_options.run.batch, "examples a step")
      ->capture_default_str()
      ->check(positive);
  tables_command->add_option("--examples", tables_options.examples, "training examples a task (few-shot)")
      ->capture_default_str()
      ->check(whole(1, 9000, "1..9000"));
  tables_command->add_option("--test", tables_options.test, "held-out numbers a task and seed, of 1000")
      ->capture_default_str()
      ->check(whole(1, 1000, "1..1000"));
  tables_command->add_option("--largest", tables_options.largest, "experts in table 6, at most")
      ->capture_default_str()
      ->check(whole(8, 128, "8..128"));
  tables_command
      ->add_option("--expert-steps", tables_options.expert.steps, "for experts that are not there yet")
      ->capture_default_str()
      ->check(positive);
  tables_command->add_option("--expert-batch", tables_options.expert.batch, "examples a step of theirs")
      ->capture_default_str()
      ->check(positive);
  tables_command->add_option("--base", base, "folder of the base")->capture_default_str();
  tables_command->callback([&] {
    common::expect_one_process("numbers tables");
    tables_options.base = base;
    tables_options.rows = split_list(rows, rows.find(';') == std::string::npos ? ',' : ';');
    for (const auto& some : studies)
      for (const auto& name : split_list(some)) tables_options.studies.push_back(name);
    MOLE_CHECK_ARG(!tables_options.studies.empty(), "tables: no study is named");
    commands_on(machine.backend).tables(tables_options);
  });

  std::string spelled;
  Index first = 0, last = number_count - 1;
  auto* spell_command = app.add_subcommand(
      "spell", "Print numbers in words, as ICU spells them: language, number, words, by tabs");
  spell_command->add_option("languages", spelled, "their codes, by comma, such as fr,de")->required();
  spell_command->add_option("--from", first, "the first number")
      ->capture_default_str()
      ->check(common::natural());
  spell_command->add_option("--to", last, "the last")->capture_default_str()->check(common::natural());
  spell_command->callback([&] { print_spelled(split_list(spelled), first, last); });

  return common::parse(app, argc, argv);
}

}  // namespace

int main(int argc, char** argv) {
  common::let_waiting_threads_sleep(argv);
  return common::leave_ranks(common::guarded("numbers", [&] { return run(argc, argv); }));
}
