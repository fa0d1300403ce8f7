// Bases of GGUF and bitsandbytes, as numbers and as they are packed.

#include "mole_program/program.hpp"

#include <string>

#include <mole/io/safetensors.hpp>

using namespace program_test;

TEST_CASE("A GGUF file answers as the folder of the same weights does, with the adapters trained there") {
  const auto& shop = Workshop::get();
  write_llama_gguf(shop / "base.gguf");
  const auto gates = trained_gates();
  const auto answers = [&](const std::string& base) {
    const auto result = shop.run({"generate", "--gates", gates, "--base", base, "--tokenizer", "base",
                                  "--file", "test.jsonl", "--max-new-tokens", "8", "--show-gates"});
    CAPTURE(result.err);
    CHECK(result.code == 0);
    return result.out;
  };
  CHECK(answers("base.gguf") == answers("base"));
  const auto said = shop.run({"inspect", "base.gguf"});
  CHECK(said.code == 0);
  for (const char* part : {"llama", "blk.*.attn_q.weight", "holds no tokenizer"})
    CHECK(holds(said.out, part));
}

TEST_CASE("With --quantised a GGUF file stays as it is, trains the same gates and gives the same answers") {
  const auto& shop = Workshop::get();
  write_llama_gguf(shop / "halves.gguf", 16, 1, true);
  const Arguments base{"--base", "halves.gguf", "--tokenizer", "base"};
  const auto trained = [&](const std::string& out, const Arguments& more) {
    auto arguments = with(compose(out), "--base", "halves.gguf") + Arguments{"--tokenizer", "base"} + more;
    const auto result = shop.run(arguments, "/nonexistent");
    CAPTURE(result.err);
    REQUIRE(result.code == 0);
    return result.out;
  };
  trained("numbers", {"--only-mole"});
  const auto said = trained("packed", {"--quantised"});
  CHECK(holds(said, "the base alone is compared with"));
  const auto table = contents(shop / "packed/table.csv");
  check_in_order(table, {"\nbase,copy,", "\nMoLE block,copy,"});
  CHECK(!holds(table, "\nsum"));
  const auto gates = [&](const std::string& out) {
    return mole::SafetensorsFile(shop / (out + "/gates.safetensors"))
        .read<float>("model.layers.0.gate.weight");
  };
  const auto plain = gates("numbers"), packed = gates("packed");
  REQUIRE(plain.size() == packed.size());
  for (std::size_t i = 0; i < plain.size(); ++i) CHECK(packed[i] == doctest::Approx(plain[i]).epsilon(1e-3));
  const auto answers = [&](const Arguments& more) {
    const auto result = shop.run(Arguments{"generate", "--gates", "packed/gates.safetensors", "--file",
                                           "test.jsonl", "--max-new-tokens", "8", "--show-gates"} +
                                 base + more);
    CAPTURE(result.err);
    CHECK(result.code == 0);
    return result.out;
  };
  CHECK(answers({"--quantised"}) == answers({}));
  CHECK(shop.run(Arguments{"train-expert", "--train", "few.jsonl", "--steps", "2", "--batch", "4", "--out",
                           "packed-expert", "--quantised"} +
                 base)
            .code == 0);
}

TEST_CASE("inspect and --dry-run say what --quantised spares, and it is refused where it cannot be") {
  const auto& shop = Workshop::get();
  write_llama_gguf(shop / "halves.gguf", 16, 1, true);
  const auto said = shop.run({"inspect", "halves.gguf"});
  CHECK(holds(said.out, "in memory as float    "));
  CHECK(holds(said.out, "with --quantised      "));
  CHECK(!holds(shop.run({"inspect", "base"}).out, "--quantised"));
  const auto dry = [&](const Arguments& more) {
    return shop
        .run(with(compose("never"), "--base", "halves.gguf") +
             Arguments{"--tokenizer", "base", "--dry-run", "--only-mole"} + more)
        .out;
  };
  const auto weights = [](const std::string& text) {
    const auto at = text.find("weights ");
    REQUIRE(at != text.npos);
    return std::stod(text.substr(at + 8));
  };
  CHECK(weights(dry({"--quantised"})) < 0.55 * weights(dry({})));
  const auto refused = shop.run(compose("never") + Arguments{"--quantised", "--methods", "ties"});
  CHECK(refused.code == 1);
  CHECK(holds(refused.err, "--methods"));
  const auto plain =
      shop.run({"generate", "--base", "base", "--prompt", "Say 5", "--max-new-tokens", "2", "--quantised"});
  CHECK(plain.code == 0);
  CHECK(holds(plain.err, "not quantised"));
}

TEST_CASE("inspect shows weights of bitsandbytes with their true shapes") {
  const auto said = Workshop::get().run({"inspect", std::string(MOLE_TEST_DATA) + "/quant/llama_nf4_double"});
  for (const char* part : {"NF4", "[72, 40]", "with --quantised"}) CHECK(holds(said.out, part));
  CHECK(!holds(said.out, "absmax"));
}
