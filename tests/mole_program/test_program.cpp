// The program `mole` from the outside: help, `compose` and `inspect`.

#include "mole_program/program.hpp"

#include <algorithm>
#include <cstdlib>
#include <string>
#include <variant>
#include <vector>

#include <mole/io/gates.hpp>
#include <mole/io/safetensors.hpp>

using namespace program_test;

TEST_CASE("Help of the program and of each command names the main options") {
  check_help(Workshop::get(),
             {{{}, {"compose", "generate", "train-expert", "merge", "bake", "inspect", "JSONL", "--backend"}},
              {{"compose"},
               {"--base", "--experts", "--train", "--test", "--template", "--scope", "--router", "--methods",
                "--dry-run", "--batches", "--checkpoint", "--resume", "standardised", "--prompts",
                "--pictures", "--pictures-weight"}},
              {{"generate"},
               {"--gates", "--prompt", "--file", "--mask", "--beams", "--sample", "--no-repeat-ngram",
                "--show-gates"}},
              {{"train-expert"}, {"--rank", "--targets", "--task", "--checkpoint"}},
              {{"merge"}, {"--method", "--experts", "--weights"}},
              {{"bake"}, {"--gates", "--task", "--data"}},
              {{"inspect"}, {"path"}}});
}

TEST_CASE("What cannot be printed is an error") {
  const auto& shop = Workshop::get();
  const auto error = shop / "full.txt";
  const std::string line = std::string(MOLE_PROGRAM) + " --help > /dev/full 2> '" + error + "'";
  CHECK(std::system(line.c_str()) != 0);
  CHECK(holds(contents(error), "standard output cannot be written to"));
}

TEST_CASE("compose writes gates, a table with a row a method, and pictures") {
  const auto& shop = Workshop::get();
  const auto result = shop.run(compose("out") + Arguments{"--methods", "ties_svd,dare_linear,pems"});
  CAPTURE(result.err);
  CHECK(result.code == 0);
  CHECK(has_no_remarks(result));
  CHECK(holds(result.out, "base     base: llama"));
  CHECK(holds(result.out, "Exact match in per cent"));
  CHECK(holds(result.out, "ROUGE-L"));
  const auto table = contents(shop / "out/table.csv");
  CHECK(table.starts_with("method,task,exact_match,token_f1,rouge_l,bleu,loss\nbase,copy,"));
  check_in_order(table, {"\nbase,copy,", "\nbase,hello,", "\nexpert copy,copy,", "\nexpert hello,copy,",
                         "\nsum (eq. 1),copy,", "\nmean (eq. 2),copy,", "\nties_svd,", "\ndare_linear,",
                         "\npems,", "\nMoLE block,copy,", "\nMoLE block,hello,"});
  CHECK(contents(shop / "out/gates.csv").starts_with("task,scope,expert,gate\ncopy,model.layers.0,copy,"));
  CHECK(contents(shop / "out/entropy.csv").starts_with("step,model.layers.0,model.layers.1\n1,0.69"));
  CHECK(contents(shop / "out/loss.csv").starts_with("step,total,task,balance"));
  CHECK(contents(shop / "out/gate_statistics.csv").starts_with("scope,stream,expert,load"));
  const auto gates = mole::read_gates(shop / "out/gates.safetensors");
  CHECK(gates.experts == std::vector<std::string>{"copy", "hello"});
  CHECK(std::get<mole::GateOptions>(gates.options).input_scale == mole::InputScale::standardised);
  CHECK(gates.notes.at("base") == "../base");
  if (std::system("gnuplot --version >/dev/null 2>&1") == 0)
    for (const char* picture : {"gates", "load", "entropy", "loss"})
      CHECK(contents(shop / ("out/" + std::string(picture) + ".png")).starts_with("\x89PNG"));
}

