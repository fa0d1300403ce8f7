#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include <mole/backends/cpu.hpp>
#include <mole/io/attach.hpp>
#include <mole/models/t5/checkpoint.hpp>

#include "folder.hpp"
#include "testing.hpp"

using namespace mole;
using namespace io_test;

namespace {

LoraSet golden_set(const std::string& name, const std::string& model = "t5_flan") {
  return lora_set(load_adapter(golden("hf/" + model + "/adapter_" + name), name));
}

// a adapts q and v, b all of attention, c also the feed-forward layers by a pattern: most gates hold fewer
// than three experts.
std::vector<LoraSet> golden_sets(const std::string& model = "t5_flan") {
  return {golden_set("a", model), golden_set("b", model), golden_set("c", model)};
}

template <class T>
T5<T, Cpu> golden_model(const std::string& model = "t5_flan") {
  return load_t5<T, Cpu>(golden("hf/" + model + "/base"));
}

// Every number of the gates, in order.
template <class T>
std::vector<std::vector<T>> numbers(const Mixer<T, Cpu>& mixer) {
  std::vector<std::vector<T>> list;
  for (const auto& parameter : mixer.parameters()) list.push_back(parameter.to_host());
  return list;
}

template <class T>
void randomize(const Mixer<T, Cpu>& mixer) {
  std::uint64_t stream = 1;
  for (const auto& parameter : mixer.parameters())
    parameter.assign(testing::noise<T>(parameter.shape(), stream++));
}

}  // namespace

TEST_CASE("an adapter as a model sees it keeps its file open and its numbers in it") {
  LoraSet set;
  {
    const auto adapter = load_adapter(golden("hf/t5_flan/adapter_b"), "mine");
    set = lora_set(adapter);
    CHECK(set.digest == adapter.digest);
  }
  CHECK(set.name == "mine");
  REQUIRE(set.slots.size() == 24);
  CHECK(std::is_sorted(set.slots.begin(), set.slots.end()));
  const SafetensorsFile file(golden("hf/t5_flan/adapter_b/adapter_model.safetensors"));
  for (const auto& slot : set.slots) {
    const auto factors = set.factors(slot);
    CHECK(factors.rank == 8);
    CHECK(factors.d_in == 48);
    CHECK(factors.d_out == 48);
    CHECK(factors.scale == doctest::Approx(16 / std::sqrt(8.0)).epsilon(1e-15));
    CHECK(factors.A == file.read<double>("base_model.model." + slot + ".lora_A.weight"));
    CHECK(factors.B == file.read<double>("base_model.model." + slot + ".lora_B.weight"));
  }
  CHECK(mentions(error_of<ArgumentError>([&] { set.factors("nowhere"); }), {"mine", "nowhere"}));
}

TEST_CASE("an adapter trained by PEFT gives PEFT's logits") {
  using T = double;
  for (const std::string model_name : {"t5_flan", "t5_v1"}) {
    auto model = golden_model<T>(model_name);
    const SafetensorsFile expected(golden("hf/" + model_name + "/expected.safetensors"));
    const auto ids = [&](const std::string& name) {
      return Tensor<Index, Cpu>::from(expected.at(name).shape, expected.read<Index>(name));
    };
    const T5Batch<T, Cpu> batch{
        ids("input_ids"),
        Tensor<T, Cpu>::from(expected.at("attention_mask").shape, expected.read<T>("attention_mask")),
        ids("labels")};
    for (const std::string name : {"a", "b", "c"}) {
      CAPTURE(model_name);
      CAPTURE(name);
      model.attach({golden_set(name, model_name)}, {});
      const NoGrad off;
      MolePass<T, Cpu> pass;
      // transformers takes the variance of its norm in float32, also in a model of doubles.
      CHECK(testing::worst_error(model.logits(batch, pass), expected.read<double>(name + ".logits")) < 5e-5);
    }
  }
}

TEST_CASE("an adapter of another base is refused with its name and the layer's") {
  auto model = golden_model<float>();
  for (const std::string other : {"llama", "opt"}) {
    const auto text = error_of([&] { model.attach({golden_set("a", other)}, {}); });
    CAPTURE(text);
    CHECK(mentions(text, {"adapter a", "layers.0.self_attn.q_proj", "another base"}));
  }
}

