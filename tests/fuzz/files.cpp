// Readers of files that know no model: safetensors, JSON, the expressions of PEFT's configurations, runs, weights of
// bitsandbytes.

#include <cmath>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include <mole/backends/cpu.hpp>
#include <mole/core/quote.hpp>
#include <mole/io/bitsandbytes.hpp>
#include <mole/io/json.hpp>
#include <mole/io/pattern.hpp>
#include <mole/io/run_checkpoint.hpp>
#include <mole/io/safetensors.hpp>

#include "harness.hpp"

namespace mole_fuzz {

namespace {

using mole::Dtype;
using mole::Index;
using mole::Shape;

bool same(double a, double b) { return a == b || (std::isnan(a) && std::isnan(b)); }

// What is read can be written, and reads the same.
void test_safetensors(const std::vector<std::string>& parts) {
  const auto path = folder() / "f.safetensors", again = folder() / "again.safetensors";
  write_bytes(path, parts[0]);
  accepts([&] {
    const mole::SafetensorsFile file(path);
    mole::SafetensorsWriter writer;
    std::vector<std::string> kept;
    for (const auto& name : file.names()) {
      accepts([&] { (void)file.read<std::int64_t>(name); });
      accepts([&] {
        const auto values = file.read<double>(name);
        const auto& view = file.at(name);
        require(static_cast<Index>(values.size()) == view.shape.size(), "another number of values");
        if (!mole::is_floating(view.dtype)) return;
        writer.add(name, view.dtype, view.shape, values);
        kept.push_back(name);
      });
    }
    for (const auto& [key, text] : file.metadata()) writer.metadata(key, text);
    writer.write(again);
    const mole::SafetensorsFile copy(again);
    require(copy.metadata() == file.metadata(), "other metadata after a round trip");
    require(copy.names() == kept, "other names after a round trip");
    for (const auto& name : kept) {
      const auto a = file.read<double>(name), b = copy.read<double>(name);
      require(copy.at(name).shape == file.at(name).shape && a.size() == b.size(), "another shape");
      for (std::size_t i = 0; i < a.size(); ++i) require(same(a[i], b[i]), "another value in " + name);
    }
  });
}

void seed_safetensors(const std::function<void(const std::vector<std::string>&)>& add) {
  const auto path = folder() / "seed.safetensors";
  mole::SafetensorsWriter empty;
  empty.write(path);
  add({read_bytes(path)});
  mole::SafetensorsWriter writer;
  writer.metadata("format", "pt");
  const std::vector<double> values{0, 1, -2.5, 1e-3, 4, 0};
  const std::vector<std::int64_t> whole{0, 1, 2, 3, 4, 1};
  writer.add("f64", Dtype::F64, Shape{2, 3}, values);
  writer.add("f32", Dtype::F32, Shape{6}, values);
  writer.add("f16", Dtype::F16, Shape{3, 1, 2}, values);
  writer.add("bf16", Dtype::BF16, Shape{6, 1}, values);
  writer.add("i64", Dtype::I64, Shape{6}, whole);
  writer.add("i32", Dtype::I32, Shape{2, 3}, whole);
  writer.add("u8", Dtype::U8, Shape{6}, whole);
  writer.add("scalar", Dtype::F32, Shape{}, std::vector<double>{7});
  writer.add("none", Dtype::F32, Shape{0, 4}, std::vector<double>{});
  writer.write(path);
  add({read_bytes(path)});
}

void test_json(const std::vector<std::string>& parts) {
  const auto path = folder() / "f.json", again = folder() / "again.json";
  write_bytes(path, parts[0]);
  accepts([&] {
    const auto json = mole::read_json(path);
    mole::write_json(again, json);
    // Compared as text: a number may be NaN to no one, but 1e400 is refused and -0.0 is -0.0.
    const auto copy = mole::read_json(again);
    require(copy.dump() == json.dump(), "other JSON after a round trip");
  });
}

void seed_json(const std::function<void(const std::vector<std::string>&)>& add) {
  add({R"({"a":[1,-2.5,1e10,true,false,null,"text \u00e4 \ud83d\ude00"],"b":{"c":{},"d":[]}})"});
  add({R"([[[[1]]],{"k":{"k":{"k":0}}},18446744073709551615,-9223372036854775808])"});
}

// The two parts are a pattern and a text, each as JSON.
void test_pattern(const std::vector<std::string>& parts) {
  const auto plain = [](const std::string& part) {
    return part.size() >= 2 && part.front() == '"' ? part.substr(1, part.size() - 2) : part;
  };
  accepts([&] {
    const mole::Pattern pattern(plain(parts[0]));
    const std::string text = plain(parts[1]);
    const mole::PatternText decoded(text);
    accepts([&] {
      mole::PatternBudget first, second;
      const bool whole = pattern.full_match(decoded, first);
      require(!whole || pattern.match(decoded, second), "a text matches whole but not at its start");
    });
  });
}

void seed_pattern(const std::function<void(const std::vector<std::string>&)>& add) {
  const std::string name = "\"encoder.block.0.layer.0.SelfAttention.q\"";
  for (const char* pattern :
       {".*\\.(q|v)$", "(?i).*selfattention\\.[qkvo]", "(?<!EncDec)Attention\\.q", "(?P<side>en|de)coder.*",
        "encoder\\.block\\.[0-9]{1,2}\\..*\\Z", "(a+)+b", "^(?=.*q)(?!.*k).{3,60}?$", "\\w+[^\\d\\s.]*\\b"})
    add({std::string("\"") + pattern + "\"", name});
}

mole::RunState blank_run() {
  mole::RunState state;
  for (const char* name : {"parameter.0", "parameter.1", "state.0", "state.1"})
    state.tensors.push_back({name, Shape{3, 2}, std::vector<float>(6)});
  state.steps = {0, 0};
  return state;
}

void test_run(const std::vector<std::string>& parts) {
  const auto path = folder() / "run", again = folder() / "again-run";
  write_bytes(path, parts[0]);
  accepts([&] {
    auto state = blank_run();
    mole::load_run(path, "the run", state);
    require(state.tensors.size() == 4 && state.steps.size() == 2, "a state of another size");
    for (const auto& tensor : state.tensors)
      for (const float value : std::get<std::vector<float>>(tensor.values))
        require(std::isfinite(value), "a weight that is not finite");
    const auto& steps = state.curves.step;
    for (std::size_t i = 0; i < steps.size(); ++i)
      require(same(steps[i], static_cast<double>(i + 1)), "steps that are not 1, 2, ..");
    for (const Index count : state.steps)
      require(count >= 0 && count <= std::ssize(steps), "more updates than steps");
    mole::save_run(again, "the run", state);
    auto copy = blank_run();
    mole::load_run(again, "the run", copy);
    require(copy.steps == state.steps && copy.curves.step == steps, "other steps after a round trip");
    for (std::size_t i = 0; i < 4; ++i)
      require(std::get<std::vector<float>>(copy.tensors[i].values) ==
                  std::get<std::vector<float>>(state.tensors[i].values),
              "another weight after a round trip");
  });
}

// The digest of what the file now holds in the place of the old one: else no change would get past it.
void repair_run(std::vector<std::string>& parts) {
  const auto path = folder() / "repaired";
  write_bytes(path, parts[0]);
  const std::string key = "\"digest\":\"";
  const auto at = parts[0].find(key);
  if (at == std::string::npos || parts[0].size() < at + key.size() + 16) return;
  try {
    const mole::SafetensorsFile file(path);
    mole::detail::RunTensors tensors;
    for (const auto& name : file.names()) tensors[name] = file.at(name);
    parts[0].replace(at + key.size(), 16, mole::detail::run_digest(file.metadata(), tensors));
  } catch (const mole::Error&) {
    // No safetensors file any more: there is nothing to repair.
  }
}

void seed_run(const std::function<void(const std::vector<std::string>&)>& add) {
  const auto path = folder() / "seed-run";
  auto state = blank_run();
  mole::save_run(path, "the run", state);
  add({read_bytes(path)});
  for (auto& tensor : state.tensors) tensor.values = std::vector<float>{1, -2, 3, 0.5F, 1e-30F, 6};
  state.steps = {3, 2};
  for (Index step = 0; step < 3; ++step)
    state.curves.add(step, {{"loss", 1.0 / static_cast<double>(step + 1)}, {"balance", 2.0}});
  mole::save_run(path, "the run", state);
  add({read_bytes(path)});
}

// A weight "w" of 4 bits: its quant_state, and a file of what lies beside it.
void test_quantised(const std::vector<std::string>& parts) {
  const auto path = folder() / "parts.safetensors", whole = folder() / "model.safetensors";
  write_bytes(path, parts[1]);
  accepts([&] {
    const mole::SafetensorsFile file(path);
    mole::SafetensorsWriter writer;
    for (const auto& name : file.names()) {
      if (file.unread().contains(name) || name.starts_with("w.quant_state")) continue;
      const auto& view = file.at(name);
      if (!mole::is_floating(view.dtype) && view.dtype != Dtype::U8) continue;
      writer.add(name, view.dtype, view.shape, file.read<double>(name));
    }
    writer.add("w.quant_state.bitsandbytes__nf4", Dtype::U8, Shape{static_cast<Index>(parts[0].size())},
               std::vector<std::uint8_t>(parts[0].begin(), parts[0].end()));
    writer.write(whole);
    const auto weight = mole::bitsandbytes_weight(std::make_shared<const mole::Checkpoint>(folder()), "w");
    require(weight.rows != nullptr, "a quant_state without a weight");
    const auto shape = weight.rows->shape();
    require(shape.size() <= 2 * std::ssize(parts[1]), "more numbers than there are bytes for");
    std::vector<float> row(static_cast<std::size_t>(shape[1]));
    for (Index r = 0; r < shape[0]; ++r) weight.rows->unpack(r, 0, shape[1], row.data());
  });
}

void seed_quantised(const std::function<void(const std::vector<std::string>&)>& add) {
  const auto path = folder() / "seed.safetensors";
  const std::vector<double> map(16, 0.5), nested_map(256, 0.25);
  mole::SafetensorsWriter plain;
  plain.add("w", Dtype::U8, Shape{8, 1}, std::vector<double>(8, 0x5a));
  plain.add("w.quant_map", Dtype::F32, Shape{16}, map);
  mole::SafetensorsWriter nested = plain;
  plain.add("w.absmax", Dtype::F32, Shape{4}, std::vector<double>(4, 1.5));
  plain.write(path);
  add({R"({"quant_type": "nf4", "blocksize": 4, "dtype": "float32", "shape": [3, 5]})", read_bytes(path)});
  nested.add("w.absmax", Dtype::U8, Shape{4}, std::vector<double>(4, 9));
  nested.add("w.nested_absmax", Dtype::F32, Shape{2}, std::vector<double>(2, 3));
  nested.add("w.nested_quant_map", Dtype::F32, Shape{256}, nested_map);
  nested.write(path);
  add({R"({"quant_type": "nf4", "blocksize": 4, "dtype": "bfloat16", "shape": [5, 3], "nested_blocksize": 2,)"
       R"( "nested_dtype": "float32", "nested_offset": 0.0625})",
       read_bytes(path)});
}

}  // namespace

std::vector<Target> file_targets() {
  return {{"safetensors", {Part::safetensors}, test_safetensors, seed_safetensors},
          {"json", {Part::json}, test_json, seed_json},
          {"pattern", {Part::json, Part::json}, test_pattern, seed_pattern},
          {"run", {Part::safetensors}, test_run, seed_run, repair_run},
          {"quantised", {Part::json, Part::safetensors}, test_quantised, seed_quantised}};
}

}  // namespace mole_fuzz
