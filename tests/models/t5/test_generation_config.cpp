// A T5's generation_config.json.

#include <string>
#include <vector>

#include <doctest/doctest.h>

#include <mole/backends/cpu.hpp>
#include <mole/compose/linear.hpp>
#include <mole/io/json.hpp>
#include <mole/io/lora_set.hpp>
#include <mole/models/generate.hpp>
#include <mole/models/t5/checkpoint.hpp>

#include "io/folder.hpp"
#include "models/t5/stored_model.hpp"
#include "testing.hpp"

using namespace mole;
using namespace io_test;
using namespace stored_model;

TEST_CASE("generation_config.json decides what a text begins and ends with, and survives a save") {
  const Folder folder;
  copy_model("t5_flan", folder / "model", [](Tensors&) {});
  const auto generation = folder / "model" / "generation_config.json";
  const auto tokens = [&](const Json& json, std::vector<std::string>* warnings = nullptr) {
    write_json(generation, json);
    return load_t5<float, Cpu>(folder / "model", warnings).config();
  };
  auto config = load_t5<float, Cpu>(folder / "model").config();
  CHECK(!config.generation);
  CHECK(config.generation_tokens() == GenerationTokens{0, 0, {1}});
  // What transformers writes of a plain T5 says what config.json says.
  std::vector<std::string> warnings;
  config = tokens({{"decoder_start_token_id", 0}, {"eos_token_id", 1}, {"pad_token_id", 0}, {"num_beams", 1}},
                  &warnings);
  CHECK(!config.generation);
  CHECK(warnings.empty());
  config = tokens({{"decoder_start_token_id", 2}, {"eos_token_id", {3, 4}}, {"pad_token_id", 5}});
  CHECK(config.generation_tokens() == GenerationTokens{2, 5, {3, 4}});
  CHECK(config.end_tokens() == std::vector<Index>{1});
  CHECK(tokens({{"bos_token_id", 6}, {"eos_token_id", 3}}).generation_tokens() ==
        GenerationTokens{6, 3, {3}});
  // Without an end token transformers goes on to the limit.
  config = tokens({{"do_sample", true}, {"num_beams", 4}}, &warnings);
  CHECK(config.generation_tokens() == GenerationTokens{0, 0, {}});
  REQUIRE(warnings.size() == 3);
  CHECK(mentions(warnings[0], {"eos_token_id"}));
  CHECK(mentions(warnings[1], {"do_sample", "GenerateOptions"}));
  CHECK(mentions(warnings[2], {"num_beams", "4"}));
  CHECK(mentions(error_of([&] {
                   tokens({{"eos_token_id", 1 << 20}});
                 }),
                 {"generation_config.json", "eos_token_id"}));
  CHECK(mentions(error_of([&] { tokens(Json::array()); }), {"generation_config.json", "object"}));

  tokens({{"decoder_start_token_id", 2}, {"eos_token_id", 3}, {"pad_token_id", 5}});
  auto model = load_t5<float, Cpu>(folder / "model");
  save_t5(folder / "saved", model, Dtype::F32);
  CHECK(load_t5<float, Cpu>(folder / "saved").config().generation_tokens() == GenerationTokens{2, 5, {3}});
  // One of another model in the same folder does not outlive it.
  auto plain = load_t5<float, Cpu>(golden("hf/t5_flan/base"));
  save_t5(folder / "saved", plain, Dtype::F32);
  CHECK(load_t5<float, Cpu>(folder / "saved").config().generation_tokens() == GenerationTokens{0, 0, {1}});
}
