// mole: gates over LoRA experts of language models and of Stable Diffusion, from the command line.

#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include "common/command_line.hpp"
#include "common/ranks.hpp"
#include "common/waiting_threads.hpp"
#include "mole/commands.hpp"
#include "mole/pictures/arguments.hpp"
#include "mole/pictures/compose_arguments.hpp"

namespace {

using namespace program;
using common::split_list;
using common::whole;

/// The options of a command that loads a model, which must outlive it.
void add_model_options(CLI::App& app, ModelOptions& model, bool base_required) {
  auto* base = app.add_option("--base", model.base,
                              base_required ? "a model's folder (Hugging Face) or a GGUF file"
                                            : "a model's folder or a GGUF file; the gates' own if not given");
  if (base_required) base->required();
  app.add_option("--tokenizer", model.tokenizer, "folder or tokenizer.json, if not the base's own");
  app.add_option(
      "--template", model.form,
      "what stands around a prompt: none, chatml, or a file with {prompt} and {answer},\n"
      "where \\n is a line break" +
          std::string(base_required ? " (none if not given)" : "; that of the gates if not given"));
  app.add_option("--system", model.system, "chatml: what the system says before the prompt");
}

/// Whether the base stays quantised.
void add_quantised(CLI::App& app, ModelOptions& model) {
  app.add_flag("--quantised", model.quantised,
               "a GGUF file, or a folder of bitsandbytes, stays quantised in memory");
}

/// Adds --dtype: whether what is frozen, and what is computed with it, is bf16.
void add_dtype(CLI::App& app, bool& bf16) {
  app.add_option_function<std::string>(
         "--dtype",
         [&bf16](const std::string& dtype) {
           MOLE_CHECK_ARG(dtype == "f32" || dtype == "bf16", "--dtype", dtype + ": choose f32 or bf16");
           bf16 = dtype == "bf16";
         },
         "numbers of the model, its activations and the experts: f32, bf16 (half the memory);\n"
         "what trains keeps its digits in either")
      ->default_str("f32");
}

/// An option's list of names by comma, put into `list` when the command runs.
struct List {
  std::string text;
  std::vector<std::string> names() const { return split_list(text); }
};

void add_sampling(CLI::App& app, GenerateOptions& options) {
  auto& sampling = options.sampling;
  const std::string group = "Drawing (--sample); where not given, as the model's generation_config.json says";
  app.add_flag("--sample", sampling.draw, "draw each token, in place of the likeliest one; not with T5")
      ->group(group);
  app.add_option("--draw-temperature", sampling.temperature, "above 1 wilder, below 1 tamer")
      ->capture_default_str()
      ->check(common::positive_number())
      ->group(group);
  app.add_option("--top-k", sampling.top_k, "draw from the k likeliest tokens; 0: from all")
      ->capture_default_str()
      ->check(whole(0, 1 << 30, ">=0"))
      ->group(group);
  app.add_option("--top-p", sampling.top_p,
                 "draw from the likeliest tokens that have this probability together")
      ->capture_default_str()
      ->check(common::number(1e-9, 1, "1e-9..1"))
      ->group(group);
  app.add_option("--min-p", sampling.min_p, "leave out tokens with less than this share of the likeliest's")
      ->capture_default_str()
      ->check(common::number(0, 1, "0..1"))
      ->group(group);
  app.add_option("--seed", sampling.seed, "of the draws")
      ->capture_default_str()
      ->check(common::natural())
      ->group(group);
  app.add_option("--no-repeat-ngram", sampling.no_repeat_ngram,
                 "no so many tokens in a row occur twice, also without --sample; 0: they may")
      ->capture_default_str()
      ->check(whole(0, 1 << 20, ">=0"))
      ->group(group);
  app.add_option("--repetition-penalty", sampling.repetition_penalty,
                 "above 1: tokens that occurred are less likely, also without --sample")
      ->capture_default_str()
      ->check(common::positive_number())
      ->group(group);
}

int run(int argc, char** argv) {
  CLI::App app{
      "Combines LoRA experts of a language model, or of Stable Diffusion, by learned gates (MoLE), says what that is\n"
      "worth beside the usual ways, and uses it.\n\n"
      "  mole compose --base MODEL --experts french,clock --train few.jsonl --out gates   the main job\n"
      "  mole generate --gates gates/gates.safetensors --prompt 'What is 12 in French?' --show-gates\n\n"
      "  mole draw --base SD15 --experts cat.safetensors,dog.safetensors --prompt 'a cat and a dog' --out both.png\n\n"
      "Examples are JSONL, one object a line: {\"prompt\": .., \"answer\": .., \"task\": ..}, or input and output,\n"
      "or instruction, input and output, or messages. The task is a column of the table and may be left out.\n"
      "Models: Llama, Mistral, Qwen2, Qwen3, Gemma 1, OPT and T5 as Hugging Face has them, or GGUF files;\n"
      "Stable Diffusion 1 and 2 as diffusers has it."};
  app.name("mole");
  app.require_subcommand(1);
  app.fallthrough();
  app.get_formatter()->column_width(34);
  common::Machine machine;
  common::add_machine_options(app, machine);
  bool frugal = false;
  app.add_flag("--frugal", frugal,
               "training keeps of each block its input alone and runs it twice: less memory, more time");
  bool bf16 = false;
  add_dtype(app, bf16);
  const auto place = [&](ModelOptions& model) {
    model.backend = machine.backend;
    model.bf16 = bf16;
    MOLE_CHECK_ARG(!(bf16 && model.quantised && model.backend == "cpu"),
                   "--quantised multiplies in f32 on a processor; leave it out, or --dtype bf16");
  };
  const auto positive = common::positive();

  ComposeOptions compose_options;
  List compose_experts, methods;
  auto* compose_command = app.add_subcommand(
      "compose",
      "Train gates over experts on a few examples or prompts; compare, write gates, table and pictures");
  add_model_options(*compose_command, compose_options.model, true);
  add_quantised(*compose_command, compose_options.model);
  compose_command
      ->add_option("--experts", compose_experts.text,
                   "folders of PEFT LoRA adapters, by comma; NAME=FOLDER gives one another name")
      ->required();
  compose_command->add_option("--train", compose_options.train, "JSONL with some hundred examples");
  compose_command->add_option("--test", compose_options.test,
                              "JSONL to test by; without it a tenth of the training examples is set aside");
  common::RouterArguments router_arguments(*compose_command, compose_options);
  compose_command->add_option("--weight-decay", compose_options.weight_decay, "AdamW's, on the gates")
      ->capture_default_str()
      ->check(common::number_from_zero());
  compose_command
      ->add_option_function<std::string>(
          "--batches",
          [&](const std::string& name) {
            MOLE_CHECK_ARG(name == "alike" || name == "mixed", "--batches", name + ": choose alike or mixed");
            compose_options.batches = name == "mixed" ? Batches::mixed : Batches::alike;
          },
          "examples of a step: mixed, so that each step sees all tasks, or of like length, alike, which is\n"
          "faster, as less is padded")
      ->default_str("mixed");
  const auto* const test_batch = compose_command
                                     ->add_option("--test-batch", compose_options.test_batch,
                                                  "examples at a time when testing; 64 on a GPU if not given")
                                     ->capture_default_str()
                                     ->check(positive);
  compose_command
      ->add_option("--max-new-tokens", compose_options.max_new_tokens,
                   "of an answer when testing; 0: eight more than the longest that is wanted")
      ->capture_default_str()
      ->check(whole(0, 1 << 20, ">=0"));
  const std::string merging_group = "Merging methods (--methods)";
  compose_command
      ->add_option("--methods", methods.text,
                   "methods to compare with, by comma, a row each: svd, ties, ties_svd, dare_linear, ...,\n"
                   "pems (factors added), lorahub (a search of the weights); sum and mean always are")
      ->group(merging_group);
  common::MergeArguments merge_arguments(*compose_command, compose_options.merging, merging_group);
  compose_command->add_flag("--only-mole", compose_options.only_mole, "leave out the rows to compare with");
  compose_command->add_flag("--no-single-experts", compose_options.no_single_experts,
                            "leave out the rows of single experts, which take long where there are many");
  compose_command->add_flag("--dry-run", compose_options.dry_run,
                            "say what would be loaded, and about how much memory and time it takes");
  common::add_run_options(*compose_command, compose_options.run, "folder for gates, table and pictures");
  common::add_rank_options(*compose_command, compose_options.ranks, "mpirun -np 2 mole compose");
  ComposePicturesArguments pictures(*compose_command);
  compose_command->callback([&] {
    place(compose_options.model);
    if (test_batch->count() == 0 && machine.backend != "cpu") compose_options.test_batch = 64;
    compose_options.model.frugal = frugal;
    compose_options.experts = compose_experts.names();
    compose_options.methods = methods.names();
    merge_arguments.read();
    router_arguments.read();
    if (!pictures.wanted()) pictures.check_text(compose_options);
    compose_options.ranks.run(machine.backend, [&](const common::RankOptions& ranks) {
      auto own = compose_options;
      own.ranks = ranks;
      if (pictures.wanted())
        pictures.compose(own);
      else
        compose(own);
    });
  });

  GenerateOptions generate_options;
  List generate_experts, mask;
  auto* generate_command =
      app.add_subcommand("generate", "Answer prompts by saved gates, or by the base alone");
  add_model_options(*generate_command, generate_options.model, false);
  add_quantised(*generate_command, generate_options.model);
  generate_command->add_option(
      "--gates", generate_options.gates,
      "gates.safetensors of a compose run; without it the base answers alone.\n"
      "NAME=FILE by comma: several over the same experts, of which a line of --file\n"
      "chooses by \"gates\": NAME, and others take the first");
  generate_command->add_option("--experts", generate_experts.text,
                               "folders of the gates' experts, where they are no longer where they were");
  generate_command->add_option("--prompt", generate_options.prompt, "the text to answer");
  generate_command->add_option("--file", generate_options.file,
                               "JSONL with prompts; the answers go to stdout, a JSON object a line");
  generate_command->add_option("--mask", mask.text,
                               "experts to leave out, by comma; the rest is renormalised");
  generate_command->add_option("--max-new-tokens", generate_options.max_new_tokens, "of an answer")
      ->capture_default_str()
      ->check(positive);
  generate_command->add_option("--beams", generate_options.beams, "1 is greedy")
      ->capture_default_str()
      ->check(whole(1, 64, "1..64"));
  generate_command->add_option("--batch", generate_options.batch, "prompts of --file at a time")
      ->capture_default_str()
      ->check(positive);
  generate_command->add_flag("--show-gates", generate_options.show_gates,
                             "say which experts were used, and where");
  generate_command->add_option("--out", generate_options.out, "folder for the gates as CSV and picture");
  add_sampling(*generate_command, generate_options);
  generate_command->callback([&] {
    common::expect_one_process("mole generate");
    place(generate_options.model);
    generate_options.experts = generate_experts.names();
    generate_options.mask = mask.names();
    for (const char* name :
         {"--draw-temperature", "--top-k", "--top-p", "--min-p", "--no-repeat-ngram", "--repetition-penalty"})
      if (generate_command->count(name) > 0) generate_options.given.insert(name);
    generate(generate_options);
  });

  TrainExpertOptions expert_options;
  List targets{"all"};
  auto* expert_command =
      app.add_subcommand("train-expert", "Train a LoRA on a frozen base, as a PEFT adapter");
  add_model_options(*expert_command, expert_options.model, true);
  add_quantised(*expert_command, expert_options.model);
  expert_command->add_option("--train", expert_options.train, "JSONL with examples")->required();
  expert_command->add_option("--test", expert_options.test, "JSONL to judge the expert by");
  expert_command->add_option("--task", expert_options.task,
                             "of the files' examples, those of this task alone");
  expert_command->add_option("--rank", expert_options.rank, "of every LoRA")
      ->capture_default_str()
      ->check(positive);
  expert_command->add_option("--alpha", expert_options.alpha, "LoRA alpha; the scale is alpha / rank")
      ->capture_default_str()
      ->check(common::positive_number());
  expert_command
      ->add_option("--targets", targets.text,
                   "layers that get a LoRA, by comma: q,v, or gate_proj, or whole names;\n"
                   "all: every linear layer of the blocks")
      ->capture_default_str();
  common::add_run_options(*expert_command, expert_options.run, "folder of the new expert");
  expert_command->callback([&] {
    common::expect_one_process("mole train-expert");
    place(expert_options.model);
    expert_options.model.frugal = frugal;
    expert_options.targets = targets.text == "all" ? std::vector<std::string>() : targets.names();
    train_expert(expert_options);
  });

  MergeCommandOptions merge_options;
  List merge_experts, weights;
  auto* merge_command = app.add_subcommand("merge", "Make one PEFT adapter of several, without training");
  merge_command->add_option("--experts", merge_experts.text, "folders of PEFT LoRA adapters, by comma")
      ->required();
  merge_command
      ->add_option(
          "--method", merge_options.merging.method,
          "sum, mean, cat, linear, svd, ties, ties_svd, dare_linear, dare_ties, magnitude_prune, ...")
      ->required();
  merge_command->add_option("--weights", weights.text, "one an expert, by comma, if not the method's own");
  common::MergeArguments merge_arguments_alone(*merge_command, merge_options.merging, "Options");
  merge_command->add_option("--seed", merge_options.merging.seed, "of DARE's masks")
      ->capture_default_str()
      ->check(common::natural());
  merge_command->add_option("--out", merge_options.out, "folder of the new adapter")->required();
  merge_command->callback([&] {
    common::expect_one_process("mole merge");
    merge_options.experts = merge_experts.names();
    merge_arguments_alone.read();
    for (const auto& text : weights.names()) {
      double weight = 0;
      MOLE_CHECK_ARG(CLI::detail::lexical_cast(text, weight), "--weights",
                     text + ": expected numbers, by comma");
      merge_options.weights.push_back(weight);
    }
    merge(merge_options);
  });

  BakeOptions bake_options;
  List bake_experts;
  auto* bake_command = app.add_subcommand(
      "bake", "Make the mean gates of a task one PEFT adapter, and say what it loses beside the gates");
  add_model_options(*bake_command, bake_options.model, false);
  bake_command->add_option("--gates", bake_options.gates, "gates.safetensors of a compose run")->required();
  bake_command->add_option("--experts", bake_experts.text,
                           "folders of the gates' experts, where they are no longer where they were");
  bake_command
      ->add_option("--data", bake_options.data, "JSONL: gates are averaged and judged on its examples")
      ->required();
  bake_command->add_option("--task", bake_options.task, "of the file's examples, those of this task alone");
  bake_command->add_option("--batch", bake_options.batch, "examples at a time")
      ->capture_default_str()
      ->check(positive);
  bake_command->add_option("--out", bake_options.out, "folder of the new adapter")->required();
  bake_command->callback([&] {
    common::expect_one_process("mole bake");
    place(bake_options.model);
    bake_options.experts = bake_experts.names();
    bake(bake_options);
  });

  const DrawArguments draw_arguments(app, machine, bf16);

  std::filesystem::path inspected;
  auto* inspect_command = app.add_subcommand(
      "inspect",
      "Say what a model's folder (of diffusers too), GGUF file, adapter, LoRA file or gates file holds, and what is wrong");
  inspect_command->add_option("path", inspected, "folder or file")->required();
  inspect_command->callback([&] {
    common::expect_one_process("mole inspect");
    inspect(inspected);
  });

  return common::parse(app, argc, argv);
}

}  // namespace

int main(int argc, char** argv) {
  common::let_waiting_threads_sleep(argv);
  return common::leave_ranks(common::guarded("mole", [&] { return run(argc, argv); }));
}
