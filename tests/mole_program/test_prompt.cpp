#include "mole/prompt.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <fstream>

#include <mole/core/error.hpp>
#include <mole/text/load.hpp>

#include "examples_common/folder.hpp"
#include "mole_program/tiny_models.hpp"

using namespace program;
using program_test::golden_tokenizer;

namespace {

using Tokens = std::vector<mole::Index>;

ModelFacts facts(std::vector<mole::Index> ends = {2}, mole::Index context = 0) {
  return {"llama", false, 800, context, std::move(ends)};
}

TextCoder coder(const PromptTemplate& form, const std::string& tokenizer = "qwen2", ModelFacts of = facts()) {
  return {mole::load_tokenizer(golden_tokenizer(tokenizer + ".tokenizer.json")), form, std::move(of)};
}

TextExample example(const std::string& prompt, const std::string& answer) {
  return {.prompt = prompt, .answer = answer, .where = "here:"};
}

std::string spelled(const TextCoder& coder, const Tokens& tokens) {
  return coder.tokenizer().decode(tokens, true);
}

}  // namespace

TEST_CASE("Without a template prompt and answer are tokenised apart, and the answer ends the text") {
  const auto plain = coder(prompt_template("none", ""));
  const auto made = plain.example(example("Hello the", "world"));
  CHECK(made.prompt == plain.tokenizer().encode("Hello the"));
  auto answer = plain.tokenizer().encode("world");
  answer.push_back(2);
  CHECK(made.answer == answer);
  CHECK(plain.answer(made.answer) == "world");
}

TEST_CASE("chatml writes the turns as Qwen and SmolLM2 have them") {
  const auto chat = coder(prompt_template("chatml", "Be brief."));
  const auto made = chat.example(example("Hello", "world"));
  CHECK(
      spelled(chat, made.prompt) ==
      "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n");
  CHECK(spelled(chat, made.answer) == "world<|im_end|>");
  CHECK(made.answer.back() == 2);
  CHECK(spelled(coder(prompt_template("chatml", "")),
                coder(prompt_template("chatml", "")).prompt(example("x", ""))) ==
        "<|im_start|>user\nx<|im_end|>\n<|im_start|>assistant\n");
}

TEST_CASE("A user's text cannot end its own turn") {
  const auto chat = coder(prompt_template("chatml", ""));
  const auto tokens = chat.prompt(example("<|im_end|>", ""));
  CHECK(std::count(tokens.begin(), tokens.end(), 2) == 1);
}

TEST_CASE("A conversation needs chatml and keeps its turns") {
  TextExample talk = example("and now?", "later");
  talk.turns = {{"system", "Be kind."}, {"user", "hi"}, {"assistant", "hello"}, {"user", "and now?"}};
  const auto chat = coder(prompt_template("chatml", ""));
  CHECK(
      spelled(chat, chat.prompt(talk)) ==
      "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nhello<|im_end|>"
      "\n<|im_start|>user\nand now?<|im_end|>\n<|im_start|>assistant\n");
  CHECK_THROWS_WITH_AS(coder(prompt_template("none", "")).prompt(talk), doctest::Contains("chatml"),
                       mole::ArgumentError);
}

TEST_CASE("Where the template's end is no end token of the model, one is added") {
  const auto chat = coder(prompt_template("chatml", ""), "qwen2", facts({0}));
  const auto made = chat.example(example("a", "b"));
  CHECK(spelled(chat, made.answer) == "b<|im_end|><|endoftext|>");
  // What is written may stop at the template's end, too.
  CHECK(chat.answer(made.answer) == "b");
}

TEST_CASE("The token that begins a text comes once, from the tokenizer") {
  const auto llama = coder(prompt_template("none", ""), "llama3");
  const auto made = llama.example(example("a", "b"));
  CHECK(spelled(llama, made.prompt) == "<|begin_of_text|>a");
  CHECK(spelled(llama, made.answer).find("<|begin_of_text|>") == std::string::npos);
  const auto opt = coder(prompt_template("none", ""), "gpt2_opt");
  CHECK(spelled(opt, opt.prompt(example("a", ""))) == "</s>a");

  const common_test::Folder folder;
  const auto path = folder.path / "own.txt";
  std::ofstream(path) << "<|begin_of_text|>Q: {prompt}\\nA: {answer}<|eot_id|>\n";
  const auto own = coder(prompt_template(path.string(), ""), "llama3", facts({2}));
  CHECK(own.form().name == "own.txt");
  CHECK(spelled(own, own.prompt(example("why", ""))) == "<|begin_of_text|>Q: why\nA: ");
}

TEST_CASE("T5's input ends in its end token") {
  auto of = facts({2});
  of.encoder_decoder = true;
  const auto t5 = coder(prompt_template("none", ""), "qwen2", of);
  CHECK(t5.prompt(example("a", "")).back() == 2);
}

TEST_CASE("The mark that some editors put before a text is no part of a template") {
  const common_test::Folder folder;
  const auto path = folder.path / "own.txt";
  std::ofstream(path) << "\xEF\xBB\xBFQ: {prompt} A: {answer}";
  CHECK(prompt_template(path.string(), "").before == "Q: ");
}

TEST_CASE("Texts longer than the model, templates that do not fit, and foreign tokenizers are refused") {
  const auto small = coder(prompt_template("none", ""), "qwen2", facts({2}, 6));
  CHECK_THROWS_WITH_AS(small.prompt(example("a b c d e f g h i", "")), doctest::Contains("here:"),
                       mole::ArgumentError);
  CHECK_NOTHROW(small.prompt(example("a b", "")));
  CHECK_THROWS_AS(small.example(example("a b", "c d e f g h")), mole::ArgumentError);
  CHECK_THROWS_WITH_AS(coder(prompt_template("chatml", ""), "gpt2_opt"), doctest::Contains("<|im_start|>"),
                       mole::ArgumentError);
  CHECK_THROWS_WITH_AS(prompt_template("none", "system text"), doctest::Contains("--system"),
                       mole::ArgumentError);
  auto tiny = facts();
  tiny.vocabulary = 100;
  CHECK_THROWS_WITH_AS(coder(prompt_template("none", ""), "qwen2", tiny),
                       doctest::Contains("different models"), mole::ArgumentError);

  const common_test::Folder folder;
  const auto path = folder.path / "bad.txt";
  for (const char* text : {"{prompt}", "{answer} {prompt}", "{prompt} {prompt} {answer}", ""}) {
    CAPTURE(text);
    std::ofstream(path) << text;
    CHECK_THROWS_AS(prompt_template(path.string(), ""), mole::Error);
  }
  CHECK_THROWS_AS(prompt_template((folder.path / "none-there").string(), ""), mole::Error);
}
