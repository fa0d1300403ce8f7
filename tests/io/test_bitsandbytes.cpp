// Weights as bitsandbytes stores them, and files that only look like it.

#include <cmath>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <mole/io/bitsandbytes.hpp>

#include "io/folder.hpp"
#include "io/quantised.hpp"

using namespace mole;
using namespace io_test;

namespace {

std::shared_ptr<const Checkpoint> quantised_checkpoint() {
  return std::make_shared<const Checkpoint>(std::string(MOLE_TEST_DATA) + "/quant");
}

/// The tensors of one golden weight as a file, some of them changed or left out.
struct SpoiltWeight {
  struct Part {
    Dtype dtype;
    Shape shape;
    std::vector<double> values;
  };
  std::map<std::string, Part> parts;
  std::string state;

  explicit SpoiltWeight(const std::string& name) {
    const auto& file = quantised_golden();
    for (const auto& part : file.names()) {
      if (!part.starts_with(name + ".weight") || part.find("quant_state") != part.npos) continue;
      parts["w" + part.substr(name.size() + 7)] = {file.at(part).dtype, file.at(part).shape,
                                                   file.read<double>(part)};
    }
    state = quantised_bytes(name + ".weight.quant_state.bitsandbytes__nf4");
  }
  void replace(const std::string& from, const std::string& to) {
    const auto at = state.find(from);
    REQUIRE(at != state.npos);
    state.replace(at, from.size(), to);
  }
  std::string refusal(const std::string& type = "nf4") const {
    const Folder folder;
    SafetensorsWriter writer;
    for (const auto& [name, part] : parts) writer.add(name, part.dtype, part.shape, part.values);
    if (!state.empty())
      writer.add("w.quant_state.bitsandbytes__" + type, Dtype::U8, Shape{static_cast<Index>(state.size())},
                 std::vector<std::uint8_t>(state.begin(), state.end()));
    writer.write(folder / "model.safetensors");
    return error_of([&] { bitsandbytes_weight(std::make_shared<const Checkpoint>(folder.path), "w"); });
  }
};

}  // namespace

TEST_CASE("Weights of 4 bits have bitsandbytes' numbers, products and gradients while they stay packed") {
  const auto file = quantised_checkpoint();
  for (const std::string name :
       {"nf4", "nf4_double", "nf4_odd", "nf4_double_odd", "fp4_odd", "fp4_double_odd"}) {
    const auto weight = bitsandbytes_weight(file, name + ".weight");
    REQUIRE(weight.rows);
    check_packed(name, weight.rows);
    CHECK(weight.rows->bytes() < weight.rows->shape().size() * 5 / 8);
  }
}

TEST_CASE("A weight of 8 bits is w SCB / 127") {
  const auto weight = bitsandbytes_weight(quantised_checkpoint(), "int8.weight");
  REQUIRE(weight.rows);
  const auto numbers = testing::doubles(unpacked<float, Cpu>(*weight.rows));
  const auto expected = quantised_golden().read<double>("int8.dequantised");
  REQUIRE(numbers.size() == expected.size());
  for (std::size_t i = 0; i < numbers.size(); ++i)
    CHECK(std::abs(numbers[i] - expected[i]) <= 2.4e-7 * std::abs(expected[i]));
  check_products<float>("int8", weight.rows);
}

TEST_CASE("Any stretch of a row is unpacked as in the whole, where blocks run over the ends of rows too") {
  for (const std::string name : {"nf4_odd", "nf4_double", "int8"}) {
    CAPTURE(name);
    const auto rows = bitsandbytes_weight(quantised_checkpoint(), name + ".weight").rows;
    const Index n = rows->shape()[1];
    const auto whole = unpacked<float, Cpu>(*rows).to_host();
    std::vector<float> part(static_cast<std::size_t>(n));
    for (Index r = 0; r < rows->shape()[0]; ++r)
      for (Index first = 0; first < n; first += PackedRows::step) {
        const Index count = std::min(PackedRows::step, n - first);
        rows->unpack(r, first, count, part.data());
        CHECK(std::equal(part.begin(), part.begin() + count, whole.begin() + r * n + first));
      }
  }
}

