#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include <mole/io/safetensors.hpp>

#include "io/folder.hpp"
#include "io/limits.hpp"

using namespace mole;
using namespace io_test;

namespace {

std::string header_of(const std::filesystem::path& path) {
  const std::string bytes = read_text(path);
  std::uint64_t length;
  std::memcpy(&length, bytes.data(), 8);
  return bytes.substr(8, length);
}

// The header's entry of a tensor.
std::string entry(const std::string& name, const std::string& dtype, const std::string& shape,
                  const std::string& offsets) {
  return "\"" + name + "\":{\"dtype\":\"" + dtype + "\",\"shape\":" + shape + ",\"data_offsets\":" + offsets +
         "}";
}

}  // namespace

TEST_CASE_TEMPLATE("Every stored type survives writing and reading", T, float, double) {
  const Folder folder;
  const std::vector<T> values{T(0), T(1), T(2), T(3), T(250), T(1)};
  SafetensorsWriter writer;
  writer.metadata("format", "pt");
  for (const auto dtype :
       {Dtype::F64, Dtype::F32, Dtype::F16, Dtype::BF16, Dtype::I64, Dtype::I32, Dtype::U8})
    writer.add("t." + std::string(dtype_name(dtype)), dtype, {2, 3}, values);
  writer.add("flags", Dtype::BOOL, {6}, values);
  writer.add("scalar", Dtype::F64, {}, std::vector<T>{T(0.1)});
  writer.add("empty", Dtype::F32, {0, 4}, std::vector<T>{});
  writer.write(folder / "x.safetensors");

  const SafetensorsFile file(folder / "x.safetensors");
  CHECK(file.metadata().at("format") == "pt");
  CHECK(file.names().size() == 10);
  for (const auto dtype :
       {Dtype::F64, Dtype::F32, Dtype::F16, Dtype::BF16, Dtype::I64, Dtype::I32, Dtype::U8}) {
    const std::string name = "t." + std::string(dtype_name(dtype));
    CHECK(file.at(name).dtype == dtype);
    CHECK(file.at(name).shape == Shape{2, 3});
    CHECK(file.template read<T>(name) == values);
    CHECK(file.read<Index>(name).at(4) == 250);
  }
  CHECK(file.read<std::uint8_t>("flags") == std::vector<std::uint8_t>{0, 1, 1, 1, 1, 1});
  CHECK(file.template read<T>("scalar") == std::vector<T>{T(0.1)});
  CHECK(file.template read<T>("empty").empty());
  CHECK_FALSE(file.contains("t"));
  CHECK(mentions(error_of([&] { file.at("t"); }), {"x.safetensors", "'t'"}));
  CHECK(
      mentions(error_of([&] { file.read<Index>("scalar"); }), {"x.safetensors", "'scalar'", "whole number"}));
}

TEST_CASE("Tensors are laid out as the reference implementation lays them out") {
  const Folder folder;
  SafetensorsWriter writer;
  const std::vector<float> one{1};
  for (const auto& [name, dtype] : std::vector<std::pair<const char*, Dtype>>{
           {"a8", Dtype::U8}, {"b16", Dtype::F16}, {"a16", Dtype::F16}, {"f", Dtype::F32}, {"d", Dtype::F64}})
    writer.add(name, dtype, {1}, one);
  writer.write(folder / "x");
  const std::string header = header_of(folder / "x");
  CHECK(header.size() % 8 == 0);
  CHECK(header.starts_with(R"({"d":{"dtype":"F64","shape":[1],"data_offsets":[0,8]},"f":{)"));
  CHECK(header.find("\"f\"") < header.find("\"a16\""));
  CHECK(header.find("\"a16\"") < header.find("\"b16\""));
  CHECK(header.find("\"b16\"") < header.find("\"a8\""));
  CHECK(read_text(folder / "x").size() == 8 + header.size() + 17);
}

TEST_CASE("A file stays readable when it is moved from one owner to another and replaced on the disk") {
  const Folder folder;
  SafetensorsWriter first, second;
  first.add("x", Dtype::F32, {2}, std::vector<double>{1, 2});
  second.add("y", Dtype::F32, {1}, std::vector<double>{3});
  first.write(folder / "f");
  SafetensorsFile opened(folder / "f");
  const SafetensorsFile file(std::move(opened));
  second.write(folder / "f");
  CHECK(file.read<double>("x") == std::vector<double>{1, 2});
  CHECK(SafetensorsFile(folder / "f").read<double>("y") == std::vector<double>{3});
}

