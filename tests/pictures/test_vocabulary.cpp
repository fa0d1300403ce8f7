// Words as tokens.

#include <fstream>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <testing.hpp>

#include "examples_common/folder.hpp"
#include "pictures/assets.hpp"
#include "pictures/vocabulary.hpp"

namespace pictures::word_tests {

using mole::testing::lacks;

TEST_CASE("The shipped vocabulary is that of the sprites' captions") {
  const auto sprites = read_sprites(shipped());
  const auto made = Vocabulary::of(sprites), read = Vocabulary::read(shipped() / "base/clip/vocab.json");
  CHECK(made.size() == 221);
  CHECK(read.size() == 221);
  for (const auto& name : sprites.names) CHECK(made.encode(name, 16) == read.encode(name, 16));
  // The ids that the base was trained with.
  CHECK(read.encode("a dog face on blue", 8) == std::vector<Index>{0, 2, 70, 86, 146, 32, 1, 1});
  CHECK(read.encode("", 4) == std::vector<Index>{0, 1, 1, 1});
  CHECK(read.encode("A  DOG ", 4) == std::vector<Index>{0, 2, 70, 1});
}

TEST_CASE("An unknown word is refused with those that are close to it") {
  const auto words = Vocabulary::read(shipped() / "base/clip/vocab.json");
  CHECK(lacks<mole::ArgumentError>([&] { words.encode("a piza on blue", 16); }, {"piza", "pizza"}) == "");
  CHECK(lacks<mole::ArgumentError>([&] { words.encode("a xylophone", 16); }, {"xylophone", "219"}) == "");
}

TEST_CASE("Too long a prompt is refused, and cut where that is asked for") {
  const auto words = Vocabulary::read(shipped() / "base/clip/vocab.json");
  const std::string text = "a dog face on blue";
  CHECK(words.encode(text, 7).back() == words.end());
  CHECK(lacks<mole::ArgumentError>([&] { words.encode(text, 6); }, {"5", "4", "--truncate"}) == "");
  CHECK(words.encode(text, 6, true) == std::vector<Index>{0, 2, 70, 86, 146, 1});
}

TEST_CASE("A vocabulary is written and read, and one with holes is refused") {
  const common_test::Folder folder;
  const auto path = folder.path / "vocab.json";
  const auto words = Vocabulary::of(read_sprites(shipped()));
  words.write(path);
  CHECK(Vocabulary::read(path).encode("a pizza", 5) == words.encode("a pizza", 5));
  const auto with = [&](const std::string& json) {
    std::ofstream(path) << json;
    Vocabulary::read(path);
  };
  CHECK_THROWS_AS(with(R"({"<|startoftext|>": 0, "<|endoftext|>": 2})"), mole::FormatError);
  CHECK_THROWS_AS(with(R"({"<|startoftext|>": 0, "<|endoftext|>": 0})"), mole::FormatError);
  CHECK_THROWS_AS(with(R"({"<|startoftext|>": 0, "<|endoftext|>": "1"})"), mole::FormatError);
  CHECK_THROWS_AS(with(R"({"a": 0, "b": 1})"), mole::FormatError);
  CHECK_THROWS_AS(with("[1]"), mole::FormatError);
}

}  // namespace pictures::word_tests
