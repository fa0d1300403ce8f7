// Names from files in messages.

#include <doctest/doctest.h>

#include <string>

#include <mole/core/error.hpp>
#include <mole/core/quote.hpp>

using namespace mole;

TEST_CASE("A quoted name keeps its letters and escapes what a terminal obeys") {
  CHECK(quote("encoder.block.0") == "'encoder.block.0'");
  CHECK(quote("\u00e9\u4e2d\U0001f600") == "'\u00e9\u4e2d\U0001f600'");
  CHECK(quote("\x1b[31m\n\x7f") == "'\\x1b[31m\\x0a\\x7f'");
  CHECK(quote(std::string("a\0b", 3)) == "'a\\x00b'");
  // C1 controls, a change of direction, a character of no width.
  CHECK(quote("\u009b31m\u202e\u200b") == "'\\xc2\\x9b31m\\xe2\\x80\\xae\\xe2\\x80\\x8b'");
}

TEST_CASE("Bytes that are no UTF-8 are escaped one by one") {
  CHECK(printable("\xff") == "\\xff");
  CHECK(printable("\xc0\x80") == "\\xc0\\x80");
  CHECK(printable("\xed\xa0\x80") == "\\xed\\xa0\\x80");
  CHECK(printable("\xf4\x90\x80\x80") == "\\xf4\\x90\\x80\\x80");
  CHECK(printable("\xc3") == "\\xc3");
  CHECK(printable("\xe2\x82z") == "\\xe2\\x82z");
  CHECK(printable("\xf0\x9f\x98\x80") == "\xf0\x9f\x98\x80");
}

TEST_CASE("A text is well-formed UTF-8 up to the first byte that is not") {
  CHECK(utf8_bytes("") == 0);
  CHECK(utf8_bytes("caf\u00e9 \U0001f600") == 10);
  CHECK(utf8_bytes("caf\xe9") == 3);
  CHECK(utf8_bytes("ab\xf0\x9f\x98") == 2);
}

TEST_CASE("A long name keeps its beginning and its end and no half character") {
  const std::string name = std::string(500, 'a') + std::string(500, 'b');
  const auto text = quote(name);
  CHECK(text.size() <= 102);
  CHECK(text.substr(0, 10) == "'aaaaaaaaa");
  CHECK(text.find("...") != text.npos);
  CHECK(text.substr(text.size() - 10) == "bbbbbbbbb'");
  std::string accents;
  for (int i = 0; i < 1000; ++i) accents += "\u20ac";
  for (std::size_t most = 10; most < 20; ++most) {
    const auto cut = shortened(accents, most);
    CHECK(cut.size() <= most);
    CHECK(printable(cut) == cut);
  }
  CHECK(quote(std::string(100'000, '\x01')).size() <= 102);
  CHECK(shortened(std::string(100, '\x80'), 20).size() <= 20);
  CHECK(shortened("short", 5) == "short");
}

TEST_CASE("A message is printable and bounded whatever its parts are") {
  const std::string evil = "\x1b]0;\xff" + std::string(1'000'000, 'x');
  const auto text = message(evil, evil, evil, evil, evil, evil, "is wrong");
  CHECK(text.size() <= max_message_bytes);
  CHECK(printable(text) == text);
  CHECK(text.substr(0, 9) == "\\x1b]0;\\x");
  CHECK(text.substr(text.size() - 8) == "is wrong");
}