TEST_CASE("A tensor whose memory was given back is read again, and so are its neighbours") {
  const Folder folder;
  SafetensorsWriter writer;
  const std::vector<float> a(5000, 1.5f), b(3, 2.5f), c(7000, 3.5f);
  writer.add("a", Dtype::F32, {5000}, a);
  writer.add("b", Dtype::F32, {3}, b);
  writer.add("c", Dtype::F32, {7000}, c);
  writer.write(folder / "f");
  const SafetensorsFile file(folder / "f");
  for (int round = 0; round < 2; ++round)
    for (const std::string name : {"b", "a", "c"}) {
      file.forget(name);
      CHECK(file.read<float>("a") == a);
      CHECK(file.read<float>("b") == b);
      CHECK(file.read<float>("c") == c);
    }
  CHECK_THROWS_AS(file.forget("d"), FormatError);
}

TEST_CASE("Names and metadata with quotes, controls and other scripts survive") {
  const Folder folder;
  SafetensorsWriter writer;
  const std::string name = "a\"b\\\n\u0435.weight";
  writer.add(name, Dtype::F32, {1}, std::vector<double>{4});
  writer.metadata("k\"", "v\n");
  writer.write(folder / "f");
  const SafetensorsFile file(folder / "f");
  CHECK(file.names() == std::vector<std::string>{name});
  CHECK(file.metadata().at("k\"") == "v\n");
}

TEST_CASE("A file without tensors is read as such") {
  const Folder folder;
  SafetensorsWriter().write(folder / "f");
  CHECK(SafetensorsFile(folder / "f").names().empty());
  write_text(folder / "g", safetensors_bytes("{}", 0));
  CHECK(SafetensorsFile(folder / "g").names().empty());
}

TEST_CASE("The writer refuses what does not fit, and a failed write leaves the old file") {
  const Folder folder;
  SafetensorsWriter writer;
  writer.add("x", Dtype::F32, {2}, std::vector<double>{1, 2});
  CHECK_THROWS_AS(writer.add("x", Dtype::F64, {1}, std::vector<double>{1}), ArgumentError);
  CHECK_THROWS_AS(writer.add("y", Dtype::F32, {3}, std::vector<double>{1}), ArgumentError);
  CHECK_THROWS_AS(writer.add("y", Dtype::U8, {1}, std::vector<double>{-1}), ArgumentError);
  CHECK_THROWS_AS(writer.add("__metadata__", Dtype::U8, {1}, std::vector<double>{1}), ArgumentError);
  writer.write(folder / "f");
  const std::string before = read_text(folder / "f");
  writer.add("bad\xff", Dtype::F32, {1}, std::vector<double>{1});
  CHECK_THROWS_AS(writer.write(folder / "f"), Error);
  CHECK(read_text(folder / "f") == before);
  CHECK(folder.count() == 1);
}

