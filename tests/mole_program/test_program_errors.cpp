// What the program refuses, and that it says why before it works.

#include "mole_program/program.hpp"
#include "mole_program/refusal.hpp"

#include <string>
#include <vector>

using namespace program_test;

TEST_CASE("Every refusal of compose names the thing, before anything is written") {
  const auto& shop = Workshop::get();
  write(shop / "empty.jsonl", "\n");
  write(shop / "bad.jsonl", "{\"prompt\": \"a\", \"answer\": \"b\"}\n{\"prompt\": \"a\"}\n");
  std::string longer;
  for (int i = 0; i < 120; ++i) longer += " zebra";
  write(shop / "long.jsonl", "{\"prompt\": \"" + longer + "\", \"answer\": \"b\"}\n");
  write(shop / "broken.jsonl", "{\"prompt\": \"\xC3\", \"answer\": \"b\"}\n");
  write(shop / "latin.txt", "k\xe9y {prompt} => {answer}");
  write(shop / "kept.jsonl", examples_text());
  fs::copy(shop / "base", shop / "caf\xe9", fs::copy_options::recursive);
  fs::create_directories(shop / "mpt");
  write(shop / "mpt/config.json", "{\"model_type\": \"mpt\"}");
  const auto plain = compose("refused");
  for (const auto& row :
       std::vector<Refusal>{{with(plain, "--base", "nowhere"), "is not there"},
                            {with(plain, "--base", "mpt"), "known are t5"},
                            {with(plain, "--base", "few.jsonl"), "is no model"},
                            {with(plain, "--experts", "copy,nothing"), "there is no folder"},
                            {with(plain, "--experts", "copy,copy"), "two are called copy"},
                            {with(plain, "--experts", "base"), "adapter_config.json"},
                            {with(plain, "--experts", "copy,alien"), "another base"},
                            {with(plain, "--train", "nowhere.jsonl"), "nowhere.jsonl"},
                            {with(plain, "--train", "empty.jsonl"), "no examples"},
                            {with(plain, "--train", "bad.jsonl"), "line 2"},
                            {with(plain, "--train", "long.jsonl"), "the model reads 96"},
                            {with(plain, "--train", "broken.jsonl"), "line 1: malformed JSON"},
                            {plain + Arguments{"--template", "nowhere.txt"}, "nowhere.txt"},
                            {plain + Arguments{"--template", "latin.txt"}, "byte 1 is no UTF-8"},
                            {plain + Arguments{"--template", "latin.txt", "--dry-run"}, "no UTF-8"},
                            {with(plain, "--base", "caf\xe9"), "is no UTF-8 name"},
                            {plain + Arguments{"--checkpoint", "kept.jsonl"}, "no checkpoint of a run"},
                            {plain + Arguments{"--top-k", "7"}, "--top-k 7 is more than the 2 experts"},
                            {plain + Arguments{"--backend", "tpu", "--dry-run"}, "choose cpu or cuda"},
                            {plain + Arguments{"--system", "x"}, "--system is for"},
                            {plain + Arguments{"--pooling", "flatten"}, "--pooling flatten"},
                            {plain + Arguments{"--scope", "room"}, "scope"},
                            {plain + Arguments{"--router", "random"}, "choose mole"},
                            {plain + Arguments{"--methods", "magic"}, "--methods magic"},
                            {plain + Arguments{"--batches", "few"}, "choose alike or mixed"},
                            {plain + Arguments{"--resume"}, "--resume needs --checkpoint"},
                            {plain + Arguments{"--backend", "tpu"}, "choose cpu or cuda"},
                            {plain + Arguments{"--tokenizer", "nowhere"}, "nowhere"}})
    check_refused(shop, row);
  CHECK(contents(shop / "kept.jsonl") == examples_text());
}

