// The vocabulary that a GGUF file carries.

#include <map>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include <mole/text/load.hpp>

#include "io/limits.hpp"
#include "text/gguf_vocabulary.hpp"

using namespace mole;
using namespace io_test;
using text_test::GgufVocabulary;

namespace {

/// The vocabulary of a tokenizer.json as GGUF has it.
GgufVocabulary vocabulary_of(const std::string& name, const std::string& pre) {
  const auto json = Json::parse(read_text(io_test::golden("lm/tokenizers/" + name + ".tokenizer.json")));
  std::map<Index, std::string> tokens;
  std::map<Index, bool> special;
  for (const auto& [token, id] : json["model"]["vocab"].items()) tokens[id.get<Index>()] = token;
  for (const auto& added : json["added_tokens"]) {
    tokens[added["id"].get<Index>()] = added["content"].get<std::string>();
    special[added["id"].get<Index>()] = added["special"].get<bool>();
  }
  std::vector<std::string> spellings, merges;
  std::vector<std::int32_t> types;
  for (const auto& [id, token] : tokens) {
    spellings.push_back(token);
    types.push_back(special[id] ? 3 : 1);
  }
  for (const auto& merge : json["model"]["merges"])
    merges.push_back(merge[0].get<std::string>() + " " + merge[1].get<std::string>());
  GgufVocabulary file;
  file.text("tokenizer.ggml.model", "gpt2");
  file.text("tokenizer.ggml.pre", pre);
  file.texts("tokenizer.ggml.tokens", spellings);
  file.types("tokenizer.ggml.token_type", types);
  file.texts("tokenizer.ggml.merges", merges);
  return file;
}

}  // namespace

TEST_CASE("A GGUF file's byte-level vocabulary gives the ids of its tokenizer.json") {
  const std::vector<std::pair<std::string, std::string>> kinds{{"llama3", "llama-bpe"},
                                                               {"gpt2_opt", "gpt-2"}};
  for (const auto& kind : kinds) {
    const std::string name = kind.first, pre = kind.second;
    const Folder folder;
    auto file = vocabulary_of(name, pre);
    file.number("tokenizer.ggml.bos_token_id", 0);
    file.write(folder / "x.gguf");
    const auto found = load_tokenizer(folder / "x.gguf");
    const auto wanted = load_tokenizer(io_test::golden("lm/tokenizers/" + name + ".tokenizer.json"));
    CHECK(found->size() == wanted->size());
    for (const std::string text :
         {"Hello the world", "it's 12345 o'clock\n\n  na\xC3\xAFve ", "<|eot_id|></s>x", "\xE2\x82"})
      for (const bool special : {false, true}) {
        const auto ids = found->encode(text, {.parse_special = special});
        CHECK(ids == wanted->encode(text, {.parse_special = special}));
        CHECK(found->decode(ids, true) == wanted->decode(ids, true));
      }
    // Llama-3 begins texts with a token of its own.
    CHECK(found->encode("a", {.add_special = true}).size() == (pre == "llama-bpe" ? 2 : 1));
  }
}

TEST_CASE("A vocabulary in a GGUF file that does not fit together is refused by key") {
  const Folder folder;
  const auto refusal = [&](const GgufVocabulary& file) {
    file.write(folder / "x.gguf");
    return error_of([&] { load_tokenizer(folder / "x.gguf"); });
  };
  CHECK(mentions(refusal({}), {"x.gguf", "no tokenizer"}));
  CHECK(mentions(refusal(vocabulary_of("llama3", "unheard-of")), {"pre", "'unheard-of'", "smollm"}));
  GgufVocabulary file;
  file.text("tokenizer.ggml.model", "rwkv");
  CHECK(mentions(refusal(file), {"'rwkv'", "gpt2 and llama"}));
  file = {};
  file.text("tokenizer.ggml.model", "gpt2");
  CHECK(mentions(refusal(file), {"tokens"}));
  file.texts("tokenizer.ggml.tokens", {"a", "b"});
  file.texts("tokenizer.ggml.merges", {"ab"});
  CHECK(mentions(refusal(file), {"'ab'"}));
  file = {};
  file.text("tokenizer.ggml.model", "llama");
  file.texts("tokenizer.ggml.tokens", {"a", "b"});
  CHECK(mentions(refusal(file), {"scores", "2"}));
}

TEST_CASE("Special tokens of a GGUF file are UTF-8, and texts are whatever a token's bytes are") {
  const Folder folder;
  GgufVocabulary file;
  file.text("tokenizer.ggml.model", "llama");
  file.texts("tokenizer.ggml.tokens", {"<unk>", "\x80", "a"});
  file.scores("tokenizer.ggml.scores", {0, -1, -2});
  file.types("tokenizer.ggml.token_type", {2, 1, 1});
  file.write(folder / "x.gguf");
  CHECK(load_tokenizer(folder / "x.gguf")->decode({1, 2}) ==
        "\xEF\xBF\xBD"
        "a");
  file.entries.clear();
  file.count = 0;
  file.text("tokenizer.ggml.model", "llama");
  file.texts("tokenizer.ggml.tokens", {"<unk>", "\x80", "a"});
  file.scores("tokenizer.ggml.scores", {0, -1, -2});
  file.types("tokenizer.ggml.token_type", {2, 4, 1});
  file.write(folder / "x.gguf");
  CHECK(mentions(error_of([&] { load_tokenizer(folder / "x.gguf"); }), {"'\\x80'", "no UTF-8"}));
}

TEST_CASE("A stream of bytes that make up no character goes on, each token at the same cost") {
  const Folder folder;
  GgufVocabulary file;
  file.text("tokenizer.ggml.model", "llama");
  file.texts("tokenizer.ggml.tokens", {"<unk>", "<0xFF>", "<s>"});
  file.scores("tokenizer.ggml.scores", {0, -1, -2});
  file.types("tokenizer.ggml.token_type", {2, 6, 3});
  file.write(folder / "x.gguf");
  for (const Index token : {1, 2}) {
    const auto found = limited([&] {
      const auto tokenizer = load_tokenizer(folder / "x.gguf");
      TextStream stream(*tokenizer);
      std::size_t bytes = 0;
      for (int i = 0; i < 20'000; ++i) bytes += stream.put(token).size();
      return std::to_string(bytes + stream.finish().size());
    });
    // U+FFFD has three bytes, a token that is not shown none.
    CHECK(found == (token == 1 ? "60000" : "0"));
  }
}