TEST_CASE("Every lie of a damaged file is refused with the file and the tensor") {
  struct Row {
    const char* what;
    std::string bytes;
    std::vector<std::string> parts;
  };
  const auto one = [](const std::string& dtype, const std::string& shape, const std::string& offsets,
                      std::size_t data) {
    return safetensors_bytes("{" + entry("x", dtype, shape, offsets) + "}", data);
  };
  const auto two = [](const std::string& a, const std::string& b, std::size_t data) {
    return safetensors_bytes("{" + entry("a", "F32", "[2]", a) + "," + entry("b", "F32", "[2]", b) + "}",
                             data);
  };
  const std::string good = one("F32", "[2]", "[0,8]", 8);
  const std::string deep(5'000'000, '[');
  const std::vector<Row> rows{
      {"empty", "", {"only 0 bytes"}},
      {"seven bytes", std::string(7, '\0'), {"only 7 bytes"}},
      {"no header", std::string(8, '\0'), {"does not begin with '{'"}},
      {"length past the end", good.substr(0, 40), {"claims", "cut short"}},
      {"length of all ones", std::string(8, '\xff') + "{}", {"18446744073709551615"}},
      {"length above 100 MB", std::string("\x01\xe1\xf5\x05\0\0\0\0", 8) + "{}", {"100000001", "at most"}},
      {"no object", safetensors_bytes("[1]", 0), {"does not begin"}},
      {"blank before", safetensors_bytes(" {}", 0), {"does not begin"}},
      {"malformed", safetensors_bytes("{\"x\":}", 0), {"malformed JSON", "byte 6"}},
      {"unknown, not closed", safetensors_bytes("{\"x\":{\"y\":[1,{\"z\":", 0), {"malformed JSON"}},
      {"an unknown field twice", safetensors_bytes("{\"x\":{\"y\":1,\"y\":1}}", 0), {"'x'", "'y'", "twice"}},
      {"metadata null twice",
       safetensors_bytes("{\"__metadata__\":null,\"__metadata__\":{}}", 0),
       {"__metadata__", "twice"}},
      {"no whole bytes", one("F4", "[3]", "[0,2]", 2), {"'x'", "F4", "does not fill"}},
      {"foreign and too short", one("F8_E4M3", "[3]", "[0,2]", 2), {"'x'", "F8_E4M3", "does not fill"}},
      {"junk after", safetensors_bytes("{}{}", 0), {"malformed JSON"}},
      {"NUL after", safetensors_bytes(std::string("{}\0\0", 4), 0), {"NUL", "byte 2"}},
      {"not UTF-8", safetensors_bytes("{\"\xff\":1}", 0), {"malformed JSON"}},
      {"deep lists", safetensors_bytes("{\"x\":" + deep, 0), {"'x'", "a list"}},
      {"deep in a field", safetensors_bytes("{\"x\":{\"shape\":" + deep, 0), {"'x'", "'shape'", "a list"}},
      {"deep unknown", safetensors_bytes("{\"x\":{\"y\":" + deep, 0), {"'x'", "'y'", "unknown"}},
      {"nested objects", safetensors_bytes("{\"x\":{\"dtype\":{", 0), {"'x'", "'dtype'", "an object"}},
      {"a name twice",
       safetensors_bytes(
           "{" + entry("x", "F32", "[2]", "[0,8]") + "," + entry("x", "F32", "[2]", "[0,8]") + "}", 8),
       {"'x'", "twice"}},
      {"a field twice",
       safetensors_bytes("{\"x\":{\"dtype\":\"F32\",\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}",
                         8),
       {"'x'", "'dtype'", "twice"}},
      {"metadata twice",
       safetensors_bytes("{\"__metadata__\":{},\"__metadata__\":{}}", 0),
       {"__metadata__", "twice"}},
      {"a metadata key twice",
       safetensors_bytes("{\"__metadata__\":{\"k\":\"a\",\"k\":\"b\"}}", 0),
       {"'k'", "twice"}},
      {"metadata of numbers",
       safetensors_bytes("{\"__metadata__\":{\"k\":1}}", 0),
       {"metadata", "'k'", "text"}},
      {"metadata not an object", safetensors_bytes("{\"__metadata__\":[]}", 0), {"metadata", "a list"}},
      {"a tensor that is a number", safetensors_bytes("{\"x\":5}", 0), {"'x'", "an object"}},
      {"a tensor that is null", safetensors_bytes("{\"x\":null}", 0), {"'x'", "null"}},
      {"no dtype", safetensors_bytes("{\"x\":{\"shape\":[2],\"data_offsets\":[0,8]}}", 8), {"'x'", "lacks"}},
      {"no shape",
       safetensors_bytes("{\"x\":{\"dtype\":\"F32\",\"data_offsets\":[0,8]}}", 8),
       {"'x'", "lacks"}},
      {"no offsets", safetensors_bytes("{\"x\":{\"dtype\":\"F32\",\"shape\":[2]}}", 8), {"'x'", "lacks"}},
      {"unknown dtype", one("F13", "[2]", "[0,8]", 8), {"'x'", "F13"}},
      {"dtype a number", safetensors_bytes("{\"x\":{\"dtype\":7}}", 0), {"'x'", "'dtype'", "7"}},
      {"shape a text", one("F32", "\"2\"", "[0,8]", 8), {"'x'", "'shape'"}},
      {"negative extent", one("F32", "[-2]", "[0,8]", 8), {"'x'", "'shape'", "-2"}},
      {"real extent", one("F32", "[2.0]", "[0,8]", 8), {"'x'", "'shape'", "2.0"}},
      {"extent beyond 64 bits",
       one("F32", "[99999999999999999999]", "[0,8]", 8),
       {"'x'", "99999999999999999999"}},
      {"extent beyond signed",
       one("F32", "[18446744073709551615]", "[0,8]", 8),
       {"'x'", "18446744073709551615"}},
      {"nine axes", one("F32", "[1,1,1,1,1,1,1,1,2]", "[0,8]", 8), {"'x'", "8 axes"}},
      {"product overflows", one("F32", "[4294967296,4294967296,2]", "[0,8]", 8), {"'x'", "overflow"}},
      {"bytes overflow to 8", one("F32", "[4611686018427387906]", "[0,8]", 8), {"'x'", "does not fill"}},
      {"negative offset", one("F32", "[2]", "[-8,0]", 8), {"'x'", "'data_offsets'", "-8"}},
      {"one offset", one("F32", "[2]", "[8]", 8), {"'x'", "data_offsets"}},
      {"three offsets", one("F32", "[2]", "[0,8,8]", 8), {"'x'", "data_offsets"}},
      {"begin after end", one("F32", "[0]", "[8,0]", 8), {"'x'", "ends before"}},
      {"past the end", one("F32", "[4]", "[0,16]", 8), {"'x'", "ends at byte 16 of 8"}},
      {"far past the end",
       one("F32", "[2]", "[9223372036854775799,9223372036854775807]", 8),
       {"'x'", "ends at byte"}},
      {"too short for its shape", one("F32", "[3]", "[0,8]", 8), {"'x'", "[3]", "does not fill the 8 bytes"}},
      {"too long for its shape", one("F32", "[1]", "[0,8]", 8), {"'x'", "does not fill"}},
      {"half an element", one("F32", "[1]", "[0,7]", 7), {"'x'", "does not fill"}},
      {"overlap", two("[0,8]", "[4,12]", 12), {"'b'", "overlaps"}},
      {"the same bytes", two("[0,8]", "[0,8]", 8), {"'b'", "overlaps"}},
      {"gap", two("[0,8]", "[12,20]", 20), {"'b'", "gap"}},
      {"gap at the start", one("F32", "[2]", "[8,16]", 16), {"'x'", "gap"}},
      {"trailing bytes", good + "1234", {"4 bytes follow"}},
      {"data without tensors", safetensors_bytes("{}", 3), {"3 bytes follow"}}};
  const Folder folder;
  write_text(folder / "good", good);
  REQUIRE(SafetensorsFile(folder / "good").read<float>("x").size() == 2);
  for (const auto& row : rows) {
    const auto& what = row.what;
    const auto& bytes = row.bytes;
    const auto& parts = row.parts;
    CAPTURE(what);
    write_text(folder / "bad.safetensors", bytes);
    const auto error = error_of([&] { SafetensorsFile file(folder / "bad.safetensors"); });
    CAPTURE(error);
    CHECK(mentions(error, {"bad.safetensors"}));
    CHECK(mentions(error, parts));
  }
}