TEST_CASE("The other commands refuse what they cannot do") {
  const auto& shop = Workshop::get();
  const auto gates = trained_gates();
  write(shop / "asking.jsonl", "{\"prompt\": \"x\", \"gates\": \"b\"}\n");
  write(shop / "counting.jsonl", "{\"prompt\": \"x\", \"gates\": 3}\n");
  const auto weights = contents(shop / "base/model.safetensors"),
             factors = contents(shop / "copy/adapter_model.safetensors");
  write(shop / "no-gates.safetensors", contents(shop / "base/model.safetensors"));
  struct Row {
    Arguments arguments;
    std::string part;
  };
  const Arguments generate{"generate", "--gates", gates, "--prompt", "x"};
  for (const auto& row : std::vector<Row>{
           {{"generate", "--gates", gates}, "one of --prompt"},
           {generate + Arguments{"--file", "few.jsonl"}, "one of --prompt"},
           {{"generate", "--prompt", "x"}, "give --gates"},
           {{"generate", "--base", "base", "--prompt", "x", "--mask", "copy"}, "are of gates"},
           {with(generate, "--gates", "no-gates.safetensors"), "no gates file"},
           {with(generate, "--gates", "nowhere"), "nowhere"},
           {{"generate", "--gates", gates, "--file", "asking.jsonl"}, "name files by --gates NAME=FILE"},
           {{"generate", "--gates", "a=" + gates, "--file", "asking.jsonl"},
            "line 1: asks for the gates 'b'"},
           {{"generate", "--gates", "b=" + gates, "--file", "asking.jsonl", "--show-gates"},
            "one set of gates"},
           {{"generate", "--gates", gates, "--file", "counting.jsonl"}, "\"gates\" should be a text"},
           {{"generate", "--gates", "b=" + gates + ",b=" + gates, "--prompt", "x"}, "two files are named b"},
           {{"generate", "--gates", "b=" + gates + ",c", "--prompt", "x"}, "expected NAME=FILE"},
           {generate + Arguments{"--mask", "cat"}, "there is no expert cat"},
           {generate + Arguments{"--mask", "copy,hello"}, "all experts are masked"},
           {generate + Arguments{"--experts", "copy"}, "the gates know 2"},
           {generate + Arguments{"--base", "wide"}, "another base"},
           {generate + Arguments{"--beams", "2", "--sample"}, "beam"},
           {{"train-expert", "--base", "base", "--train", "few.jsonl", "--out", "x", "--task", "cook"},
            "copy, hello"},
           {{"train-expert", "--base", "base", "--train", "few.jsonl", "--out", "x", "--targets", "conv"},
            "no linear layer conv"},
           {{"train-expert", "--base", "base", "--train", "few.jsonl", "--out", "x", "--rank", "100000"},
            "or leave such layers out of the targets"},
           {{"train-expert", "--base", "base", "--train", "few.jsonl"}, "--out is missing"},
           {{"merge", "--experts", "copy,hello", "--method", "magic", "--out", "x"}, "magic is unknown"},
           {{"merge", "--experts", "copy,hello", "--method", "pems", "--out", "x"}, "give --weights"},
           {{"merge", "--experts", "copy,hello", "--method", "sum", "--weights", "1,b", "--out", "x"},
            "numbers"},
           {{"merge", "--experts", "copy,hello", "--method", "svd", "--merge-rank", "none", "--out", "x"},
            "--merge-rank"},
           {{"merge", "--experts", "copy,hello", "--method", "svd", "--out", "copy"}, "is the expert copy"},
           {{"merge", "--experts", "copy,hello", "--method", "linear", "--weights", "1e300,1", "--out", "x"},
            "not finite"},
           {{"bake", "--gates", gates, "--data", "few.jsonl", "--out", "hello"}, "is the expert hello"},
           {{"train-expert", "--base", "base", "--train", "few.jsonl", "--out", "base"}, "holds a model"},
           {{"train-expert", "--base", "base", "--train", "few.jsonl", "--out", "x", "--checkpoint",
             "base/model.safetensors"},
            "no checkpoint of a run"},
           {{"bake", "--gates", gates, "--data", "few.jsonl", "--task", "cook", "--out", "x"},
            "copy, hello"}}) {
    const auto result = shop.run(row.arguments);
    CAPTURE(row.part);
    CAPTURE(result.err);
    CHECK(result.code == 1);
    CHECK(holds(result.err, row.part));
  }
  CHECK(contents(shop / "base/model.safetensors") == weights);
  CHECK(contents(shop / "copy/adapter_model.safetensors") == factors);
  CHECK(shop.run({}).code != 0);
  CHECK(shop.run({"compose"}).code != 0);
}
