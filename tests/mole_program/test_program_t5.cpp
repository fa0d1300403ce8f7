// The commands on a T5, whose encoder reads the prompt.

#include "mole_program/program.hpp"

#include <string>

#include <mole/io/peft.hpp>

using namespace program_test;

namespace {

void try_all(const std::string& base) {
  const auto& shop = Workshop::get();
  for (const std::string task : {"copy", "hello"}) {
    const auto result = shop.run({"train-expert", "--base", base, "--train", "few.jsonl", "--task", task,
                                  "--rank", "2", "--steps", "3", "--batch", "4", "--out", base + "-" + task});
    CAPTURE(result.err);
    REQUIRE(result.code == 0);
  }
  CHECK(mole::load_adapter(shop / (base + "-copy")).config.task_type == "SEQ_2_SEQ_LM");
  const auto composed = shop.run(
      with(with(compose(base + "-out", "3"), "--base", base), "--experts", base + "-copy," + base + "-hello"),
      "/nonexistent");
  CAPTURE(composed.err);
  REQUIRE(composed.code == 0);
  CHECK(contents(shop / (base + "-out/gates.csv"))
            .starts_with("task,scope,expert,gate\ncopy,encoder.block.0,"));
  const Arguments use{"generate", "--gates", base + "-out/gates.safetensors", "--max-new-tokens", "3"};
  const auto one = shop.run(use + Arguments{"--prompt", "Say 5", "--show-gates"});
  CHECK(one.code == 0);
  CHECK(holds(one.out, "decoder.block.0"));
  CHECK(shop.run(use + Arguments{"--file", "few.jsonl", "--beams", "2"}).code == 0);
  const auto drawn = shop.run(use + Arguments{"--prompt", "Say 5", "--sample"});
  CHECK(drawn.code == 1);
  CHECK(holds(drawn.err, "greedily or by beams"));
  CHECK(shop.run({"bake", "--gates", base + "-out/gates.safetensors", "--data", "few.jsonl", "--out",
                  base + "-baked"})
            .code == 0);
  CHECK(holds(shop.run({"inspect", base}).out, "encoder-decoder"));
}

}  // namespace

TEST_CASE("Every command works on a T5 with a tokenizer.json") {
  write_t5(Workshop::get() / "t5", false);
  try_all("t5");
}

TEST_CASE("An mT5 gives what the T5 of its tensors gives") {
  const auto& shop = Workshop::get();
  const auto answers = [&](const std::string& type) {
    const auto base = "twin-" + type;
    write_t5(shop / base, false, type);
    CHECK(holds(shop.run({"inspect", base}).out, "encoder-decoder"));
    const auto result =
        shop.run({"generate", "--base", base, "--file", "few.jsonl", "--max-new-tokens", "4"});
    CAPTURE(result.err);
    CHECK(result.code == 0);
    return result.out;
  };
  const auto t5 = answers("t5");
  CHECK(!t5.empty());
  CHECK(answers("mt5") == t5);
}

TEST_CASE("A T5 whose generation_config.json asks for penalties answers without them, and says so") {
  const auto& shop = Workshop::get();
  write_t5(shop / "penalised", false);
  const Arguments use{"generate", "--base", "penalised", "--prompt", "Say 5", "--max-new-tokens", "4"};
  const auto before = shop.run(use);
  mole::write_json(shop / "penalised/generation_config.json",
                   {{"no_repeat_ngram_size", 3}, {"eos_token_id", 1}});
  const auto after = shop.run(use);
  CHECK(after.code == 0);
  CHECK(after.out == before.out);
  CHECK(holds(after.err, "asks for penalties"));
}

TEST_CASE(
    "A T5 with a SentencePiece model works where the build has its library, else it is said what is missing") {
  const auto& shop = Workshop::get();
  write_t5(shop / "t5-spiece", true);
  if (MOLE_PROGRAM_SENTENCEPIECE) {
    try_all("t5-spiece");
    return;
  }
  const auto result = shop.run({"generate", "--base", "t5-spiece", "--prompt", "x"});
  CHECK(result.code == 1);
  CHECK(holds(result.err, "libsentencepiece"));
}