TEST_CASE("No cut and no changed byte of a file makes it crash") {
  const Folder folder;
  SafetensorsWriter writer;
  writer.add("a", Dtype::F32, {2, 2}, std::vector<double>{1, 2, 3, 4});
  writer.add("b", Dtype::U8, {3}, std::vector<double>{1, 2, 3});
  writer.write(folder / "f");
  const std::string good = read_text(folder / "f");
  int refused = 0, tried = 0;
  const auto attempt = [&](const std::string& bytes) {
    write_text(folder / "g", bytes);
    ++tried;
    try {
      const SafetensorsFile file(folder / "g");
      for (const auto& name : file.names()) file.read<double>(name);
    } catch (const Error&) {
      ++refused;
    }
  };
  for (std::size_t n = 0; n < good.size(); ++n) attempt(good.substr(0, n));
  CHECK(refused == tried);
  for (std::size_t i = 0; i < good.size(); ++i) {
    for (const char byte : {'\0', '9', '"', '}', '\xff'}) {
      std::string bytes = good;
      bytes[i] = byte;
      attempt(bytes);
    }
  }
  CHECK(refused < tried);
}

TEST_CASE("A file that is not there, a folder and a pipe are refused without a hang") {
  const Folder folder;
  CHECK(mentions(error_of<Error>([&] { SafetensorsFile file(folder / "none"); }), {"none", "No such file"}));
  CHECK(mentions(error_of<Error>([&] { SafetensorsFile file(folder.path); }), {"not a regular file"}));
  CHECK(mentions(error_of<Error>([] { SafetensorsFile file("/dev/null"); }),
                 {"/dev/null", "not a regular file"}));
}

