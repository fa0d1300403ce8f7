#include <doctest/doctest.h>

#include <cstdint>
#include <string>
#include <vector>

#include <mole/io/gguf.hpp>
#include <mole/io/safetensors.hpp>

#include "io/folder.hpp"
#include "io/gguf_bytes.hpp"

using namespace mole;
using namespace io_test;

namespace {

std::string gguf_refusal(const std::string& bytes) {
  const Folder folder;
  write_text(folder / "x.gguf", bytes);
  return error_of([&] { GgufFile file(folder / "x.gguf"); });
}

}  // namespace

TEST_CASE("A small GGUF file is read, in both versions") {
  for (const std::uint32_t version : {2U, 3U}) {
    const Folder folder;
    GgufParts parts;
    parts.version = version;
    parts.data.clear();
    for (int i = 0; i < 6; ++i) parts.data += gguf_raw(static_cast<float>(i));
    write_text(folder / "x.gguf", parts.bytes());
    const GgufFile file(folder / "x.gguf");
    CHECK(file.text("name", "") == "tiny");
    CHECK(file.text("other", "none") == "none");
    CHECK(file.numbers("list") == std::vector<double>{7, -8});
    CHECK(file.at("a").shape == Shape{2, 3});
    CHECK(file.read<double>("a") == std::vector<double>{0, 1, 2, 3, 4, 5});
    CHECK(mentions(error_of([&] { file.text("list", ""); }), {"list", "text"}));
    CHECK(mentions(error_of([&] { file.at("b"); }), {"x.gguf", "'b'"}));
    CHECK(
        mentions(error_of([&] { file.integer("general.alignment", 1, 0, 31); }), {"alignment", "31", "32"}));
  }
}

TEST_CASE("A GGUF file that lies is refused, and says where") {
  GgufParts parts;
  CHECK(gguf_refusal(parts.bytes()).empty());
  CHECK(mentions(gguf_refusal("GGML" + parts.bytes().substr(4)), {"no GGUF file"}));
  CHECK(mentions(gguf_refusal(""), {"no GGUF file"}));
  parts.version = 1;
  CHECK(mentions(gguf_refusal(parts.bytes()), {"version 1"}));
  parts.version = 0x03000000;
  CHECK(mentions(gguf_refusal(parts.bytes()), {"big-endian"}));
  parts = {};
  parts.entries.push_back(parts.entries[1]);
  CHECK(mentions(gguf_refusal(parts.bytes()), {"'name'", "twice"}));
  parts = {};
  parts.entries[1] = gguf_text("name") + gguf_raw(std::uint32_t{13}) + gguf_raw(std::uint32_t{1});
  CHECK(mentions(gguf_refusal(parts.bytes()), {"'name'", "unknown type", "13"}));
  parts.entries[1] = gguf_text("name") + gguf_raw(std::uint32_t{9}) + gguf_raw(std::uint32_t{8}) +
                     gguf_raw(~std::uint64_t{0});
  CHECK(mentions(gguf_refusal(parts.bytes()), {"cut short"}));
  std::string nested = gguf_text("name") + gguf_raw(std::uint32_t{9});
  for (int i = 0; i < 6; ++i) nested += gguf_raw(std::uint32_t{9}) + gguf_raw(std::uint64_t{1});
  parts.entries[1] = nested + gguf_raw(std::uint32_t{0}) + gguf_raw(std::uint64_t{0});
  CHECK(mentions(gguf_refusal(parts.bytes()), {"'name'", "deeper"}));
  parts.entries[1] = gguf_text("split.count") + gguf_raw(std::uint32_t{2}) + gguf_raw(std::uint16_t{3});
  CHECK(mentions(gguf_refusal(parts.bytes()), {"one part of 3", "merge"}));
  parts = {};
  parts.offset = 8;
  CHECK(mentions(gguf_refusal(parts.bytes()), {"'a'", "multiple of 32"}));
  parts.offset = 32;
  CHECK(mentions(gguf_refusal(parts.bytes()), {"'a'", "beyond"}));
  parts.offset = ~std::uint64_t{31};
  CHECK(mentions(gguf_refusal(parts.bytes()), {"'a'", "beyond"}));
  parts = {};
  parts.extents = {std::uint64_t{1} << 39, std::uint64_t{1} << 39};
  CHECK(!gguf_refusal(parts.bytes()).empty());
  parts.extents = {std::uint64_t{1} << 62};
  CHECK(mentions(gguf_refusal(parts.bytes()), {"'a'", "extent"}));
  parts.extents = {1, 1, 1, 1, 1};
  CHECK(mentions(gguf_refusal(parts.bytes()), {"5 dimensions"}));
  parts = {};
  parts.type = 12;  // Q4_K: rows of 256
  CHECK(mentions(gguf_refusal(parts.bytes()), {"'a'", "256"}));
  parts.entries[0] = gguf_text("general.alignment") + gguf_raw(std::uint32_t{4}) + gguf_raw(std::uint32_t{0});
  parts.type = 0;
  CHECK(mentions(gguf_refusal(parts.bytes()), {"alignment"}));
}

TEST_CASE("A GGUF file cut short anywhere is refused") {
  const auto whole = GgufParts().bytes();
  for (std::size_t n = 0; n < whole.size(); ++n) CHECK(!gguf_refusal(whole.substr(0, n)).empty());
}

TEST_CASE("A type that is not read, and scales that are not finite, are told when the tensor is asked for") {
  const Folder folder;
  GgufParts parts;
  parts.type = 29;
  write_text(folder / "x.gguf", parts.bytes());
  CHECK(
      mentions(error_of([&] { GgufFile(folder / "x.gguf").read<float>("a"); }), {"'a'", "type 29", "Q4_0"}));
  parts = {};
  parts.type = 8;
  parts.extents = {32, 2};
  parts.data =
      std::string(34, '\1') + std::string("\x00\x7e", 2) + std::string(32, '\1');  // the second scale is NaN
  write_text(folder / "y.gguf", parts.bytes());
  CHECK(mentions(error_of([&] { GgufFile(folder / "y.gguf").read<float>("a"); }), {"'a'", "block 1"}));
}

TEST_CASE("Every block format gives the gguf package's numbers to the bit") {
  const GgufFile file(golden("lm/tiny.gguf"));
  const SafetensorsFile expected(golden("lm/tiny_gguf.safetensors"));
  CHECK(file.tensors().size() == expected.names().size());
  for (const auto& name : expected.names()) {
    CAPTURE(name);
    CHECK(file.read<double>(name) == expected.read<double>(name));
    CHECK(file.read<float>(name) == expected.read<float>(name));
  }
}
