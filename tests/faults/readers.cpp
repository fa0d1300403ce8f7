#include "readers.hpp"

#include <filesystem>
#include <memory>

#include <mole/backends/cpu.hpp>
#include <mole/io/checkpoint.hpp>
#include <mole/models/causal/load.hpp>
#include <mole/models/clip/checkpoint.hpp>
#include <mole/models/diffusion/lora_file.hpp>
#include <mole/models/unet/config_file.hpp>
#include <mole/models/unet/model.hpp>
#ifdef MOLE_FAULTS_TEXT
#  include <mole/text/load.hpp>
#endif

std::vector<std::pair<std::string, std::function<void()>>> other_readers() {
  using mole::Cpu;
  const std::filesystem::path data = MOLE_TEST_DATA;
  std::vector<std::pair<std::string, std::function<void()>>> all;
  const auto add = [&](const std::string& name, std::function<void()> read) {
    all.emplace_back(name, std::move(read));
  };
  for (const bool packed : {false, true}) {
    const std::string how = packed ? " packed" : "";
    for (const char* model : {"golden/lm/llama.gguf", "golden/lm/llama/base", "quant/llama_nf4_double"})
      add(model + how, [path = data / model, packed] {
        std::vector<std::string> warnings;
        mole::load_causal<float, Cpu>(path, &warnings, {.keep_packed = packed});
      });
  }
  add("OPT", [path = data / "golden/lm/opt_pre/base"] { mole::load_causal<float, Cpu>(path); });
  add("CLIP", [path = data / "golden/vl/clip/base"] { mole::load_clip<float, Cpu>(path); });
  add("shards", [path = data / "cases/sharded"] { const mole::Checkpoint checkpoint(path); });
  const auto sd = data / "golden/vl/sd1";
  const auto unet = std::make_shared<const mole::SlotCatalogue>(mole::slot_catalogue(
      mole::UNet<float, Cpu>(mole::read_unet_config(sd / "base/unet/config.json")).layers().table));
  const auto text = std::make_shared<const mole::SlotCatalogue>(mole::slot_catalogue(
      mole::ClipText<float, Cpu>(mole::read_clip_text_config(sd / "base/text_encoder/config.json"))
          .layers()
          .table));
  for (const char* lora : {"lora_kohya", "lora_diffusers", "lora_peft"})
    add(lora, [path = sd / lora, unet, text] { mole::load_diffusion_lora(path, *unet, *text); });
#ifdef MOLE_FAULTS_TEXT
  for (const char* name : {"llama3", "clip"})
    add(std::string(name) + " tokenizer",
        [path = data / ("golden/lm/tokenizers/" + std::string(name) + ".tokenizer.json")] {
          mole::load_tokenizer(path);
        });
#endif
  return all;
}
