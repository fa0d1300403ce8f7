// SentencePiece models, by libsentencepiece and as GGUF files carry them.

#include <cstddef>
#include <limits>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include <mole/text/load.hpp>
#include <mole/text/sentencepiece.hpp>

#include "text/gguf_vocabulary.hpp"
#include "text/small_sentencepiece.hpp"

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

TEST_CASE("A SentencePiece model that would lead its library astray is refused") {
  using namespace text_test;
  const Folder folder;
  const auto refused = [&](const std::string& model, const SentencePieceOptions& options = {}) {
    write_text(folder / "x.model", model);
    return error_of([&] { read_sentencepiece(folder / "x.model", options); });
  };
  const std::string pieces = sentencepiece_pieces(), damaged = "table of normal forms";
  write_text(folder / "x.model", pieces + sentencepiece_forms(CharsMap()));
  const auto sound = read_sentencepiece(folder / "x.model");
  CHECK(sound->encode("A") == sound->encode("a"));
  for (const bool of_decoding : {false, true}) {
    const auto with = [&](const std::string& map) { return pieces + sentencepiece_forms(map, of_decoding); };
    // A place beyond the array, a text beyond the texts, a way that leads back, texts without an end.
    CHECK(mentions(refused(with(CharsMap(0x1fffff))), {"x.model", damaged}));
    CHECK(mentions(refused(with(CharsMap(1, 0x7fffff00))), {damaged}));
    CHECK(mentions(refused(with(CharsMap('A'))), {damaged}));
    std::string map = CharsMap();
    map.pop_back();
    CHECK(mentions(refused(with(map)), {damaged}));
    for (const std::size_t n : {1U, 4U, 100U, 2051U})
      CHECK(mentions(refused(with(map.substr(0, n))), {damaged}));
  }
  CHECK(mentions(refused(pieces.substr(0, pieces.size() - 1)), {"no SentencePiece model"}));
  std::string nested = pieces;
  for (std::size_t n = 1; n <= 65; ++n) nested += sentencepiece_piece(std::string(n, 'x'), 4);
  CHECK(mentions(refused(nested), {"64", "begin with one another"}));
  CHECK(mentions(refused(pieces + sentencepiece_piece("q", 1, std::numeric_limits<float>::quiet_NaN())),
                 {"score", "not finite"}));
  // Its library throws at a piece that begins with NUL.
  for (const int type : {1, 4})
    CHECK(
        mentions(refused(pieces + sentencepiece_piece(std::string("\0x", 2), type)), {"x.model", "damaged"}));
  const auto no_frame = sentencepiece_piece("<unk>", 2) + sentencepiece_piece("a", 1);
  CHECK(refused(no_frame).empty());
  CHECK(mentions(refused(no_frame, {.add_eos = true}), {"begins or ends"}));
  CHECK(mentions(refused(no_frame, {.add_bos = true}), {"begins or ends"}));
}

TEST_CASE("Pieces that are no UTF-8 make texts that are") {
  using namespace text_test;
  const Folder folder;
  for (const int type : {1, 2, 3, 4}) {
    CAPTURE(type);
    const std::string damaged("h\xC0\x01\xE2\x96", 5);
    const std::string frame = type == 2 ? sentencepiece_piece(damaged, 2) : sentencepiece_piece("<unk>", 2);
    // The surface of what is unknown is a field of the trainer's: its number, 44, takes two bytes.
    const std::string surface = "\x12\x04\xE2\x02\x01\xFF";
    write_text(folder / "x.model", frame + sentencepiece_piece("a", 1) +
                                       (type == 2 ? surface : sentencepiece_piece(damaged, type)));
    const auto tokenizer = read_sentencepiece(folder / "x.model");
    for (Index id = 0; id < tokenizer->size(); ++id) {
      const auto found = tokenizer->decode({id, 1, id}, true);
      CHECK(text::well_formed(found) == found);
      TextStream stream(*tokenizer);
      const auto streamed = stream.put(id) + stream.put(1) + stream.finish();
      CHECK(text::well_formed(streamed) == streamed);
    }
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
