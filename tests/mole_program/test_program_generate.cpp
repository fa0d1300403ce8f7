// The command `generate`: its answers, and where it finds what its gates were trained with.

#include "mole_program/program.hpp"

#include <algorithm>
#include <sstream>
#include <string>
#include <vector>

#include <mole/io/json.hpp>

using namespace program_test;

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

TEST_CASE("Penalties of generation_config.json hold without --sample, too") {
  const auto& shop = Workshop::get();
  write_llama(shop / "repeating");
  const Arguments use{"generate",       "--base",           "repeating", "--prompt",
                      "Say 5, 5, 5, 5", "--max-new-tokens", "24"};
  const auto plain = shop.run(use).out, held = shop.run(use + Arguments{"--repetition-penalty", "50"}).out;
  CHECK(plain != held);
  mole::write_json(shop / "repeating/generation_config.json",
                   {{"repetition_penalty", 50.0}, {"eos_token_id", 2}});
  CHECK(shop.run(use).out == held);
  CHECK(shop.run(use + Arguments{"--repetition-penalty", "1"}).out == plain);
  mole::write_json(shop / "repeating/generation_config.json",
                   {{"repetition_penalty", -1.0}, {"eos_token_id", 2}});
  CHECK(holds(shop.run(use).err, "generation_config.json"));
}

TEST_CASE("An answer that ends where the model reads no further says so") {
  const auto& shop = Workshop::get();
  std::string longer;
  for (int i = 0; i < 10; ++i) longer += " zebra";
  write(shop / "longer.jsonl", "{\"prompt\": \"" + longer + "\"}\n");
  // With an end that is never drawn.
  write_llama(shop / "endless");
  mole::write_json(shop / "endless/generation_config.json", {{"eos_token_id", 1}});
  const Arguments use{"generate", "--base", "endless", "--max-new-tokens"};
  const auto cut = shop.run(use + Arguments{"500", "--prompt", longer});
  CHECK(holds(cut.err, "note: the answer ends where it does as the model reads 96 tokens"));
  CHECK(holds(shop.run(use + Arguments{"500", "--file", "longer.jsonl"}).out, "\"cut\":true"));
  CHECK(!holds(shop.run(use + Arguments{"2", "--file", "longer.jsonl"}).out, "cut"));
  CHECK(!holds(shop.run(use + Arguments{"2", "--prompt", longer}).err, "the model reads"));
}

TEST_CASE("Gates remember a tokenizer that is not the base's own") {
  const auto& shop = Workshop::get();
  write_llama(shop / "mute");
  fs::rename(shop / "mute/tokenizer.json", shop / "words.json");
  REQUIRE(shop.run(with(compose("spelled", "1"), "--base", "mute") +
                       Arguments{"--only-mole", "--tokenizer", "words.json"},
                   "/nonexistent")
              .code == 0);
  const Arguments use{"generate",         "--gates", "spelled/gates.safetensors", "--prompt", "Say 5",
                      "--max-new-tokens", "2"};
  CHECK(has_no_remarks(shop.run(use)));
  fs::rename(shop / "words.json", shop / "words2.json");
  CHECK(holds(shop.run(use).err, "give --tokenizer"));
  CHECK(has_no_remarks(shop.run(use + Arguments{"--tokenizer", "words2.json"})));
}

TEST_CASE("Lines of a file are answered by the gates that they name, as each of these would alone") {
  const auto& shop = Workshop::get();
  const auto first = trained_gates();
  // Gates far from the first ones, so that they answer otherwise.
  REQUIRE(
      shop.run(compose("others", "9") + Arguments{"--only-mole", "--seed", "5", "--lr", "1"}, "/nonexistent")
          .code == 0);
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
