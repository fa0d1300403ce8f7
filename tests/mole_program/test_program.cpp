// The program `mole` from the outside: what its commands print and write.

#include "mole_program/program.hpp"

#include <algorithm>
#include <sstream>
#include <string>
#include <variant>
#include <vector>

#include <mole/io/gates.hpp>
#include <mole/io/peft.hpp>

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

TEST_CASE("generate answers a prompt and files of prompts, alike, with gates, masks and beams") {
  const auto& shop = Workshop::get();
  const auto gates = trained_gates();
  const Arguments use{"generate", "--gates", gates, "--max-new-tokens", "6"};
  const auto one = shop.run(use + Arguments{"--prompt", "Say 5", "--show-gates"});
  CHECK(one.code == 0);
  CHECK(has_no_remarks(one));
  CHECK(holds(one.out, "model.layers.0"));
  CHECK(!holds(one.out, "100%"));
  const auto masked = shop.run(use + Arguments{"--prompt", "Say 5", "--show-gates", "--mask", "hello"});
  CHECK(holds(masked.out, "model.layers.0  copy  100%  hello   0%"));
  const auto many = shop.run(use + Arguments{"--file", "test.jsonl"});
  CHECK(many.code == 0);
  CHECK(std::count(many.out.begin(), many.out.end(), '\n') == 2);
  const auto first = mole::detail::parse_json(many.out.substr(0, many.out.find('\n')), "line");
  CHECK(first.at("prompt") == "Say 5");
  CHECK(first.at("wanted") == "5");
  CHECK(holds(one.out, first.at("answer").get<std::string>()));
  CHECK(shop.run(use + Arguments{"--prompt", "Say 5", "--beams", "3"}).code == 0);
  const Arguments draw{"--prompt", "Say 5", "--sample", "--draw-temperature", "3", "--top-p", "0.9"};
  CHECK(shop.run(use + draw + Arguments{"--seed", "4"}).out ==
        shop.run(use + draw + Arguments{"--seed", "4"}).out);
  CHECK(shop.run(use + draw + Arguments{"--seed", "4"}).out !=
        shop.run(use + draw + Arguments{"--seed", "5"}).out);
  const auto drawn = shop.run(use + Arguments{"--prompt", "Say 5", "--out", "one"}, "/nonexistent");
  CHECK(drawn.code == 0);
  CHECK(contents(shop / "one/gates.csv").starts_with("task,scope,expert,gate\nSay 5,model.layers.0,copy,"));
  const auto base = shop.run({"generate", "--base", "base", "--prompt", "Say 5", "--max-new-tokens", "6"});
  CHECK(base.code == 0);
}

TEST_CASE("generate --sample draws as generation_config.json says, but for what the options say") {
  const auto& shop = Workshop::get();
  write_llama(shop / "drawing");
  // The likeliest token alone is kept: a draw is greedy.
  mole::write_json(shop / "drawing/generation_config.json",
                   {{"do_sample", true}, {"top_k", 1}, {"eos_token_id", 2}});
  const Arguments use{"generate", "--base", "drawing", "--prompt", "Say 5", "--max-new-tokens", "12"};
  const auto greedy = shop.run(use).out;
  CHECK(!greedy.empty());
  CHECK(shop.run(use + Arguments{"--sample", "--draw-temperature", "3"}).out == greedy);
  CHECK(shop.run(use + Arguments{"--sample", "--draw-temperature", "3", "--top-k", "0"}).out != greedy);
  // No token may follow itself, nor come again.
  CHECK(shop.run(use + Arguments{"--no-repeat-ngram", "1"}).code == 0);
}

TEST_CASE("Lines of a file are answered by the gates that they name, as each of these would alone") {
  const auto& shop = Workshop::get();
  const auto first = trained_gates();
  REQUIRE(shop.run(compose("others", "9") + Arguments{"--only-mole", "--seed", "5"}, "/nonexistent").code ==
          0);
  const std::string second = "others/gates.safetensors";
  write(shop / "asked.jsonl",
        "{\"prompt\": \"Say 5\"}\n{\"prompt\": \"Say 7\", \"gates\": \"two\"}\n"
        "{\"prompt\": \"Say 3\", \"gates\": \"one\"}\n{\"prompt\": \"Say 5\", \"gates\": \"two\"}\n");
  write(
      shop / "plain.jsonl",
      "{\"prompt\": \"Say 5\"}\n{\"prompt\": \"Say 7\"}\n{\"prompt\": \"Say 3\"}\n{\"prompt\": \"Say 5\"}\n");
  const auto lines_of = [&](const std::string& gates, const std::string& file) {
    const auto result = shop.run({"generate", "--gates", gates, "--file", file, "--max-new-tokens", "6"});
    CAPTURE(result.err);
    CHECK(result.code == 0);
    std::vector<std::string> lines;
    std::istringstream text(result.out);
    for (std::string line; std::getline(text, line);) lines.push_back(line);
    REQUIRE(lines.size() == 4);
    return lines;
  };
  const auto mixed = lines_of("one=" + first + ",two=" + second, "asked.jsonl");
  const auto one = lines_of(first, "plain.jsonl"), two = lines_of(second, "plain.jsonl");
  CHECK(one != two);
  CHECK(mixed == std::vector<std::string>{one[0], two[1], one[2], two[3]});
}

TEST_CASE("Gates find their base and experts from any folder, or where they are told to") {
  const auto& shop = Workshop::get();
  REQUIRE(shop.run(compose("moved", "1") + Arguments{"--only-mole"}, "/nonexistent").code == 0);
  fs::create_directories(shop / "elsewhere/deep");
  fs::copy_file(shop / "moved/gates.safetensors", shop / "elsewhere/deep/gates.safetensors");
  const Arguments use{"generate",         "--gates", "elsewhere/deep/gates.safetensors", "--prompt", "Say 5",
                      "--max-new-tokens", "2"};
  const auto lost = shop.run(use);
  CHECK(lost.code == 1);
  CHECK(holds(lost.err, "is not there"));
  const auto found = shop.run(use + Arguments{"--base", "base", "--experts", "copy,hello"});
  CHECK(found.code == 0);
  CHECK(has_no_remarks(found));
  const auto swapped = shop.run(use + Arguments{"--base", "base", "--experts", "copy=hello,hello=copy"});
  CHECK(swapped.code == 1);
  CHECK(holds(swapped.err, "digest"));
  write_llama(shop / "twin", 16, 9);
  const auto twin = shop.run(use + Arguments{"--base", "twin", "--experts", "copy,hello"});
  CHECK(twin.code == 0);
  CHECK(holds(twin.err, "another base"));
}

TEST_CASE("Gates remember their template, and another is warned of") {
  const auto& shop = Workshop::get();
  REQUIRE(shop.run(compose("chat", "1") +
                       Arguments{"--only-mole", "--template", "chatml", "--system", "Be brief."},
                   "/nonexistent")
              .code == 0);
  const Arguments use{"generate",         "--gates", "chat/gates.safetensors", "--prompt", "Say 5",
                      "--max-new-tokens", "2"};
  CHECK(has_no_remarks(shop.run(use)));
  CHECK(has_no_remarks(shop.run(use + Arguments{"--template", "chatml", "--system", "Be brief."})));
  CHECK(holds(shop.run(use + Arguments{"--template", "none"}).err, "trained with the template chatml"));
  CHECK(holds(shop.run(use + Arguments{"--template", "chatml"}).err, "Be brief."));
  CHECK(holds(shop.run({"inspect", "chat/gates.safetensors"}).out, "chatml"));
}

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
