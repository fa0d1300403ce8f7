// The commands that write adapters: `merge`, `bake` and `train-expert`.

#include "mole_program/program.hpp"

#include <string>
#include <vector>

#include <mole/io/peft.hpp>

using namespace program_test;

TEST_CASE("merge and bake write adapters that load again, and bake says what it loses") {
  const auto& shop = Workshop::get();
  for (const std::string method : {"sum", "mean", "ties", "ties_svd", "svd", "dare_linear"}) {
    CAPTURE(method);
    const auto result =
        shop.run({"merge", "--experts", "copy,hello", "--method", method, "--out", "merged-" + method});
    CAPTURE(result.err);
    CHECK(result.code == 0);
    const auto adapter = mole::load_adapter(shop / ("merged-" + method));
    CHECK(adapter.entries.size() == 14);
    CHECK(adapter.config.task_type == "CAUSAL_LM");
    CHECK(adapter.warnings.empty());
  }
  CHECK(shop.run({"merge", "--experts", "copy,hello", "--method", "linear", "--weights", "0.3,0.7", "--out",
                  "own"})
            .code == 0);
  const auto baked = shop.run(
      {"bake", "--gates", trained_gates(), "--data", "few.jsonl", "--task", "copy", "--out", "baked"});
  CAPTURE(baked.err);
  CHECK(baked.code == 0);
  CHECK(holds(baked.out, "gates"));
  CHECK(holds(baked.out, "baked"));
  const auto adapter = mole::load_adapter(shop / "baked");
  CHECK(adapter.entries.at("model.layers.0.self_attn.q_proj").rank == 4);
  CHECK(contents(shop / "baked/baked.csv").starts_with("method,task,exact_match"));
}

TEST_CASE("An adapter baked of gates that are one expert alone does what the expert does") {
  const auto& shop = Workshop::get();
  // With one expert every gate is 1.
  REQUIRE(
      shop.run(with(compose("single", "1"), "--experts", "copy") + Arguments{"--only-mole"}, "/nonexistent")
          .code == 0);
  REQUIRE(
      shop.run({"bake", "--gates", "single/gates.safetensors", "--data", "few.jsonl", "--out", "baked-one"})
          .code == 0);
  const auto table = contents(shop / "baked-one/baked.csv");
  const auto row = [&](const std::string& name) {
    const auto at = table.find("\n" + name + ",copy,");
    REQUIRE(at != table.npos);
    const auto begin = at + name.size() + 2;
    return table.substr(begin, table.find('\n', begin) - begin);
  };
  const auto loss = [&](const std::string& name) {
    return std::stod(row(name).substr(row(name).rfind(',') + 1));
  };
  CHECK(loss("baked") == doctest::Approx(loss("gates")).epsilon(1e-5));
}

TEST_CASE("A model that names no end of text is warned of before it trains") {
  const auto& shop = Workshop::get();
  write_llama(shop / "no-end");
  auto config = mole::read_json(shop / "no-end/config.json");
  config["eos_token_id"] = nullptr;
  mole::write_json(shop / "no-end/config.json", config);
  const auto result = shop.run(
      {"train-expert", "--base", "no-end", "--train", "few.jsonl", "--steps", "1", "--out", "no-end-expert"});
  CHECK(result.code == 0);
  CHECK(holds(result.err, "names no end of text"));
}

TEST_CASE("train-expert writes what PEFT reads, for the layers that are named") {
  const auto& shop = Workshop::get();
  const auto all = mole::load_adapter(shop / "copy");
  CHECK(all.entries.size() == 14);
  CHECK(all.config.rank == 2);
  CHECK(all.config.task_type == "CAUSAL_LM");
  CHECK(all.config.target_modules == std::vector<std::string>{"down_proj", "gate_proj", "k_proj", "o_proj",
                                                              "q_proj", "up_proj", "v_proj"});
  CHECK(all.warnings.empty());
  REQUIRE(shop.run({"train-expert", "--base", "base", "--train", "few.jsonl", "--rank", "3", "--alpha", "6",
                    "--targets", "q,v", "--steps", "1", "--out", "qv"})
              .code == 0);
  const auto qv = mole::load_adapter(shop / "qv");
  CHECK(qv.entries.size() == 4);
  CHECK(qv.config.target_modules == std::vector<std::string>{"q_proj", "v_proj"});
  CHECK(qv.entries.begin()->second.scale == 2);
  REQUIRE(shop.run({"train-expert", "--base", "base", "--train", "few.jsonl", "--rank", "2", "--targets",
                    "layers.1.mlp.up_proj", "--steps", "1", "--out", "one-layer"})
              .code == 0);
  CHECK(mole::load_adapter(shop / "one-layer").entries.size() == 1);
}
