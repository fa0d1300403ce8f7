#include "mole/pictures/arguments.hpp"

#include <mole/core/error.hpp>

#include "common/ranks.hpp"

namespace program {

std::vector<double> numbers_of(const std::string& option, const std::vector<std::string>& texts) {
  std::vector<double> values;
  for (const auto& text : texts) {
    double value = 0;
    MOLE_CHECK_ARG(CLI::detail::lexical_cast(text, value), option, text + ": expected numbers, by comma");
    values.push_back(value);
  }
  return values;
}

void add_painting(CLI::App& command, PaintingOptions& painting, const char* steps, const std::string& group) {
  command.add_option(steps, painting.steps, "of the sampler, from noise to picture")
      ->capture_default_str()
      ->check(common::positive())
      ->group(group);
  command
      .add_option(
          "--guidance", painting.guidance,
          "how far each step goes from the negative text to the prompt; 1 is no guidance, at half the time")
      ->capture_default_str()
      ->check(common::number(1, 1000, "1..1000"))
      ->group(group);
  command
      .add_option("--sampler", painting.sampler,
                  "ddim: no noise but the first; ddpm: fresh noise at each step, for 50 steps and more")
      ->capture_default_str()
      ->group(group);
  command
      .add_option("--size", painting.size,
                  "pixels: 512, or WIDTHxHEIGHT; that of the base's training if not given")
      ->group(group);
  command.add_option("--negative", painting.negative, "what the picture shall not show")->group(group);
  command
      .add_flag("--truncate", painting.truncate, "cut prompts that are longer than the text encoder reads")
      ->group(group);
}

DrawArguments::DrawArguments(CLI::App& app, const common::Machine& machine, const bool& bf16) {
  auto& command =
      *app.add_subcommand("draw", "Draw pictures by a Stable Diffusion and LoRAs, by weights or saved gates");
  command.add_option("--base", options_.base,
                     "folder of diffusers with Stable Diffusion 1 or 2; the gates' own if not given");
  command.add_option("--variant", options_.variant,
                     "fp16 reads *.fp16.safetensors; found by itself where there are no others");
  command.add_option("--experts", experts_,
                     "LoRAs, by comma: .safetensors files of diffusers or kohya, or folders of PEFT;\n"
                     "NAME=PATH gives one another name");
  command.add_option("--weights", weights_, "of the experts, by comma; 1/N each if not given (eq. 2)");
  command.add_option("--gates", options_.gates,
                     "gates.safetensors of `mole compose --prompts`, in place of weights");
  command.add_option("--mask", mask_, "experts that the gates leave out, by comma");
  command.add_option("--prompt", options_.prompt, "what to draw")->required();
  add_painting(command, options_.painting);
  command.add_option("--seed", options_.seed, "of the noise: the same seed, the same picture")
      ->capture_default_str()
      ->check(common::natural());
  command.add_option("--count", options_.count, "pictures, NAME-1.png, NAME-2.png, ..")
      ->capture_default_str()
      ->check(common::positive());
  command.add_option(
      "--noise", options_.noise,
      "safetensors whose `latents` [count, 4, height / 8, width / 8] are the noise to begin with");
  command.add_option("--out", options_.out, "PNG file")->capture_default_str();
  command.add_flag("--show-gates", options_.show_gates,
                   "say which expert each part of the picture used, and draw it in NAME-gates.png");
  command.callback([&] {
    common::expect_one_process("mole draw");
    options_.backend = machine.backend;
    options_.bf16 = bf16;
    options_.experts = common::given_list(command, "--experts", experts_);
    options_.weights = numbers_of("--weights", common::split_list(weights_));
    options_.mask = common::split_list(mask_);
    draw(options_);
  });
}

}  // namespace program
