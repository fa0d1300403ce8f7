#include "mole/pictures/compose_arguments.hpp"

#include <mole/core/error.hpp>

#include "mole/pictures/arguments.hpp"
#include "mole/pictures/files.hpp"

namespace program {

ComposePicturesArguments::ComposePicturesArguments(CLI::App& command) : command_(command) {
  const std::string group = "Stable Diffusion (--prompts)";
  command
      .add_option(
          "--prompts", options_.prompts,
          "JSONL with prompts, {\"prompt\": ..} a line: gates are trained on them by CLIP. The defaults are\n"
          "then --scope layer, --pooling token, --input-scale unit, --steps 130, --batch 2, --lr 0.03")
      ->group(group);
  command
      .add_option("--clip", options_.clip,
                  "folder of the CLIPModel that guides the gates and judges pictures")
      ->group(group);
  command
      .add_option(
          "--pictures", pictures_,
          "folders, by comma, of the pictures that the experts were trained on: PNG files, each with\n"
          "its caption in NAME.txt or metadata.jsonl. Gates then learn from their diffusion loss, too")
      ->group(group);
  command
      .add_option("--pictures-weight", options_.pictures_weight,
                  "of the diffusion loss on --pictures, beside 1 - cos(picture, prompt) by CLIP")
      ->capture_default_str()
      ->check(common::positive_number())
      ->group(group);
  command.add_option("--variant", options_.variant, "fp16 reads *.fp16.safetensors of the base")
      ->group(group);
  command
      .add_option("--sheet", options_.sheet,
                  "prompts to judge by: the first of --test, else of those that were trained on")
      ->capture_default_str()
      ->check(common::positive())
      ->group(group);
  add_painting(command, options_.painting, "--sampler-steps", group);
}

bool ComposePicturesArguments::wanted() const { return command_.count("--prompts") > 0; }

void ComposePicturesArguments::compose(const ComposeOptions& shared) const {
  for (const char* name :
       {"--train", "--methods", "--test-batch", "--max-new-tokens", "--weight-decay", "--batches",
        "--quantised", "--template", "--system", "--tokenizer", "--no-single-experts"})
    MOLE_CHECK_ARG(command_.count(name) == 0, name, "is for language models; leave it out with --prompts");
  MOLE_CHECK_ARG(!shared.model.frugal,
                 "--frugal is for language models; with --prompts choose a smaller --size");
  MOLE_CHECK_ARG(
      !options_.clip.empty(),
      "--prompts needs --clip FOLDER, the CLIPModel that says how well a picture shows its prompt");
  MOLE_CHECK_ARG(!pictures_.empty() || command_.count("--pictures-weight") == 0,
                 "--pictures-weight is of --pictures FOLDERS; give these, too");
  MOLE_CHECK_ARG(command_.count("--pictures") == 0 || !common::split_list(pictures_).empty(),
                 "--pictures names no folder");
  const ComposePicturesOptions usual;
  const auto chosen = [&](const char* name) { return command_.count(name) > 0; };
  auto options = options_;
  options.base = shared.model.base;
  options.backend = shared.model.backend;
  options.bf16 = shared.model.bf16;
  options.experts = shared.experts;
  options.test = shared.test;
  options.only_mole = shared.only_mole;
  options.dry_run = shared.dry_run;
  options.run = shared.run;
  options.ranks = shared.ranks;
  options.pictures = common::split_list(pictures_);
  if (!chosen("--steps")) options.run.steps = usual.run.steps;
  if (!chosen("--batch")) options.run.batch = usual.run.batch;
  if (!chosen("--lr")) options.run.rate = usual.run.rate;
  options.router = shared;
  auto& gates = options.router.gates;
  if (!chosen("--scope")) gates.scope = usual.router.gates.scope;
  if (!chosen("--pooling")) gates.pooling = usual.router.gates.pooling;
  if (!chosen("--input-scale")) gates.input_scale = usual.router.gates.input_scale;
  MOLE_CHECK_ARG(
      options.router.router != "xlora",
      "--router xlora reads a model's last hidden state, which a UNet does not have; choose mole, hidden or arrow");
  compose_pictures(options);
}

void ComposePicturesArguments::check_text(const ComposeOptions& shared) const {
  MOLE_CHECK_ARG(!is_picture_folder(shared.model.base), shared.model.base,
                 "is a Stable Diffusion; give --prompts JSONL and --clip FOLDER");
  for (const char* name :
       {"--clip", "--pictures", "--pictures-weight", "--variant", "--sheet", "--sampler-steps", "--guidance",
        "--sampler", "--size", "--negative", "--truncate"})
    MOLE_CHECK_ARG(command_.count(name) == 0, name, "is for a Stable Diffusion; give --prompts JSONL, too");
  MOLE_CHECK_ARG(!shared.train.empty(),
                 "give --train JSONL, the examples to train on; of a Stable Diffusion --prompts");
}

}  // namespace program
