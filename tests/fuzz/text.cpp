// Tokenizers: tokenizer.json, vocab.json with merges.txt, SentencePiece models; and lines of examples.

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include <mole/io/json.hpp>
#include <mole/text/clip_tokenizer.hpp>
#include <mole/text/load.hpp>
#include <mole/text/sentencepiece.hpp>

#include "../text/small_sentencepiece.hpp"
#include "mole/examples.hpp"

#include "harness.hpp"
#include "texts.hpp"

namespace mole_fuzz {

std::string plain_text(const std::string& part) {
  try {
    const auto json = mole::detail::parse_json(part, "the text");
    if (json.is_string()) return json.get<std::string>();
  } catch (const mole::Error&) {
    // Its bytes are a text too.
  }
  return part;
}

void use_tokenizer(const mole::Tokenizer& tokenizer, const std::string& text) {
  const auto is_text = [](const std::string& found) {
    require(mole::text::well_formed(found) == found, "a text that is no UTF-8");
  };
  std::vector<mole::Index> all{-1, 0, tokenizer.size() - 1, tokenizer.size(), INT64_MAX};
  for (const bool special : {false, true}) {
    std::vector<mole::Index> tokens;
    accepts([&] { tokens = tokenizer.encode(text, {.parse_special = special, .add_special = special}); });
    for (const auto token : tokens)
      require(token >= 0 && token < tokenizer.size(), "a token beyond the vocabulary");
    all.insert(all.end(), tokens.begin(), tokens.end());
    accepts([&] { is_text(tokenizer.decode(tokens, special)); });
  }
  accepts([&] {
    mole::TextStream stream(tokenizer);
    for (const auto token : all) is_text(stream.put(token));
    is_text(stream.finish());
  });
  tokenizer.find(text.substr(0, 20));
}

namespace {

using Add = std::function<void(const std::vector<std::string>&)>;

const std::filesystem::path goldens = std::filesystem::path(MOLE_TEST_DATA) / "golden/lm/tokenizers";
const std::string a_text = R"("At the world's  12 <s> naïve\n中文 \ud83d\ude00</s> ")";

void test_tokenizer(const std::vector<std::string>& parts) {
  const auto path = folder() / "tokenizer.json";
  write_bytes(path, parts[0]);
  accepts([&] { use_tokenizer(*mole::read_tokenizer_json(path), plain_text(parts[1])); });
}

/// A tokenizer.json of few tokens, with the steps of a golden.
std::string small_tokenizer(const char* golden) {
  auto json = mole::read_json(goldens / golden, mole::max_json_bytes);
  auto& model = json["model"];
  auto few = mole::Json::object();
  auto merges = mole::Json::array();
  for (const auto& merge : model["merges"]) {
    if (merges.size() == 12) break;
    const auto left = merge[0].get<std::string>(), right = merge[1].get<std::string>();
    merges.push_back(merge);
    for (const auto& token : {left, right, left + right}) few[token] = model["vocab"][token];
  }
  // Tokens that steps and options name.
  for (const auto& [token, id] : model["vocab"].items())
    if (few.size() < 80 && (token.size() == 1 || token.starts_with('<'))) few[token] = id;
  model["vocab"] = few;
  model["merges"] = merges;
  return json.dump();
}

void seed_tokenizer(const Add& add) {
  for (const char* golden : {"clip.tokenizer.json", "gpt2_opt.tokenizer.json", "llama2_json.tokenizer.json",
                             "llama3.tokenizer.json", "qwen2.tokenizer.json"})
    add({small_tokenizer(golden), a_text});
  add({R"x({"model":{"type":"BPE","vocab":{"a":0,"b":1,"ab":2,"</w>":3,"b</w>":4,"<unk>":5},"merges":["a b"],)x"
       R"x("unk_token":"<unk>","fuse_unk":true,"end_of_word_suffix":"</w>"},"added_tokens":[{"id":6,"content":"<x>",)x"
       R"x("special":true,"lstrip":true,"rstrip":true},{"id":7,"content":"word","single_word":true,"normalized":true}],)x"
       R"x("normalizer":{"type":"Sequence","normalizers":[{"type":"Prepend","prepend":"_"},{"type":"NFKD"},)x"
       R"x({"type":"Replace","pattern":{"String":" "},"content":"_"},{"type":"Lowercase"}]},"pre_tokenizer":)x"
       R"x({"type":"Sequence","pretokenizers":[{"type":"Metaspace","prepend_scheme":"first","split":true},)x"
       R"x({"type":"Digits","individual_digits":true},{"type":"Split","pattern":{"Regex":"(?i:a|b)+"},)x"
       R"x("behavior":"MergedWithNext","invert":true}]},"decoder":{"type":"Sequence","decoders":[{"type":)x"
       R"x("BPEDecoder"},{"type":"Strip","content":" ","start":1,"stop":0},{"type":"Metaspace"},{"type":"Fuse"}]},)x"
       R"x("post_processor":{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"<x>"}},{"Sequence":{"id":)x"
       R"x("A"}}],"special_tokens":{"<x>":{"ids":[6]}}}})x",
       "\"ab <x> word 12 B\""});
}

void test_vocab(const std::vector<std::string>& parts) {
  const auto path = folder() / "vocab";
  write_bytes(path / "vocab.json", parts[0]);
  write_bytes(path / "merges.txt", parts[1]);
  write_bytes(path / "tokenizer_config.json", parts[2]);
  const auto text = plain_text(parts[3]);
  accepts([&] { use_tokenizer(*mole::load_tokenizer(path), text); });
  accepts_or<mole::ArgumentError>([&] {  // of encode(): the text is too long
    const mole::ClipTokenizer clip(path);
    require(clip.encode(text, 7, true).size() == 7, "another number of tokens");
    require(clip.encode(text, 7).size() == 7, "another number of tokens");
  });
}

void seed_vocab(const Add& add) {
  add({R"({"t":0,"h":1,"e":2,"th":3,"the":4,"Ġ":5,"Ġt":6,"</s>":7,"<s>":8,"<unk>":9,"<|endoftext|>":10})",
       "#version: 0.2\nt h\nth e\n\xC4\xA0 t\r\n", R"({"add_bos_token":true,"pad_token":"</s>"})", a_text});
  add({R"({"t":0,"h":1,"e":2,"e</w>":3,"th":4,"the</w>":5,"!":6,"!</w>":7,"<|startoftext|>":8,"<|endoftext|>":9})",
       "#version: 0.2\nt h\nth e</w>\n", R"({"pad_token":{"content":"!","lstrip":false}})",
       "\"the THE ! <|endoftext|> the\""});
}

void test_sentencepiece(const std::vector<std::string>& parts) {
  const auto path = folder() / "x.model";
  write_bytes(path, parts[0]);
  accepts([&] {
    const auto tokenizer = mole::read_sentencepiece(path, {.add_bos = true, .add_eos = true, .extra_ids = 3});
    use_tokenizer(*tokenizer, plain_text(parts[1]));
  });
}

void seed_sentencepiece(const Add& add) {
  for (const int kind : {1, 2, 3, 4})
    add({text_test::sentencepiece_pieces(kind) +
             text_test::sentencepiece_forms(kind == 2 ? text_test::CharsMap() : std::string(), kind == 3),
         a_text});
  add({read_bytes(goldens / "llama2.spiece.model"), a_text});
}

void test_examples(const std::vector<std::string>& parts) {
  const auto path = folder() / "x.jsonl";
  write_bytes(path, parts[0]);
  accepts([&] {
    const auto examples = program::read_examples(path, program::Answers::optional);
    require(!examples.empty(), "no examples");
    for (const auto& example : examples) {
      require(!example.prompt.empty() && !example.task.empty(), "an example without prompt or task");
      require(mole::text::well_formed(example.prompt + example.answer) == example.prompt + example.answer,
              "a text that is no UTF-8");
    }
    std::size_t sum = 0;
    for (const auto& task : program::tasks_of(examples)) sum += program::of_task(examples, task).size();
    require(sum == examples.size(), "tasks that lose examples");
    const bool answered = accepts([&] { program::read_examples(path); });
    for (const auto& example : examples)
      require(!answered || !example.answer.empty(), "an example without answer");
    accepts_or<mole::ArgumentError>([&] {  // a task of a single example
      const auto [rest, tenth] = program::set_a_tenth_aside(examples, 1);
      require(rest.size() + tenth.size() == examples.size(), "examples that are lost");
    });
  });
}

void seed_examples(const Add& add) {
  add({R"({"prompt":"What is it?","answer":"A clock."})"
       "\n\n"
       R"({"input":"one\ntwo","output":"two","task":"second","gates":"a"})"
       "\r\n"
       R"({"instruction":"Count","input":"a b","output":"2","task":"second","other":[1,{"x":null}]})"
       "\n"
       R"({"messages":[{"role":"system","content":"Be brief."},{"role":"user","content":"Hello"},)"
       R"({"role":"assistant","content":"Hi"},{"role":"user","content":"Who?"},{"role":"assistant","content":"I"}]})"
       "\n"});
  add(
      {"\xEF\xBB\xBF"
       R"({"messages":[{"role":"user","content":"ä中😀"}]})"});
}

}  // namespace

std::vector<Target> text_targets() {
  return {{"tokenizer", {Part::json, Part::json}, test_tokenizer, seed_tokenizer},
          {"vocab", {Part::json, Part::lines, Part::json, Part::json}, test_vocab, seed_vocab},
          {"sentencepiece", {Part::bytes, Part::json}, test_sentencepiece, seed_sentencepiece},
          {"examples", {Part::lines}, test_examples, seed_examples}};
}

}  // namespace mole_fuzz