TEST_CASE("The goldens that PyTorch wrote are read") {
  const SafetensorsFile balance(golden("balance_loss.safetensors"));
  const auto loss = balance.read<double>("loss"), q = balance.read<double>("q");
  double sum = 0;
  for (const double value : q) sum -= std::log(value);
  CHECK(loss.at(0) == doctest::Approx(sum).epsilon(1e-12));

  const SafetensorsFile base(golden("hf/t5_flan/base/model.safetensors"));
  CHECK(base.metadata().at("format") == "pt");
  CHECK(base.at("shared.weight").shape == Shape{270, 48});
  CHECK(base.read<float>("shared.weight").size() == 270 * 48);
  const SafetensorsFile expected(golden("hf/t5_flan/expected.safetensors"));
  CHECK(expected.read<Index>("input_ids").size() ==
        static_cast<std::size_t>(expected.at("input_ids").shape.size()));
}

TEST_CASE("What the reference implementation passes over is passed over") {
  const auto holds_one = [](const std::filesystem::path& path) {
    return SafetensorsFile(path).read<float>("b").size() == 1;
  };
  CHECK(holds_one(case_of("safetensors/metadata_null.safetensors")));
  CHECK(holds_one(case_of("safetensors/extra_field.safetensors")));
  const Folder folder;
  write_text(folder / "f",
             safetensors_bytes(R"({"b":{"x":{"y":[1,-2.5,{"dtype":null}]},"dtype":"F32","z":[],)"
                               R"("shape":[1],"data_offsets":[0,4],"w":{}}})",
                               4));
  CHECK(holds_one(folder / "f"));
}

TEST_CASE(
    "A blank before the header and a tensor of nine axes are refused, though the reference implementation reads both") {
  const auto error = [](const std::string& name) {
    return error_of([&] { SafetensorsFile file(case_of("safetensors/" + name + ".safetensors")); });
  };
  // The format says that '{' comes first.
  CHECK(mentions(error("leading_space"), {"leading_space", "does not begin with '{'"}));
  CHECK(mentions(error("nine_axes"), {"nine_axes", "'b'", "'shape'", "8 axes"}));
}

TEST_CASE("A tensor of a type that is not read is listed, and an error when it is asked for") {
  for (const std::string name : {"i8", "u32"}) {
    CAPTURE(name);
    const SafetensorsFile file(case_of("safetensors/" + name + ".safetensors"));
    CHECK(file.names() == std::vector<std::string>{"b"});
    CHECK(file.contains("b"));
    CHECK(file.unread().at("b").dtype == (name == "i8" ? "I8" : "U32"));
    CHECK(file.unread().at("b").bytes == 4);
    CHECK(file.unread().at("b").data != nullptr);
    CHECK(mentions(error_of([&] { file.read<float>("b"); }),
                   {name, "tensor 'b'", std::string(file.unread().at("b").dtype), "convert"}));
    CHECK(mentions(error_of([&] { file.at("b"); }), {"tensor 'b'"}));
  }
  const Folder folder;
  std::string header = "{" + entry("a", "F32", "[1]", "[0,4]");
  int begin = 4;
  for (const auto& [dtype, shape, bytes] :
       std::vector<std::tuple<const char*, const char*, int>>{{"F4", "[2,3]", 3},
                                                              {"F6_E2M3", "[4]", 3},
                                                              {"F6_E3M2", "[4]", 3},
                                                              {"F8_E4M3", "[0]", 0},
                                                              {"F8_E5M2", "[]", 1},
                                                              {"F8_E8M0", "[2]", 2},
                                                              {"F8_E4M3FNUZ", "[1]", 1},
                                                              {"F8_E5M2FNUZ", "[1]", 1},
                                                              {"I16", "[1]", 2},
                                                              {"U16", "[2]", 4},
                                                              {"U64", "[1]", 8},
                                                              {"C64", "[1]", 8}}) {
    header += "," + entry(dtype, dtype, shape,
                          "[" + std::to_string(begin) + "," + std::to_string(begin + bytes) + "]");
    begin += bytes;
  }
  write_text(folder / "f", safetensors_bytes(header + "}", static_cast<std::size_t>(begin)));
  const SafetensorsFile file(folder / "f");
  CHECK(file.names().size() == 13);
  CHECK(file.unread().size() == 12);
  CHECK(file.unread().at("F4").shape == Shape{2, 3});
  CHECK(file.read<float>("a").size() == 1);
}

TEST_CASE("A Git LFS pointer is told from a damaged file") {
  const Folder folder;
  write_text(folder / "m.safetensors", "version https://git-lfs.github.com/spec/v1\noid sha256:" +
                                           std::string(64, '0') + "\nsize 242043056\n");
  CHECK(mentions(error_of([&] { SafetensorsFile file(folder / "m.safetensors"); }),
                 {"m.safetensors", "Git LFS pointer", "git lfs pull"}));
}

