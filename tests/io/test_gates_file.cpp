#include <doctest/doctest.h>

#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include <mole/io/gates_file.hpp>

#include "folder.hpp"

using namespace mole;
using namespace io_test;

namespace {

GatesFile sample() {
  GatesFile file;
  file.scope = "block";
  file.input = "experts";
  file.pooling = "mean";
  file.experts = {"fr", "de", "r\"o"};
  file.digests = {"1", "2", "3"};
  file.top_k = 2;
  file.gates["encoder.block.0"] = {2, 3, {1, 2, 3, 4, 5, 0.1}, 0.25, {}};
  file.gates["decoder.block.0@memory"] = {1, 2, {-1, 1.0 / 3}, -0.5, {"r\"o", "fr"}};
  return file;
}

std::vector<Adapter> adapters_of(const GatesFile& file) {
  std::vector<Adapter> adapters(file.experts.size());
  for (std::size_t i = 0; i < adapters.size(); ++i) {
    adapters[i].name = file.experts[i];
    adapters[i].digest = file.digests[i];
  }
  return adapters;
}

}  // namespace

TEST_CASE_TEMPLATE("gates survive writing and reading", T, float, double) {
  const Folder folder;
  write_gates<T>(folder / "g.safetensors", sample());
  const auto file = read_gates(folder / "g.safetensors");
  CHECK(file.version == 1);
  CHECK(file.scope == "block");
  CHECK(file.input == "experts");
  CHECK(file.pooling == "mean");
  CHECK(file.experts == sample().experts);
  CHECK(file.digests == sample().digests);
  CHECK(file.top_k == 2);
  REQUIRE(file.gates.size() == 2);
  const auto& gate = file.gates.at("encoder.block.0");
  CHECK(gate.features == 2);
  CHECK(gate.n_experts == 3);
  CHECK(gate.weight == std::vector<double>{1, 2, 3, 4, 5, static_cast<double>(T(0.1))});
  CHECK(gate.log_tau == 0.25);
  CHECK(gate.experts.empty());
  const auto& memory = file.gates.at("decoder.block.0@memory");
  CHECK(memory.experts == std::vector<std::string>{"r\"o", "fr"});
  CHECK(memory.weight.at(1) == static_cast<double>(T(1.0 / 3)));

  const SafetensorsFile stored(folder / "g.safetensors");
  CHECK(stored.at("decoder.block.0@memory.gate.weight").shape == Shape{1, 2});
  CHECK(stored.at("encoder.block.0.gate.log_temperature").shape == Shape{});
}

TEST_CASE("gates for other adapters are refused, and which is said") {
  const Folder folder;
  write_gates(folder / "g.safetensors", sample());
  const auto file = read_gates(folder / "g.safetensors");
  auto adapters = adapters_of(file);
  check_gates_match(file, adapters);

  const auto error = [&](const std::function<void(std::vector<Adapter>&)>& change) {
    auto others = adapters_of(file);
    change(others);
    return error_of([&] { check_gates_match(file, others); });
  };
  CHECK(mentions(error([](auto& a) { a[1].digest = "9"; }), {"g.safetensors", "'de'", "2", "9"}));
  CHECK(mentions(error([](auto& a) { std::swap(a[0], a[1]); }), {"fr, de", "de, fr", "order"}));
  CHECK(mentions(error([](auto& a) { a.pop_back(); }), {"given fr, de"}));
  CHECK(mentions(error([](auto& a) { a[2].name = "ro"; }), {"g.safetensors", "fr, de, ro"}));
}

