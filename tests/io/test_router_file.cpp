#include <doctest/doctest.h>

#include <filesystem>
#include <functional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include <mole/backends/cpu.hpp>
#include <mole/io/router_file.hpp>
#include <mole/models/t5/checkpoint.hpp>

#include "folder.hpp"
#include "testing.hpp"

using namespace mole;
using namespace io_test;

namespace {

using Model = T5<double, Cpu>;

std::vector<LoraSet> adapters() {
  std::vector<LoraSet> sets;
  for (const std::string name : {"a", "b", "c"})
    sets.push_back(lora_set(load_adapter(golden("hf/t5_flan/adapter_" + name), name)));
  return sets;
}

Model base() { return load_t5<double, Cpu>(golden("hf/t5_flan/base")); }

std::vector<RouterOptions> every_router() {
  return {GateOptions{.scope = Scope::block, .pooling = Pooling::token, .top_k = 2},
          GateOptions{.scope = Scope::network, .input = GateInput::hidden},
          ArrowOptions{.top_k = 2, .temperature = 0.7},
          XLoraOptions{.scope = Scope::layer, .depth = 2, .width = 4, .top_k = 2, .weight = 1.5},
          XLoraOptions{.scope = Scope::network, .pooling = Pooling::mean, .softmax = false}};
}

Tensor<double, Cpu> logits(const Model& model) {
  const NoGrad off;
  MolePass<double, Cpu> pass;
  return model.logits(
      {Tensor<Index, Cpu>::from({1, 4}, {5, 3, 9, 1}), {}, Tensor<Index, Cpu>::from({1, 2}, {4, 1})}, pass);
}

}  // namespace

TEST_CASE("a model with any router computes the same after its file was attached, to the bit") {
  const Folder folder;
  const auto path = folder / "gates.safetensors";
  for (const auto& router : every_router()) {
    CAPTURE(router_name(router));
    auto model = base();
    model.attach(adapters(), router);
    std::uint64_t stream = 1;
    for (const auto& parameter : model.mixer().parameters())
      parameter.assign(testing::noise<double>(parameter.shape(), stream++));
    const auto before = logits(model).to_host();
    save_router(path, model.mixer());

    const auto file = read_router(path);
    CHECK(file.options.index() == router.index());
    CHECK(file.experts == std::vector<std::string>{"a", "b", "c"});
    CHECK(file.digests == model.mixer().digests());
    auto other = base();
    attach_router(other, adapters(), file);
    CHECK(logits(other).to_host() == before);
    // A mask leaves the experts it keeps a router of their own.
    for (auto* each : {&model, &other}) each->mixer().set_mask({true, false, true});
    CHECK(logits(other).to_host() == logits(model).to_host());
    CHECK(logits(other).to_host() != before);
  }
}

TEST_CASE("a file says which router it is, and Arrow's holds its options and no tensors") {
  const Folder folder;
  auto model = base();
  for (const auto& router : every_router()) {
    model.attach(adapters(), router);
    save_router(folder / "g", model.mixer());
    const SafetensorsFile file(folder / "g");
    CHECK(file.metadata().at("format") == "mole-gates");
    CHECK(file.metadata().at("router") == router_name(router));
    CHECK(file.names().empty() == model.mixer().parameters().empty());
  }
  model.attach(adapters(), ArrowOptions{.top_k = 2, .temperature = 0.7});
  save_router(folder / "g", model.mixer());
  const auto options = std::get<ArrowOptions>(read_router(folder / "g").options);
  CHECK(options.top_k == 2);
  CHECK(options.temperature == 0.7);
}

TEST_CASE("a router's file is refused by other adapters before anything changes") {
  const Folder folder;
  for (const auto& router : every_router()) {
    CAPTURE(router_name(router));
    auto model = base();
    model.attach(adapters(), router);
    save_router(folder / "g", model.mixer());
    const auto file = read_router(folder / "g");
    const auto before = logits(model).to_host();
    const auto error = [&](const std::function<void(std::vector<LoraSet>&)>& change) {
      auto sets = adapters();
      change(sets);
      const auto text = error_of([&] { attach_router(model, sets, file); });
      CHECK(logits(model).to_host() == before);
      return text;
    };
    CHECK(mentions(error([](auto& sets) { std::swap(sets[0], sets[1]); }), {"a, b, c", "b, a, c", "order"}));
    CHECK(mentions(error([](auto& sets) { sets.pop_back(); }), {"given a, b"}));
    CHECK(mentions(error([](auto& sets) { sets[2].name = "d"; }), {"given a, b, d"}));
    CHECK(mentions(error([](auto& sets) { sets[1].digest = "9"; }), {"'b'", "another adapter", "9"}));
  }
}

