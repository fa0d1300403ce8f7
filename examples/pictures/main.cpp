// pictures: paints emoji that LoRA experts know, several in one picture, by MoLE gates.

#include <iostream>

#include <CLI/CLI.hpp>

#include "common/command_line.hpp"
#include "common/ranks.hpp"
#include "common/waiting_threads.hpp"
#include "pictures/commands.hpp"
#include "pictures/study.hpp"

namespace {

using namespace pictures;
using common::add_run_options;
using common::given_list;
using common::split_list;
using common::whole;
const auto positive = common::positive();

void print_words() {
  const auto sprites = read_sprites(shipped());
  std::cout << "Prompts: a X on COLOUR | a X left of a Y on COLOUR | a X above a Y on COLOUR |\n"
               "         a X left of a Y above a Z on COLOUR\n\nColours:";
  for (const auto& colour : colours) std::cout << " " << colour.name;
  std::cout << "\n\nSubjects, which need an expert:";
  for (Index i = 0; i < sprites.count(); ++i) {
    if (i == sprites.subjects) std::cout << "\n\nEmoji that the base knows:";
    std::cout << (i == 0 || i == sprites.subjects ? " " : ", ") << sprites.names[static_cast<std::size_t>(i)];
  }
  std::cout << "\n";
}

int run(int argc, char** argv) {
  CLI::App app{
      "Paints scenes of emoji (\"a dog face left of a cat face on blue\") of 32 x 32 pixels with a small frozen UNet.\n"
      "LoRA experts know one emoji each; MoLE gates combine them in one picture.\n\n"
      "  pictures compose                             the main job: train gates, compare, draw\n"
      "  pictures tables 1                            one of the paper's tables, here\n"
      "  pictures draw --gates pictures-out/gates.safetensors 'dog face left of cat face on blue'\n"
      "  pictures words                               what prompts may say\n"};
  app.name("pictures");
  app.require_subcommand(1);
  app.fallthrough();
  app.get_formatter()->column_width(34);
  common::Machine machine;
  common::add_machine_options(app, machine);
  std::string experts = "dog face,cat face,pizza", draw_experts, methods;

  ComposeOptions compose_options;
  auto* compose_command = app.add_subcommand(
      "compose",
      "Train gates over experts; compare with other ways to combine them; write gates, table, pictures");
  compose_command->add_option("--base", compose_options.base, "folder with clip/, unet/, scheduler/")
      ->capture_default_str();
  compose_command
      ->add_option("--experts", experts, "subjects of shipped experts, or LoRAs of subjects, by comma")
      ->capture_default_str();
  compose_command
      ->add_option("--judge", compose_options.judge, "folder of a CLIP that no gates were trained with")
      ->capture_default_str();
  compose_command->add_option("--methods", methods,
                              "only these rows, or those whose names begin so, by comma: base,MoLE;\n"
                              "by their whole names also MoLE layer/mean, block/mean and matrix/token");
  compose_command->add_option("--steps", compose_options.steps, "steps of the sampler (DDIM)")
      ->capture_default_str()
      ->check(whole(1, 1000, "1..1000"));
  compose_command
      ->add_option("--effort", compose_options.effort, "multiplies the training steps of all gates")
      ->capture_default_str()
      ->check(common::number(1e-6, 1e6, "1e-6..1e6"));
  compose_command
      ->add_option(
          "--batch", compose_options.batch,
          "pictures a step of the gates' training (with + diffusion, of each kind); 0: 8, and 5 there")
      ->capture_default_str()
      ->check(whole(0, 1000, "0..1000"));
  compose_command
      ->add_option("--lr", compose_options.rate,
                   "peak learning rate of all gates; if not given, that of each row (0.03 for most)")
      ->check(common::positive_number());
  compose_command
      ->add_option("--own", compose_options.own,
                   "weight of the diffusion loss on the experts' own pictures, beside CLIP's; 6 if not given")
      ->check(common::number_from_zero());
  compose_command
      ->add_option("--prompts", compose_options.prompts, "prompts to judge by of each size, at most; 0: all")
      ->capture_default_str()
      ->check(whole(0, 1000, "0..1000"));
  compose_command->add_option("--seed", compose_options.seed, "of gates and noise")
      ->capture_default_str()
      ->check(common::natural());
  compose_command->add_flag(
      "--validation", compose_options.validation,
      "judge by two other colours, so that options can be chosen without a look at the test");
  const char* const save_text = "also write every picture of every row, in pictures/ROW, with metadata.jsonl";
  compose_command->add_flag("--save-pictures", compose_options.save_pictures, save_text);
  compose_command->add_option("--out", compose_options.out, "folder for gates, table and pictures")
      ->capture_default_str();
  common::add_rank_options(*compose_command, compose_options.ranks, "mpirun -np 2 pictures compose",
                           "step's pictures in flight");
  compose_command->callback([&] {
    compose_options.experts = split_list(experts);
    compose_options.methods = given_list(*compose_command, "--methods", methods);
    compose_options.ranks.run(machine.backend, [&](const common::RankOptions& ranks) {
      auto own = compose_options;
      own.ranks = ranks;
      commands_on(machine.backend).compose(own);
    });
  });

  DrawOptions draw_options;
  auto* draw_command =
      app.add_subcommand("draw", "Paint one prompt, with saved gates, with LoRAs, or by the base alone");
  draw_command
      ->add_option("prompt", draw_options.prompt, "'dog face left of cat face on blue'; see `pictures words`")
      ->required();
  draw_command->add_option("--gates", draw_options.gates, "gates.safetensors of a compose run");
  draw_command->add_option(
      "--experts", draw_experts,
      "experts, if not those of the gates; without gates they are added to the base (eq. 1)");
  draw_command->add_option("--base", draw_options.base, "folder with clip/, unet/, scheduler/")
      ->capture_default_str();
  draw_command->add_option("--steps", draw_options.steps, "steps of the sampler (DDIM)")
      ->capture_default_str()
      ->check(whole(1, 1000, "1..1000"));
  draw_command->add_option("--seed", draw_options.seed, "of the noise: another picture of the same prompt")
      ->capture_default_str()
      ->check(common::natural());
  draw_command->add_option("--out", draw_options.out, "PNG file")->capture_default_str();
  draw_command->add_flag("--show-gates", draw_options.show_gates,
                         "say which expert each part of the picture used, and draw it (NAME-gates.png)");
  draw_command->add_flag("--truncate", draw_options.truncate, "cut a prompt of too many words");
  draw_command->callback([&] {
    common::expect_one_process("pictures draw");
    draw_options.experts = given_list(*draw_command, "--experts", draw_experts);
    commands_on(machine.backend).draw(draw_options);
  });

  TrainClipOptions clip_options;
  auto* clip_command =
      app.add_subcommand("train-clip", "Train a CLIP of pictures and captions (transformers' format)");
  add_run_options(*clip_command, clip_options.run, "folder of the new CLIP");
  clip_command
      ->add_option("--pool", clip_options.pool, "different captions in all; each step draws some of them")
      ->capture_default_str()
      ->check(positive);
  clip_command->callback([&] {
    common::expect_one_process("pictures train-clip");
    commands_on(machine.backend).train_clip(clip_options);
  });

  TrainBaseOptions base_options;
  auto* base_command =
      app.add_subcommand("train-base", "Train a UNet on all emoji but the subjects (diffusers' format)");
  add_run_options(*base_command, base_options.run, "folder of the new base");
  base_command->add_option("--clip", base_options.clip,
                           "folder of the CLIP; clip/ in the base's folder if not given");
  base_command
      ->add_option("--pool", base_options.pool, "different captions in all; each step draws some of them")
      ->capture_default_str()
      ->check(positive);
  base_command->callback([&] {
    common::expect_one_process("pictures train-base");
    commands_on(machine.backend).train_base(base_options);
  });

  TrainExpertOptions expert_options;
  auto* expert_command =
      app.add_subcommand("train-expert", "Train a LoRA for one subject on a frozen base (PEFT format)");
  expert_command->add_option("--subject", expert_options.subject, "such as robot")->required();
  expert_command->add_option("--base", expert_options.base, "folder with clip/, unet/, scheduler/")
      ->capture_default_str();
  expert_command->add_option("--rank", expert_options.rank, "of every LoRA")
      ->capture_default_str()
      ->check(positive);
  expert_command->add_option("--alpha", expert_options.alpha, "LoRA alpha; the scale is alpha / rank")
      ->capture_default_str()
      ->check(common::positive_number());
  expert_command->add_option("--pictures", expert_options.pictures, "pictures of the subject")
      ->capture_default_str()
      ->check(whole(1, 100000, "1..100000"));
  add_run_options(*expert_command, expert_options.run,
                  "folder of the new expert; the subject's name if not given");
  expert_command->add_flag(
      "--svdiff", expert_options.svdiff,
      "train shifts of singular values (SVDiff) instead of a LoRA, for the rows that compare with\n"
      "it; 400 steps at 5e-3 if not given");
  expert_command->callback([&] {
    common::expect_one_process("pictures train-expert");
    if (expert_options.svdiff) {
      if (expert_command->count("--steps") == 0) expert_options.run.steps = svdiff_steps;
      if (expert_command->count("--lr") == 0) expert_options.run.rate = svdiff_rate;
    }
    commands_on(machine.backend).train_expert(expert_options);
  });

  TablesOptions tables_options;
  tables_options.compose.out = "pictures-tables";
  std::vector<std::string> tables;
  auto* tables_command = app.add_subcommand(
      "tables", "Rerun the paper's tables about pictures on this study, each row over several seeds");
  tables_command->add_option("tables", tables, "those below, or all")->required();
  tables_command->footer(
      "Tables:\n"
      "  1    two and three subjects: base, sum, mean, SVDiff, LoRA Switch and Composite, MoLE, masks\n"
      "  2    three to six concepts (trains the experts that are not shipped)\n"
      "  9    a gate a matrix, a layer, a block, the network\n"
      "  10   three to six LoRAs, of which prompts name three\n\n"
      "A row of gates takes minutes a seed on a processor (--backend cuda: seconds). What was measured is kept:\n"
      "stop when you like, the same command goes on. A first look:\n"
      "  pictures tables 9 --seeds 1 --effort 0.3 --prompts 6 --out first-look\n");
  tables_command
      ->add_option("--out", tables_options.compose.out,
                   "tables, CSV, experts, gates; what is there is not redone")
      ->capture_default_str();
  tables_command->add_option("--seeds", tables_options.seeds, "of gates and noise")
      ->capture_default_str()
      ->check(whole(1, 1000, "1..1000"));
  tables_command
      ->add_option(
          "--seed", tables_options.only_seed,
          "only measure this seed, for runs side by side with one --out; a run without it then makes\n"
          "the tables")
      ->check(whole(1, 1000, "1..1000"));
  tables_command
      ->add_option("--effort", tables_options.compose.effort, "multiplies the training steps of all gates")
      ->capture_default_str()
      ->check(common::number(1e-6, 1e6, "1e-6..1e6"));
  tables_command
      ->add_option("--prompts", tables_options.compose.prompts,
                   "prompts to judge by of each size, at most; 0: all")
      ->capture_default_str()
      ->check(whole(0, 1000, "0..1000"));
  tables_command->add_option("--largest", tables_options.largest, "experts at a time, at most")
      ->capture_default_str()
      ->check(whole(3, 6, "3..6"));
  tables_command->add_flag("--save-pictures", tables_options.compose.save_pictures, save_text);
  tables_command->add_option("--base", tables_options.compose.base, "folder with clip/, unet/, scheduler/")
      ->capture_default_str();
  tables_command->add_option("--experts", tables_options.experts, "folder of the base's experts")
      ->capture_default_str();
  tables_command
      ->add_option("--judge", tables_options.compose.judge, "folder of a CLIP that trained nothing else")
      ->capture_default_str();
  tables_command->callback([&] {
    common::expect_one_process("pictures tables");
    for (const auto& some : tables)
      for (const auto& name : split_list(some)) tables_options.tables.push_back(name);
    commands_on(machine.backend).tables(tables_options);
  });

  app.add_subcommand("words", "List the emoji, colours and forms of prompts")->callback(print_words);
  return common::parse(app, argc, argv);
}

}  // namespace

int main(int argc, char** argv) {
  common::let_waiting_threads_sleep(argv);
  return common::leave_ranks(common::guarded("pictures", [&] { return run(argc, argv); }));
}