TEST_CASE("Experts do their own task better than the base, and the table says so") {
  const auto& shop = Workshop::get();
  const auto result = shop.run({"train-expert", "--base", "base", "--train", "few.jsonl", "--task", "hello",
                                "--test", "few.jsonl", "--rank", "4", "--steps", "150", "--batch", "11",
                                "--lr", "0.02", "--out", "learned"});
  CAPTURE(result.err);
  REQUIRE(result.code == 0);
  CHECK(holds(result.out, "learned"));
  const auto judged =
      shop.run(with(with(compose("learned-out", "1"), "--experts", "learned,copy"), "--test", "few.jsonl"),
               "/nonexistent");
  REQUIRE(judged.code == 0);
  const auto table = contents(shop / "learned-out/table.csv");
  const auto loss = [&](const std::string& row) {
    const auto at = table.find("\n" + row + ",");
    REQUIRE(at != table.npos);
    const auto line = table.substr(at + 1, table.find('\n', at + 1) - at - 1);
    return std::stod(line.substr(line.rfind(',') + 1));
  };
  CHECK(loss("expert learned,hello") < 0.7 * loss("base,hello"));
}

TEST_CASE("--no-single-experts leaves out the rows of single experts alone") {
  const auto& shop = Workshop::get();
  const auto result = shop.run(compose("no-singles", "1") + Arguments{"--no-single-experts"}, "/nonexistent");
  CAPTURE(result.err);
  REQUIRE(result.code == 0);
  const auto table = contents(shop / "no-singles/table.csv");
  check_in_order(table,
                 {"\nbase,copy,", "\nsum (eq. 1),copy,", "\nmean (eq. 2),copy,", "\nMoLE block,copy,"});
  CHECK_FALSE(holds(table, "\nexpert "));
}

TEST_CASE("Without --test a tenth is set aside, and compose says so") {
  const auto& shop = Workshop::get();
  auto arguments = compose("tenth", "1") + Arguments{"--only-mole"};
  arguments.erase(std::find(arguments.begin(), arguments.end(), "--test"),
                  std::find(arguments.begin(), arguments.end(), "--test") + 2);
  const auto result = shop.run(arguments, "/nonexistent");
  CHECK(result.code == 0);
  CHECK(holds(result.out, "20 to train on"));
  CHECK(holds(result.out, "2 to test by"));
  CHECK(holds(result.out, "a tenth of few.jsonl was set aside"));
}

TEST_CASE("--dry-run estimates memory and time and writes nothing") {
  const auto& shop = Workshop::get();
  const auto result = shop.run(compose("never") + Arguments{"--dry-run"});
  CHECK(result.code == 0);
  for (const char* part : {"base     base: llama", "experts  copy, hello", "memory", "time", "a step"})
    CHECK(holds(result.out, part));
  CHECK(!fs::exists(shop / "never"));
}

TEST_CASE("Every router, scope and pooling trains, and its gates generate") {
  const auto& shop = Workshop::get();
  for (const auto& options :
       std::vector<Arguments>{{"--scope", "matrix"},
                              {"--scope", "layer", "--pooling", "token"},
                              {"--scope", "network", "--input", "hidden"},
                              {"--input-scale", "unit"},
                              {"--input-scale", "common", "--pooling", "token"},
                              {"--top-k", "1"},
                              {"--router", "hidden"},
                              {"--router", "arrow"},
                              {"--router", "xlora"},
                              {"--router", "xlora", "--pooling", "token", "--scope", "matrix"},
                              {"--frugal"}}) {
    std::string named;
    for (const auto& option : options) named += option + " ";
    CAPTURE(named);
    const auto trained =
        shop.run(compose("policy", "2") + Arguments{"--only-mole"} + options, "/nonexistent");
    CAPTURE(trained.err);
    CHECK(trained.code == 0);
    CHECK(has_no_remarks(trained));
    const auto used = shop.run({"generate", "--gates", "policy/gates.safetensors", "--prompt", "Say 7",
                                "--max-new-tokens", "4", "--show-gates"});
    CAPTURE(used.err);
    CHECK(used.code == 0);
    CHECK(has_no_remarks(used));
    CHECK(holds(used.out, "%"));
  }
}

