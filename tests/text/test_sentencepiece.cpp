// SentencePiece models, by libsentencepiece and as GGUF files carry them.

#include <string>
#include <vector>

#include <doctest/doctest.h>

#include <mole/text/load.hpp>
#include <mole/text/sentencepiece.hpp>

#include "text/gguf_vocabulary.hpp"

using namespace mole;
using namespace io_test;

TEST_CASE("T5's extra tokens and end stand outside its model") {
  const auto path = io_test::golden("lm/tokenizers/t5.spiece.model");
  const auto plain = read_sentencepiece(path);
  const auto t5 = read_sentencepiece(path, {.add_eos = true, .extra_ids = 100});
  CHECK(t5->size() == plain->size() + 100);
  CHECK(t5->find("<extra_id_0>") == t5->size() - 1);
  CHECK(t5->find("<extra_id_99>") == plain->size());
  const auto words = plain->encode("the world");
  auto framed = words;
  framed.push_back(t5->find("</s>"));
  CHECK(t5->encode("the world", {.add_special = true}) == framed);
  CHECK(t5->decode(framed) == plain->decode(words));
  CHECK(t5->encode("<extra_id_0>", {.parse_special = true}) == std::vector<Index>{t5->size() - 1});
  CHECK(t5->encode("<extra_id_0>").size() > 1);
}

TEST_CASE("Bytes that are no SentencePiece model are refused") {
  const Folder folder;
  const auto whole = read_text(io_test::golden("lm/tokenizers/llama2.spiece.model"));
  for (const auto& bytes : {std::string(), std::string("no model"), whole.substr(0, whole.size() / 2)}) {
    write_text(folder / "x.model", bytes);
    CHECK(mentions(error_of([&] { read_sentencepiece(folder / "x.model"); }), {"x.model"}));
  }
}

TEST_CASE("The vocabulary of a SentencePiece BPE in a GGUF file gives the model's ids") {
  const auto path = io_test::golden("lm/tokenizers/llama2.spiece.model");
  sentencepiece::SentencePieceProcessor model;
  REQUIRE(model.Load(path.string()).ok());
  std::vector<std::string> tokens;
  std::vector<float> scores;
  std::vector<std::int32_t> types;
  for (int id = 0; id < model.GetPieceSize(); ++id) {
    tokens.push_back(model.IdToPiece(id));
    scores.push_back(model.GetScore(id));
    types.push_back(model.IsUnknown(id) ? 2 : model.IsControl(id) ? 3 : model.IsByte(id) ? 6 : 1);
  }
  text_test::GgufVocabulary file;
  file.text("tokenizer.ggml.model", "llama");
  file.texts("tokenizer.ggml.tokens", tokens);
  file.scores("tokenizer.ggml.scores", scores);
  file.types("tokenizer.ggml.token_type", types);
  const Folder folder;
  file.write(folder / "x.gguf");
  const auto found = load_tokenizer(folder / "x.gguf"), wanted = read_sentencepiece(path);
  for (const std::string text :
       {"Hello the world", "  two  spaces ", "na\xC3\xAFve \xE4\xB8\xAD\xE6\x96\x87 x", "a\nb\tc",
        "it's 12345", "the the thethe"}) {
    CAPTURE(text);
    const auto ids = found->encode(text);
    CHECK(ids == wanted->encode(text));
    CHECK(found->decode(ids) == wanted->decode(ids));
  }
}
