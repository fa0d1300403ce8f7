#include <doctest/doctest.h>

#include <string>
#include <vector>

#include <mole/io/json.hpp>

#include "io/folder.hpp"

using namespace mole;
using namespace io_test;

TEST_CASE("JSON survives writing and reading") {
  const Folder folder;
  const nlohmann::json json{{"a", {1, 2.5, nullptr}}, {"b", {{"\"[{\\", "\u00e9"}}}};
  write_json(folder / "x.json", json);
  CHECK(read_json(folder / "x.json") == json);
  CHECK(read_text(folder / "x.json").find("\n  \"a\": [") != std::string::npos);
}

TEST_CASE("damaged JSON is refused with the file and the place") {
  struct Row {
    const char* what;
    std::string text;
    std::vector<std::string> parts;
  };
  const std::string deep(1'000'000, '[');
  const std::vector<Row> rows{
      {"empty", "", {"byte 1"}},
      {"cut short", "{\"a\": 1", {"byte 8"}},
      {"trailing", "{} x", {"byte 4"}},
      {"a key twice", "{\"b\": {\"a\": 1, \"c\": {\"a\": 2}, \"a\": 3}}", {"two values", "\"a\""}},
      {"deep", deep, {"nested deeper than 100", "byte 100"}},
      {"deep objects", std::string(200, ' ') + "[" + deep, {"nested deeper"}},
      {"NUL after the end", std::string("{}\0junk", 7), {"NUL", "byte 2"}},
      {"not UTF-8", "{\"a\": \"\xff\"}", {"malformed"}},
      {"a bare NaN", "{\"a\": NaN}", {"malformed"}},
      {"a huge exponent", "{\"a\": 1e999}", {"malformed"}}};
  const Folder folder;
  for (const auto& row : rows) {
    const auto& what = row.what;
    const auto& text = row.text;
    const auto& parts = row.parts;
    CAPTURE(what);
    write_text(folder / "x.json", text);
    const auto error = error_of([&] { read_json(folder / "x.json"); });
    CAPTURE(error);
    CHECK(mentions(error, {"x.json"}));
    CHECK(mentions(error, parts));
  }
}

TEST_CASE("JSON above 100 MB, a missing file and a folder are refused") {
  const Folder folder;
  write_text(folder / "big.json", "{}");
  std::filesystem::resize_file(folder / "big.json", 100'000'001);
  CHECK(mentions(error_of([&] { read_json(folder / "big.json"); }), {"big.json", "100000001"}));
  CHECK(mentions(error_of<Error>([&] { read_json(folder / "none.json"); }), {"none.json", "No such file"}));
  CHECK(mentions(error_of<Error>([&] { read_json(folder.path); }), {"not a regular file"}));
}

TEST_CASE("JSON that is not UTF-8 is not written") {
  const Folder folder;
  CHECK_THROWS_AS(write_json(folder / "x.json", {{"a", "\xff"}}), Error);
  CHECK(folder.count() == 0);
}