TEST_CASE_TEMPLATE("gates survive a file under every policy", T, float, double) {
  const Folder folder;
  const auto path = folder / "gates.safetensors";
  auto model = golden_model<T>();
  for (const Scope scope : {Scope::matrix, Scope::layer, Scope::block, Scope::network})
    for (const GateInput input : {GateInput::experts, GateInput::hidden})
      for (const Pooling pooling : {Pooling::flatten, Pooling::mean, Pooling::token}) {
        CAPTURE(to_string(scope));
        CAPTURE(to_string(input));
        CAPTURE(to_string(pooling));
        const GateOptions options{.scope = scope,
                                  .input = input,
                                  .pooling = pooling,
                                  .length = pooling == Pooling::flatten ? 11 : 0,
                                  .top_k = pooling == Pooling::mean ? 2 : 0};
        model.attach(golden_sets(), options);
        randomize(model.mixer());
        const auto before = numbers(model.mixer());
        save_gates(path, model.mixer());

        const auto file = read_gates(path);
        CHECK(file.experts == std::vector<std::string>{"a", "b", "c"});
        const auto asked = gate_options(file);
        CHECK(asked.scope == scope);
        CHECK(asked.input == input);
        CHECK(asked.pooling == pooling);
        CHECK(asked.length == options.length);
        CHECK(asked.top_k == options.top_k);

        model.attach(golden_sets(), asked);
        REQUIRE(numbers(model.mixer()) != before);
        load_gates(file, model.mixer());
        CHECK(numbers(model.mixer()) == before);
      }
}

TEST_CASE("gates have the tensors and the metadata that the format promises") {
  const Folder folder;
  auto model = golden_model<float>();
  model.attach(golden_sets(), {.scope = Scope::block, .pooling = Pooling::token});
  save_gates(folder / "gates.safetensors", model.mixer());
  const SafetensorsFile file(folder / "gates.safetensors");
  CHECK(file.names().size() == 2 * model.mixer().gates().size());
  bool memory = false;
  for (const auto& placed : model.mixer().gates()) {
    CAPTURE(placed.name);
    const auto& weight = file.at(placed.name + ".gate.weight");
    CHECK(weight.dtype == Dtype::F32);
    CHECK(weight.shape == placed.gate.weight.shape());
    CHECK(file.at(placed.name + ".gate.log_temperature").shape == Shape{});
    memory = memory || placed.name == "decoder.block.1@memory";
  }
  CHECK(memory);
  CHECK(file.metadata().at("scope") == "block");
  CHECK(file.metadata().at("input") == "experts");
  CHECK(file.metadata().at("pooling") == "token");
  CHECK(file.metadata().at("experts") == "[\"a\",\"b\",\"c\"]");
  CHECK(file.metadata().contains("version"));
  for (const auto& digest : model.mixer().digests()) {
    CHECK(digest.size() == 16);
    CHECK(file.metadata().at("digests").find(digest) != std::string::npos);
  }
}

TEST_CASE("gates of other adapters or another policy are refused and change nothing") {
  const Folder folder;
  const auto path = folder / "gates.safetensors";
  const GateOptions options{.scope = Scope::block, .pooling = Pooling::mean, .top_k = 2};
  auto model = golden_model<double>();
  model.attach(golden_sets(), options);
  randomize(model.mixer());
  save_gates(path, model.mixer());
  const auto file = read_gates(path);

  struct Case {
    const char* name;
    std::function<void(std::vector<LoraSet>&, GateOptions&)> change;
    std::vector<std::string> parts;
  };
  const Case cases[] = {
      {"order", [](auto& sets, auto&) { std::swap(sets[0], sets[1]); }, {"a, b, c", "b, a, c", "order"}},
      {"name", [](auto& sets, auto&) { sets[2].name = "d"; }, {"a, b, c", "a, b, d"}},
      {"fewer", [](auto& sets, auto&) { sets.pop_back(); }, {"a, b, c", "given a, b"}},
      {"digest", [](auto& sets, auto&) { sets[1].digest = "0123456789abcdef"; }, {"'b'", "0123456789abcdef"}},
      {"scope", [](auto&, auto& o) { o.scope = Scope::layer; }, {"scope", "block", "layer"}},
      {"input", [](auto&, auto& o) { o.input = GateInput::hidden; }, {"input", "experts", "hidden"}},
      {"pooling", [](auto&, auto& o) { o.pooling = Pooling::token; }, {"pooling", "mean", "token"}},
      {"top-k", [](auto&, auto& o) { o.top_k = 1; }, {"top-k", "2", "1"}},
      {"length",
       [](auto&, auto& o) {
         o.pooling = Pooling::flatten;
         o.length = 5;
       },
       {"flatten"}},
  };
  for (const auto& wrong : cases) {
    CAPTURE(wrong.name);
    auto sets = golden_sets();
    auto changed = options;
    wrong.change(sets, changed);
    model.attach(sets, changed);
    const auto before = numbers(model.mixer());
    const auto text = error_of([&] { load_gates(file, model.mixer()); });
    CAPTURE(text);
    auto parts = wrong.parts;
    parts.push_back("gates.safetensors");
    CHECK(mentions(text, parts));
    CHECK(numbers(model.mixer()) == before);
  }
}