TEST_CASE("Rows of an odd number of numbers begin in the middle of a byte") {
  const Folder folder;
  SafetensorsWriter writer;
  // 3 x 5 numbers in blocks of 4: their map is 0 .. 15, and the scales are 1, 10, 100, 1000.
  const std::vector<int> bytes{0x12, 0x34, 0x56, 0x78, 0x9a, 0xbc, 0xde, 0xf0};
  std::vector<double> map;
  for (int i = 0; i < 16; ++i) map.push_back(i);
  writer.add("w", Dtype::U8, Shape{8, 1}, std::vector<double>(bytes.begin(), bytes.end()));
  writer.add("w.quant_map", Dtype::F32, Shape{16}, map);
  writer.add("w.absmax", Dtype::F32, Shape{4}, std::vector<double>{1, 10, 100, 1000});
  const std::string state = R"({"quant_type": "nf4", "blocksize": 4, "dtype": "float32", "shape": [3, 5]})";
  writer.add("w.quant_state.bitsandbytes__nf4", Dtype::U8, Shape{static_cast<Index>(state.size())},
             std::vector<std::uint8_t>(state.begin(), state.end()));
  writer.write(folder / "model.safetensors");
  const auto rows = bitsandbytes_weight(std::make_shared<const Checkpoint>(folder.path), "w").rows;
  CHECK(unpacked<float, Cpu>(*rows).to_host() ==
        std::vector<float>{1, 2, 3, 4, 50, 60, 70, 80, 900, 1000, 1100, 1200, 13000, 14000, 15000});
}

TEST_CASE("A tensor with nothing beside it is no weight of bitsandbytes") {
  CHECK(!bitsandbytes_weight(quantised_checkpoint(), "x").rows);
}

