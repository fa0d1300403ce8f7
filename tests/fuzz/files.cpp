// Readers of files that know no model: safetensors, JSON, the expressions of PEFT's configurations, runs.

#include <cmath>
#include <cstdint>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include <mole/backends/cpu.hpp>
#include <mole/core/quote.hpp>
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

}  // namespace

std::vector<Target> file_targets() {
  return {{"safetensors", 0, true, test_safetensors, seed_safetensors},
          {"json", 1, false, test_json, seed_json},
          {"pattern", 2, false, test_pattern, seed_pattern},
          {"run", 0, true, test_run, seed_run, repair_run}};
}

}  // namespace mole_fuzz