TEST_CASE("--frugal trains to the same gates") {
  const auto& shop = Workshop::get();
  const auto gates = [&](const Arguments& more) {
    REQUIRE(shop.run(compose("frugal", "3") + Arguments{"--only-mole"} + more, "/nonexistent").code == 0);
    return mole::SafetensorsFile(shop / "frugal/gates.safetensors").read<float>("model.layers.0.gate.weight");
  };
  const auto plain = gates({}), frugal = gates({"--frugal"});
  REQUIRE(plain.size() == frugal.size());
  for (std::size_t i = 0; i < plain.size(); ++i) CHECK(frugal[i] == doctest::Approx(plain[i]).epsilon(1e-4));
}

TEST_CASE("inspect says what lies at a path, and what is wrong with it") {
  const auto& shop = Workshop::get();
  const auto said = [&](const std::string& path) {
    const auto result = shop.run({"inspect", path});
    CAPTURE(result.err);
    CHECK(result.code == 0);
    return result.out;
  };
  const auto model = said("base");
  for (const char* part : {"decoder-only", "llama", "knows chatml", "96 tokens", "self_attn.q_proj", "F32"}) {
    CAPTURE(part);
    CHECK(holds(model, part));
  }
  const auto adapter = said("copy");
  for (const char* part : {"PEFT LoRA adapter", "CAUSAL_LM", "digest", "14", "BF16"})
    CHECK(holds(adapter, part));
  const auto gates = said(trained_gates());
  for (const char* part :
       {"router mole", "standardised", "copy", "hello", "with these digests", "gate.weight"})
    CHECK(holds(gates, part));
  CHECK(holds(said("copy/adapter_model.safetensors"), "tensors of a LoRA"));
  CHECK(holds(said("base/model.safetensors"), "safetensors file"));
  fs::create_directories(shop / "loose");
  fs::copy_file(shop / "copy/adapter_model.safetensors", shop / "loose/lora.safetensors");
  CHECK(holds(said("loose/lora.safetensors"), "no adapter_config.json"));
  write_llama(shop / "no-tokenizer");
  fs::remove(shop / "no-tokenizer/tokenizer.json");
  CHECK(holds(said("no-tokenizer"), "holds no tokenizer"));
  CHECK(!holds(model, "wrong"));
  write_llama(shop / "endless-numbers");
  auto bytes = contents(shop / "endless-numbers/model.safetensors");
  bytes.replace(bytes.size() - 4, 4, std::string("\0\0\xc0\x7f", 4));
  write(shop / "endless-numbers/model.safetensors", bytes);
  CHECK(holds(said("endless-numbers"), "holds NaN or infinite values"));
  const auto tiny = said(std::string(MOLE_TEST_DATA) + "/golden/lm/tiny.gguf");
  for (const char* part : {"a GGUF file", "there is no tensor 'token_embd.weight'", "Q4_K"}) {
    CAPTURE(part);
    CHECK(holds(tiny, part));
  }
  // Two blocks where the configuration says one: nine tensors a block have no place.
  write_llama(shop / "other-config");
  auto config = mole::read_json(shop / "other-config/config.json");
  config["num_hidden_layers"] = 1;
  config["vocab_size"] = 611;
  mole::write_json(shop / "other-config/config.json", config);
  const auto other = said("other-config");
  for (const char* part :
       {"has no place in a llama of this config.json", "where config.json says [611, 16]"}) {
    CAPTURE(part);
    CHECK(holds(other, part));
  }
  for (const char* path : {"nowhere", "few.jsonl", "."}) {
    CAPTURE(path);
    const auto result = shop.run({"inspect", path});
    CHECK(result.code == 1);
    CHECK(result.err.starts_with("mole: "));
  }
}
