#include <doctest/doctest.h>

#include <string>
#include <vector>

#include <mole/io/json.hpp>

#include "io/folder.hpp"
#include "io/limits.hpp"

using namespace mole;
using namespace io_test;

TEST_CASE("JSON survives writing and reading") {
  const Folder folder;
  const Json json{{"a", {1, 2.5, nullptr}}, {"b", {{"\"[{\\", "\u00e9"}}}};
  write_json(folder / "x.json", json);
  CHECK(read_json(folder / "x.json") == json);
  CHECK(read_text(folder / "x.json").find("\n  \"a\": [") != std::string::npos);
}

TEST_CASE("Damaged JSON is refused with the file and the place") {
  struct Row {
    const char* what;
    std::string text;
    std::vector<std::string> parts;
  };
  const std::string deep(900'000, '[');
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

TEST_CASE("A configuration above 1 MB, a missing file and a folder are refused") {
  const Folder folder;
  write_text(folder / "big.json", "{}" + std::string(max_config_bytes - 2, ' '));
  CHECK(read_json(folder / "big.json").empty());
  write_text(folder / "big.json", "{}" + std::string(max_config_bytes - 1, ' '));
  CHECK(mentions(error_of([&] { read_json(folder / "big.json"); }), {"big.json", "1000001", "1000000"}));
  CHECK(read_json(folder / "big.json", max_json_bytes).empty());
  std::filesystem::resize_file(folder / "big.json", 100'000'001);
  CHECK(
      mentions(error_of([&] { read_json(folder / "big.json", max_json_bytes); }), {"big.json", "100000001"}));
  CHECK(mentions(error_of<Error>([&] { read_json(folder / "none.json"); }), {"none.json", "No such file"}));
  CHECK(mentions(error_of<Error>([&] { read_json(folder.path); }), {"not a regular file"}));
}

TEST_CASE("Parsing takes time linear in the text, whatever is in it") {
  const Folder folder;
  const auto told = [&](const std::string& text) {
    write_text(folder / "x.json", text);
    return limited([&] { return std::to_string(read_json(folder / "x.json", max_json_bytes).size()); });
  };
  std::string objects = "{", fields = "{", deep;
  for (int i = 0; i < 40'000; ++i) {
    objects += "\"" + std::to_string(i) + "\":{},";
    fields += "\"" + std::to_string(i) + "\":0,";
  }
  objects.back() = fields.back() = '}';
  for (int i = 0; i < 400; ++i) deep += std::string(99, '[') + std::string(99, ']') + ",";
  CHECK(told(objects) == "40000");
  CHECK(told(fields) == "40000");
  CHECK(told("[" + deep + "0]") == "401");
  // What is not closed, and more values than a memory should hold.
  CHECK(mentions(told(objects.substr(0, objects.size() - 1)), {"Error", "malformed JSON"}));
  std::string many = "[";
  for (int i = 0; i < 2'100'000; ++i) many += "0,";
  CHECK(mentions(told(many), {"Error", "more than 1000000 values"}));
}

TEST_CASE("Objects keep the order of their fields") {
  const Folder folder;
  write_text(folder / "x.json", R"({"b": 1, "a": {"d": [1, {"f": null, "e": -2}], "c": 2.5}})");
  CHECK(read_json(folder / "x.json").dump() == R"({"b":1,"a":{"d":[1,{"f":null,"e":-2}],"c":2.5}})");
}

TEST_CASE("Keys and texts of a file are escaped and cut in messages") {
  const Folder folder;
  const std::string evil = "\\u001b[31m" + std::string(100'000, 'k');
  for (const auto& text :
       {"{\"" + evil + "\":1,\"" + evil + "\":2}", "{\"a\":\"" + evil, "{\"a\":\"\xff" + evil + "\"}"}) {
    write_text(folder / "x.json", text);
    const auto error = error_of([&] { read_json(folder / "x.json"); });
    CHECK(mentions(error, {"x.json"}));
    CHECK(fit_to_print(error));
  }
}

TEST_CASE("A Git LFS pointer is called one") {
  const Folder folder;
  write_text(folder / "x.json", "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n");
  CHECK(mentions(error_of([&] { read_json(folder / "x.json"); }),
                 {"x.json", "Git LFS pointer", "git lfs pull"}));
}

TEST_CASE("JSON that is not UTF-8 is not written") {
  const Folder folder;
  CHECK_THROWS_AS(write_json(folder / "x.json", {{"a", "\xff"}}), Error);
  CHECK(folder.count() == 0);
}