TEST_CASE("a router's file is refused by another router, and by the functions of one router") {
  const Folder folder;
  auto model = base();
  const std::vector<RouterOptions> three{GateOptions{}, ArrowOptions{}, XLoraOptions{}};
  for (const auto& saved : three) {
    model.attach(adapters(), saved);
    save_router(folder / "g", model.mixer());
    for (const auto& attached : three) {
      model.attach(adapters(), attached);
      const auto text = error_of([&] { load_router(folder / "g", model.mixer()); });
      CAPTURE(text);
      if (attached.index() == saved.index())
        CHECK(text == "");
      else
        CHECK(mentions(text, {"g", router_name(saved), router_name(attached), "read_router()"}));
    }
    const std::string name = router_name(saved);
    model.attach(adapters(), GateOptions{});
    CHECK((error_of([&] { load_gates(folder / "g", model.mixer()); }) == "") == (name == "mole"));
    CHECK((error_of([&] { xlora_options(folder / "g"); }) == "") == (name == "xlora"));
  }
  model.attach(adapters(), ArrowOptions{});
  save_router(folder / "g", model.mixer());
  model.attach(adapters(), GateOptions{});
  CHECK(mentions(error_of([&] { load_gates(folder / "g", model.mixer()); }),
                 {"/g\":", "router arrow", "mole was asked for"}));
}

TEST_CASE("Arrow's file is refused under other options") {
  const Folder folder;
  auto model = base();
  model.attach(adapters(), ArrowOptions{.top_k = 2});
  save_router(folder / "g", model.mixer());
  for (const auto& other : {ArrowOptions{.top_k = 1}, ArrowOptions{.top_k = 2, .temperature = 3}}) {
    model.attach(adapters(), other);
    CHECK(mentions(error_of([&] { load_router(folder / "g", model.mixer()); }),
                   {"/g\":", "\"top_k\":2", "\"temperature\":1.0", "read_router()"}));
  }
}

TEST_CASE("a router's file with metadata that is missing, unknown or out of range is refused by name") {
  const Folder folder;
  auto model = base();
  model.attach(adapters(), ArrowOptions{});
  save_router(folder / "good", model.mixer());
  const SafetensorsFile good(folder / "good");
  const auto error = [&](const std::string& key, const std::string& value, const std::string& tensor = "") {
    SafetensorsWriter writer;
    for (const auto& [name, text] : good.metadata())
      if (name != key) writer.metadata(name, text);
    if (!value.empty()) writer.metadata(key, value);
    if (!tensor.empty()) writer.add(tensor, Dtype::F64, {1}, std::vector<double>{1});
    writer.write(folder / "bad");
    return error_of([&] { read_router(folder / "bad"); });
  };
  CHECK(error("", "") == "");
  for (const std::string key : {"version", "experts", "digests", "options"})
    CHECK(mentions(error(key, ""), {"bad", "'" + key + "'", "missing"}));
  CHECK(mentions(error("format", ""), {"bad", "no gates file"}));
  CHECK(mentions(error("version", "2"), {"bad", "version 2"}));
  CHECK(mentions(error("router", "oracle"), {"bad", "'router'", "oracle", "mole, arrow and xlora"}));
  // Without its router the file is taken for MoLE's, which has more metadata than Arrow's.
  CHECK(mentions(error("router", ""), {"bad", "'scope'", "missing"}));
  CHECK(mentions(error("router", "xlora"), {"bad", "'options'", "lacks"}));
  CHECK(mentions(error("experts", "[]"), {"bad", "no experts"}));
  CHECK(mentions(error("experts", "{}"), {"bad", "'experts'", "list"}));
  CHECK(mentions(error("digests", R"(["1"])"), {"bad", "1 digests for 3 experts"}));
  CHECK(mentions(error("options", "[1"), {"bad", "'options'", "malformed"}));
  CHECK(mentions(error("options", "[]"), {"bad", "'options'", "object"}));
  CHECK(mentions(error("options", R"({"top_k": 2})"), {"'options'", "lacks temperature"}));
  CHECK(mentions(error("options", R"({"top_k": 4, "temperature": 1})"), {"top-k", "4", "3"}));
  CHECK(mentions(error("options", R"({"top_k": -1, "temperature": 1})"), {"top_k", "whole number"}));
  CHECK(mentions(error("options", R"({"top_k": 1, "temperature": 0})"), {"temperature", "above 0"}));
  CHECK(mentions(error("options", R"({"top_k": 1, "temperature": "1"})"), {"temperature", "finite"}));
  CHECK(mentions(error("", "", "classifier.0.bias"), {"bad", "classifier.0.bias", "no parameters"}));
}

TEST_CASE("where a router's file fits the adapters and not the model, nothing stays attached") {
  const Folder folder;
  auto model = base();
  auto fewer = adapters();
  fewer[2].slots.pop_back();
  model.attach(fewer, XLoraOptions{});
  save_router(folder / "g", model.mixer());
  CHECK(mentions(error_of([&] { attach_router(model, adapters(), read_router(folder / "g")); }),
                 {"/g\":", "other layers"}));
  CHECK(mentions(error_of<ArgumentError>([&] { model.mixer(); }), {"no experts are attached"}));
}