TEST_CASE("A quant_state that lies is refused by file, tensor and field") {
  CHECK(SpoiltWeight("nf4").refusal() == "");
  CHECK(SpoiltWeight("nf4_double").refusal() == "");
  const auto with = [](const std::string& from, const std::string& to) {
    SpoiltWeight weight("nf4_double");
    weight.replace(from, to);
    return weight.refusal();
  };
  CHECK(mentions(with("\"nf4\"", "\"fp4\""), {"model.safetensors", "quant_state", "quant_type", "'fp4'"}));
  CHECK(mentions(with("[24, 512]", "[24, 514]"), {"'w'", "6168", "[6144, 1]"}));
  CHECK(mentions(with("[24, 512]", "[24]"), {"shape"}));
  CHECK(mentions(with("[24, 512]", "[24.5, 512]"), {"shape", "24.5"}));
  CHECK(mentions(with("[24, 512]", "[0, 512]"), {"shape", "0"}));
  CHECK(mentions(with("[24, 512]", "[1073741824, 1073741824]"), {"'w'"}));
  CHECK(mentions(with("\"blocksize\": 64", "\"blocksize\": 63"), {"blocksize", "63"}));
  CHECK(mentions(with("\"blocksize\": 64", "\"blocksize\": 0"), {"blocksize", "0"}));
  CHECK(mentions(with("\"blocksize\": 64", "\"blocksize\": 128"), {"'w.absmax'", "96"}));
  CHECK(mentions(with("\"nested_blocksize\": 256", "\"nested_blocksize\": 64"), {"'w.nested_absmax'", "3"}));
  CHECK(mentions(with("\"blocksize\"", "\"block\""), {"quant_state", "lacks blocksize"}));
  CHECK(
      mentions(with("\"nested_blocksize\"", "\"nested_block\""), {"quant_state", "lacks nested_blocksize"}));
  CHECK(
      mentions(with("\"nested_blocksize\": 256", "\"nested_blocksize\": 255"), {"nested_blocksize", "255"}));
  CHECK(mentions(with("\"nested_offset\"", "\"nested_offsets\""), {"nested_offset"}));
  CHECK(mentions(with("0.06084002926945686", "1e39"), {"nested_offset", "finite"}));
  CHECK(mentions(with("0.06084002926945686", "\"much\""), {"nested_offset", "much"}));
  CHECK(mentions(with("{", "["), {"quant_state"}));
  CHECK(mentions(SpoiltWeight("nf4").refusal("fp4"), {"quant_type", "'nf4'"}));
  SpoiltWeight weight("nf4");
  weight.state = "[1]";
  CHECK(mentions(weight.refusal(), {"quant_state", "object"}));
  weight.state = std::string(20'000, ' ');
  CHECK(mentions(weight.refusal(), {"quant_state", "10000"}));
  weight.state.clear();
  CHECK(mentions(weight.refusal(), {"quant_state.bitsandbytes__fp4"}));
}

TEST_CASE("Tensors beside a quantised weight that do not fit are refused by name") {
  const auto with = [](const std::string& name, const std::function<void(SpoiltWeight::Part&)>& spoil) {
    SpoiltWeight weight("nf4_double");
    REQUIRE(weight.parts.contains(name));
    spoil(weight.parts.at(name));
    return weight.refusal();
  };
  const auto shorter = [](SpoiltWeight::Part& part) {
    part.values.pop_back();
    part.shape = Shape{static_cast<Index>(part.values.size())};
  };
  const auto infinite = [](SpoiltWeight::Part& part) {
    part.values.front() = std::numeric_limits<double>::infinity();
  };
  for (const std::string name : {"w", "w.absmax", "w.quant_map", "w.nested_absmax", "w.nested_quant_map"}) {
    CAPTURE(name);
    const std::string quoted = "'" + name + "'";
    CHECK(mentions(with(name, shorter), {"model.safetensors", quoted.c_str(), "elements"}));
    CHECK(mentions(with(name, [](auto& part) { part.dtype = Dtype::F64; }), {quoted.c_str(), "F64"}));
    SpoiltWeight lacking("nf4_double");
    lacking.parts.erase(name);
    CHECK(mentions(lacking.refusal(), {quoted.c_str()}));
  }
  for (const std::string name : {"w.quant_map", "w.nested_absmax", "w.nested_quant_map"})
    CHECK(mentions(with(name, infinite), {("'" + name + "'").c_str(), "finite"}));
  // Each is finite, but not their product.
  const auto large = with("w.nested_absmax", [](auto& part) { part.values.front() = 3e38; });
  CHECK(large == "");
  SpoiltWeight both("nf4_double");
  both.parts.at("w.nested_absmax").values.front() = 3e38;
  for (auto& value : both.parts.at("w.nested_quant_map").values) value = 100;
  CHECK(mentions(both.refusal(), {"'w.absmax'", "finite", "block 0"}));
}

TEST_CASE("A weight of 8 bits with scales or an order that do not fit is refused by name") {
  const auto refusal = [](const std::string& dtype, Index rows, Index scales, int order) {
    const Folder folder;
    const std::string n = std::to_string(4 * scales), end = std::to_string(4 * scales + rows * 2),
                      last = std::to_string(4 * scales + rows * 2 + 1);
    const std::string header = R"({"x.SCB":{"dtype":"F32","shape":[)" + std::to_string(scales) +
                               R"(],"data_offsets":[0,)" + n + R"(]},"x.weight":{"dtype":")" + dtype +
                               R"(","shape":[)" + std::to_string(rows) + R"(,2],"data_offsets":[)" + n + "," +
                               end + R"(]},"x.weight_format":{"dtype":"U8","shape":[],"data_offsets":[)" +
                               end + "," + last + "]}}";
    auto bytes = safetensors_bytes(header, static_cast<std::size_t>(4 * scales + rows * 2 + 1));
    bytes.back() = static_cast<char>(order);
    write_text(folder / "model.safetensors", bytes);
    return error_of(
        [&] { bitsandbytes_weight(std::make_shared<const Checkpoint>(folder.path), "x.weight"); });
  };
  CHECK(refusal("I8", 3, 3, 0) == "");
  CHECK(mentions(refusal("U8", 3, 3, 0), {"'x.weight'", "I8"}));
  CHECK(mentions(refusal("I8", 3, 4, 0), {"'x.SCB'", "3", "[4]"}));
  CHECK(mentions(refusal("I8", 3, 3, 1), {"'x.weight_format'", "1"}));
}
