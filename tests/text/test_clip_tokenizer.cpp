// CLIP's tokenizer as Stable Diffusion's folders have it. The expected ids are those of transformers 5.17's CLIPTokenizer
// on the same vocab.json and merges.txt.

#include <string>
#include <vector>

#include <doctest/doctest.h>

#include <mole/text/clip_tokenizer.hpp>

#include "io/folder.hpp"
#include "text/clip_vocabulary.hpp"

using namespace mole;
using namespace io_test;

TEST_CASE("A prompt becomes the ids of transformers, of one length, padded by the end of text") {
  const Folder folder;
  text_test::write_clip_tokenizer(folder.path);
  const ClipTokenizer tokenizer(folder.path);
  CHECK(tokenizer.encode("A cat!", 20) ==
        std::vector<Index>{0, 258, 68, 338, 290, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1});
  CHECK(
      tokenizer.encode("Hello!! the  world's 42, <|endoftext|> na\xC3\xAFve!", 20, true) ==
      std::vector<Index>{0, 73, 70, 77, 551, 2, 290, 330, 473, 77, 269, 8, 287, 292, 263, 1, 1, 635, 290, 1});
}

TEST_CASE("Where '!' pads, as in Stable Diffusion 2, it is that token in a prompt too") {
  const Folder folder;
  text_test::write_clip_tokenizer(folder.path, R"({"pad_token": {"content": "!"}})");
  const ClipTokenizer tokenizer(folder.path);
  CHECK(tokenizer.encode("A cat!", 9) == std::vector<Index>{0, 258, 68, 338, 2, 1, 2, 2, 2});
  CHECK(tokenizer.encode("Hello!! the  world's 42, <|endoftext|> na\xC3\xAFve!", 20, true) ==
        std::vector<Index>{0, 73, 70, 77, 551, 2, 2, 330, 473, 77, 269, 8, 287, 292, 263, 1, 1, 635, 2, 1});
}

TEST_CASE("vocab.json and merges.txt of CLIP give what its tokenizer.json gives") {
  const Folder folder;
  text_test::write_clip_tokenizer(folder.path);
  const auto old = load_tokenizer(folder.path);
  const auto now = load_tokenizer(io_test::golden("lm/tokenizers/clip.tokenizer.json"));
  for (const std::string text : {"Hello the WORLD", "  42, na\xC3\xAFve\n\n it's", "a<|endoftext|>b"})
    for (const bool special : {false, true})
      CHECK(old->encode(text, {.parse_special = special, .add_special = true}) ==
            now->encode(text, {.parse_special = special, .add_special = true}));
}

TEST_CASE("A prompt that is too long is refused with what would be lost, or cut before its last token") {
  const Folder folder;
  text_test::write_clip_tokenizer(folder.path);
  const ClipTokenizer tokenizer(folder.path);
  const auto message = error_of<ArgumentError>([&] { tokenizer.encode("a cat in the hat", 5); });
  CHECK(message.find("tokens and the text encoder reads 5") != message.npos);
  CHECK(message.find("'in the hat'") != message.npos);
  const auto cut = tokenizer.encode("a cat in the hat", 5, true);
  CHECK(cut.size() == 5);
  CHECK(cut.front() == 0);
  CHECK(cut.back() == 1);
}

TEST_CASE("Tokenizers that are not CLIP's, and paddings that are no token, are refused") {
  const Folder folder;
  text_test::write_clip_tokenizer(folder.path, R"({"pad_token": "<nothing>"})");
  CHECK(error_of([&] { ClipTokenizer{folder.path}; }).find("'<nothing>'") != std::string::npos);
  write_text(folder / "vocab.json", R"({"a": 0, "b": 1, "ab": 2})");
  write_text(folder / "merges.txt", "a b\n");
  CHECK(error_of([&] { ClipTokenizer{folder.path}; }).find("no tokenizer of CLIP") != std::string::npos);
}