TEST_CASE("flatten gates of another length are refused") {
  const Folder folder;
  auto model = golden_model<float>();
  model.attach(golden_sets(), {.pooling = Pooling::flatten, .length = 4});
  save_gates(folder / "g", model.mixer());
  model.attach(golden_sets(), {.pooling = Pooling::flatten, .length = 5});
  CHECK(
      mentions(error_of([&] { load_gates(read_gates(folder / "g"), model.mixer()); }), {"length", "4", "5"}));
}

TEST_CASE("a gate that is missing, unknown or of other extents is named and changes nothing") {
  const Folder folder;
  auto model = golden_model<double>();
  model.attach(golden_sets(), {});
  randomize(model.mixer());
  save_gates(folder / "g", model.mixer());
  const auto good = read_gates(folder / "g");
  const std::string first = "encoder.block.0", last = "decoder.block.1";
  REQUIRE(good.gates.contains(first));
  REQUIRE(good.gates.contains(last));

  struct Case {
    const char* name;
    std::function<void(GatesFile&)> change;
    std::vector<std::string> parts;
  };
  const Case cases[] = {
      {"missing", [&](auto& file) { file.gates.erase(last); }, {last}},
      {"unknown",
       [&](auto& file) { file.gates["decoder.block.2"] = file.gates.at(last); },
       {"decoder.block.2"}},
      {"features",
       [&](auto& file) {
         auto& gate = file.gates.at(last);
         gate.features += 1;
         gate.weight.resize(static_cast<std::size_t>(gate.features * gate.n_experts));
       },
       {last, message(Shape{good.gates.at(last).features + 1, 3})}},
      {"fewer experts",
       [&](auto& file) {
         auto& gate = file.gates.at(last);
         gate.experts = {"a", "c"};
         gate.n_experts = 2;
         gate.weight.resize(static_cast<std::size_t>(gate.features * 2));
       },
       {last}},
  };
  model.attach(golden_sets(), {});
  const auto before = numbers(model.mixer());
  for (const auto& wrong : cases) {
    CAPTURE(wrong.name);
    auto file = good;
    wrong.change(file);
    write_gates(folder / "bad", file);
    const auto text = error_of([&] { load_gates(read_gates(folder / "bad"), model.mixer()); });
    CAPTURE(text);
    CHECK(mentions(text, wrong.parts));
    CHECK(numbers(model.mixer()) == before);
  }
  load_gates(good, model.mixer());
  CHECK(numbers(model.mixer()) != before);
}

TEST_CASE("a gate's columns must be the experts that this model mixes there") {
  const Folder folder;
  auto model = golden_model<double>();
  const GateOptions options{.scope = Scope::matrix};
  model.attach(golden_sets(), options);
  save_gates(folder / "g", model.mixer());
  auto file = read_gates(folder / "g");
  const auto fewer = std::find_if(file.gates.begin(), file.gates.end(), [](const auto& gate) {
    return gate.second.experts == std::vector<std::string>{"b"};
  });
  REQUIRE(fewer != file.gates.end());
  fewer->second.experts = {"a"};
  write_gates(folder / "g", file);
  CHECK(mentions(error_of([&] { load_gates(read_gates(folder / "g"), model.mixer()); }),
                 {fewer->first, "a", "b"}));
}

TEST_CASE("a gates file with a policy that does not exist is refused by name") {
  const Folder folder;
  auto model = golden_model<float>();
  model.attach(golden_sets(), {});
  save_gates(folder / "g", model.mixer());
  const auto good = read_gates(folder / "g");
  for (auto field : {&GatesFile::scope, &GatesFile::input, &GatesFile::pooling}) {
    auto file = good;
    file.*field = "sideways";
    write_gates(folder / "odd", file);
    CHECK(mentions(error_of([&] { gate_options(read_gates(folder / "odd")); }), {"odd", "sideways"}));
  }
}

TEST_CASE("a flatten gates file without its length is refused") {
  GatesFile file;
  file.scope = "block", file.input = "experts", file.pooling = "flatten";
  CHECK(mentions(error_of([&] { gate_options(file); }), {"length", "flatten"}));
  file.length = 3;
  CHECK(gate_options(file).length == 3);
}