TEST_CASE("Names and values of a header are escaped and cut in messages") {
  const Folder folder;
  const std::string evil = "\\u001b]0;\\n" + std::string(1'000'000, 'n');
  for (const auto& header :
       {"{\"" + evil + "\":5}",
        "{\"" + evil + "\":{\"dtype\":\"" + evil + "\",\"shape\":[],\"data_offsets\":[0,4]}}",
        "{\"x\":{\"dtype\":\"F32\",\"shape\":\"" + evil + "\"}}", "{\"x\":\"" + evil + "\"}",
        "{\"x\":{\"shape\":[" + std::string(100'000, '1') + "]}}",
        "{\"" + evil + "\":{\"" + evil + "\":1,\"" + evil + "\":2}}",
        "{\"__metadata__\":{\"" + evil + "\":1}}", "{\"" + evil, "{\"x\":" + evil}) {
    write_text(folder / "f", safetensors_bytes(header, 4));
    const auto error = error_of([&] { SafetensorsFile file(folder / "f"); });
    CHECK(mentions(error, {"f"}));
    CHECK(fit_to_print(error));
  }
  write_text(folder / "f", safetensors_bytes("{" + entry("\\u001b[31m", "I8", "[4]", "[0,4]") + "}", 4));
  const SafetensorsFile file(folder / "f");
  CHECK(fit_to_print(error_of([&] { file.at("\x1b[31m"); })));
  CHECK(fit_to_print(error_of([&] { file.at(std::string(10'000, '\n')); })));
}

TEST_CASE("A header of many small tensors takes memory and time in proportion") {
  const Folder folder;
  std::string header = "{";
  for (int i = 0; i < 30'000; ++i)
    header += (i ? "," : "") + entry(std::to_string(i), i % 2 ? "F32" : "F8_E4M3", "[0]", "[0,0]");
  write_text(folder / "f", safetensors_bytes(header + "}", 0));
  CHECK(limited([&] { return std::to_string(SafetensorsFile(folder / "f").names().size()); }) == "30000");
}

TEST_CASE(
    "A header of more texts, tensors or fields than any file has is refused before they take memory and time") {
  const Folder folder;
  const auto opened = [&](const std::string& begin, int n, const std::string& value, const std::string& end) {
    std::string header = begin;
    for (int i = 0; i < n; ++i) header += (i ? ",\"" : "\"") + std::to_string(i) + "\":" + value;
    write_text(folder / "f", safetensors_bytes(header + end, 0));
    return limited([&] {
      const SafetensorsFile file(folder / "f");
      return std::to_string(file.names().size()) + " tensors, " + std::to_string(file.metadata().size()) +
             " texts";
    });
  };
  CHECK(opened(R"({"__metadata__":{)", 100'000, R"("")", "}}") == "0 tensors, 100000 texts");
  CHECK(mentions(opened(R"({"__metadata__":{)", 500'000, R"("")", "}}"), {"metadata", "too many", "100000"}));
  CHECK(opened(R"({"x":{"dtype":"F32","shape":[0],"data_offsets":[0,0],)", 97, "0", "}}") ==
        "1 tensors, 0 texts");
  CHECK(mentions(opened(R"({"x":{)", 500'000, "0", "}}"), {"'x'", "fields", "100"}));
  std::string list = R"({"x":{"more":[0)";
  for (int i = 0; i < 2'500'000; ++i) list += ",0";
  CHECK(mentions(opened(list + "],", 1, "0", "}}"), {"'x'", "'more'", "1000000 values"}));
  // So many tensors would take long to write.
  detail::HeaderReader reader(
      "f:", [](const std::string&) { return false; }, [](const std::string&, const detail::HeaderTensor&) {});
  reader.start_object(1);
  const auto names = [&](int n) {
    for (int i = 0; i < n; ++i) {
      std::string name = "x";
      reader.key(name);
    }
  };
  names(500'000);
  CHECK(mentions(error_of([&] { names(1); }), {"f:", "tensors", "too many", "500000"}));
}

TEST_CASE("The writer makes no file that is refused for its many texts") {
  const Folder folder;
  SafetensorsWriter writer;
  for (int i = 0; i <= 100'000; ++i) writer.metadata(std::to_string(i), "");
  CHECK(mentions(error_of<Error>([&] { writer.write(folder / "f"); }), {"100001", "100000"}));
  CHECK(folder.count() == 0);
}