TEST_CASE("gates that do not fit their experts are not written") {
  const Folder folder;
  for (const auto& row : std::vector<std::pair<std::string, std::function<void(GatesFile&)>>>{
           {"no experts", [](GatesFile& f) { f.experts.clear(); }},
           {"no gates", [](GatesFile& f) { f.gates.clear(); }},
           {"digests", [](GatesFile& f) { f.digests.pop_back(); }},
           {"top_k", [](GatesFile& f) { f.top_k = 4; }},
           {"weights", [](GatesFile& f) { f.gates.at("encoder.block.0").weight.pop_back(); }},
           {"columns", [](GatesFile& f) { f.gates.at("decoder.block.0@memory").experts.pop_back(); }},
           {"does not list", [](GatesFile& f) { f.gates.at("decoder.block.0@memory").experts[0] = "en"; }},
           {"twice", [](GatesFile& f) { f.gates.at("decoder.block.0@memory").experts[0] = "fr"; }},
           {"NaN", [](GatesFile& f) { f.gates.at("encoder.block.0").weight[1] = NAN; }},
           {"infinite", [](GatesFile& f) { f.gates.at("encoder.block.0").log_tau = INFINITY; }},
           {"empty", [](GatesFile& f) { f.gates["x"] = {}; }}}) {
    const auto& what = row.first;
    const auto& change = row.second;
    CAPTURE(what);
    auto file = sample();
    change(file);
    CHECK(mentions(error_of<ArgumentError>([&] { write_gates(folder / "g", file); }), {what}));
  }
  CHECK(folder.count() == 0);
}

TEST_CASE("files that are no gates files, later ones and damaged ones are refused") {
  const Folder folder;
  write_gates(folder / "good", sample());
  const SafetensorsFile good(folder / "good");
  const auto error = [&](const std::string& key, const std::string& value, const std::string& leave_out = "",
                         const std::string& add = "") {
    SafetensorsWriter writer;
    for (const auto& [name, text] : good.metadata()) {
      if (name != key) writer.metadata(name, text);
    }
    if (!value.empty()) writer.metadata(key, value);
    for (const auto& name : good.names())
      if (name != leave_out) writer.add(name, Dtype::F64, good.at(name).shape, good.read<double>(name));
    if (!add.empty()) writer.add(add, Dtype::F64, {1}, std::vector<double>{1});
    writer.write(folder / "bad.gates");
    return error_of([&] { read_gates(folder / "bad.gates"); });
  };
  CHECK(error("", "").empty());
  CHECK(mentions(error("format", "pt"), {"bad.gates", "no gates file"}));
  CHECK(mentions(error("format", ""), {"no gates file"}));
  CHECK(mentions(error("version", "2"), {"bad.gates", "version 2"}));
  CHECK(mentions(error("version", "one"), {"'version'", "'one'"}));
  CHECK(error("router", "").empty());
  CHECK(mentions(error("router", "oracle"), {"bad.gates", "'router'", "oracle", "mole, arrow and xlora"}));
  for (const std::string router : {"arrow", "xlora"})
    CHECK(mentions(error("router", router), {"bad.gates", router, "mole was asked for", "load_router()"}));
  for (const std::string key : {"scope", "input", "pooling", "top_k", "experts", "digests"})
    CHECK(mentions(error(key, ""), {"bad.gates", "'" + key + "'", "missing"}));
  CHECK(mentions(error("experts", "[\"fr\", 2]"), {"bad.gates", "'experts'"}));
  CHECK(mentions(error("experts", "[\"fr\""), {"bad.gates", "'experts'", "malformed"}));
  CHECK(mentions(error("experts", "[\"fr\",\"de\"]"), {"bad.gates", "3 digests for 2 experts"}));
  CHECK(mentions(error("top_k", "-1"), {"'top_k'"}));
  CHECK(mentions(error("gate_experts", "{\"none\":[\"fr\"]}"), {"gate_experts", "none"}));
  CHECK(mentions(error("gate_experts", ""), {"decoder.block.0@memory", "columns"}));
  CHECK(mentions(error("", "", "encoder.block.0.gate.weight"),
                 {"bad.gates", "encoder.block.0.gate.weight", "missing"}));
  CHECK(mentions(error("", "", "encoder.block.0.gate.log_temperature"), {"log_temperature", "missing"}));
  CHECK(mentions(error("", "", "", "encoder.bias"), {"bad.gates", "encoder.bias"}));
  CHECK(mentions(error("", "", "", "x.gate.weight"), {"x.gate"}));
}
