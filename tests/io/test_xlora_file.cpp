#include <doctest/doctest.h>

#include <string>
#include <vector>

#include <mole/backends/cpu.hpp>
#include <mole/io/attach.hpp>
#include <mole/io/t5_checkpoint.hpp>
#include <mole/io/xlora_file.hpp>

#include "folder.hpp"
#include "testing.hpp"

using namespace mole;
using namespace io_test;

namespace {

std::vector<LoraSet> golden_sets() {
  std::vector<LoraSet> sets;
  for (const std::string name : {"a", "b", "c"})
    sets.push_back(lora_set(load_adapter(golden("hf/t5_flan/adapter_" + name), name)));
  return sets;
}

}  // namespace

TEST_CASE_TEMPLATE("a classifier comes back from its file with its options, to the bit", T, float, double) {
  const Folder folder;
  auto model = load_t5<T, Cpu>(golden("hf/t5_flan/base"));
  model.attach(golden_sets(), XLoraOptions{.scope = Scope::block,
                                           .depth = 2,
                                           .width = 5,
                                           .temperature = 0.7,
                                           .top_k = 2,
                                           .renormalize = Renormalize::sum,
                                           .weight = 1.25,
                                           .first_pass = 0.1,
                                           .seed = 3});
  std::vector<std::vector<T>> before;
  for (const auto& parameter : model.mixer().parameters()) before.push_back(parameter.to_host());
  save_xlora(folder / "x.safetensors", model.mixer());

  model.attach(golden_sets(), xlora_options(folder / "x.safetensors"));
  CHECK(model.mixer().parameters().front().to_host() != before.front());
  load_xlora(folder / "x.safetensors", model.mixer());
  const auto parameters = model.mixer().parameters();
  REQUIRE(parameters.size() == before.size());
  for (std::size_t i = 0; i < before.size(); ++i) CHECK(parameters[i].to_host() == before[i]);
}

TEST_CASE("a classifier is refused by other adapters, options, models and routers, naming why") {
  const Folder folder;
  const auto path = folder / "x.safetensors";
  auto model = load_t5<double, Cpu>(golden("hf/t5_flan/base"));
  auto sets = golden_sets();
  model.attach(sets, XLoraOptions{.scope = Scope::layer});
  save_xlora(path, model.mixer());
  const auto refused = [&] { return error_of<FormatError>([&] { load_xlora(path, model.mixer()); }); };
  CHECK(refused() == "");
  model.attach(sets, XLoraOptions{.scope = Scope::layer, .temperature = 2});
  CHECK(mentions(refused(), {"x.safetensors", "\"temperature\":2.0", "xlora_options()"}));
  std::swap(sets[0], sets[1]);
  model.attach(sets, XLoraOptions{.scope = Scope::layer});
  CHECK(mentions(refused(), {"x.safetensors", "order"}));
  std::swap(sets[0], sets[1]);
  sets[2].digest = "another";
  model.attach(sets, XLoraOptions{.scope = Scope::layer});
  CHECK(mentions(refused(), {"another adapter", "'c'"}));
  sets = golden_sets();
  sets[2].slots.pop_back();
  model.attach(sets, XLoraOptions{.scope = Scope::matrix});
  save_xlora(path, model.mixer());
  model.attach(golden_sets(), XLoraOptions{.scope = Scope::matrix});
  CHECK(mentions(refused(), {"other layers"}));

  model.attach(sets, ArrowOptions{});
  CHECK(mentions(error_of<ArgumentError>([&] { load_xlora(path, model.mixer()); }), {"arrow"}));
  CHECK(mentions(error_of<ArgumentError>([&] { save_xlora(path, model.mixer()); }), {"arrow"}));
  CHECK(mentions(error_of<ArgumentError>([&] { save_gates(path, model.mixer()); }),
                 {"arrow", "no MoLE gates"}));
}

TEST_CASE("a file that is no classifier's, or damaged, is refused, naming it") {
  const Folder folder;
  auto model = load_t5<double, Cpu>(golden("hf/t5_flan/base"));
  model.attach(golden_sets(), GateOptions{});
  save_gates(folder / "gates.safetensors", model.mixer());
  CHECK(mentions(error_of([&] { xlora_options(folder / "gates.safetensors"); }),
                 {"gates.safetensors", "no X-LoRA classifier"}));
  SafetensorsWriter writer;
  writer.metadata("format", "mole-xlora");
  writer.metadata("version", "1");
  writer.metadata("options", R"({"scope": "galaxy"})");
  writer.write(folder / "bad.safetensors");
  CHECK(mentions(error_of([&] { xlora_options(folder / "bad.safetensors"); }),
                 {"bad.safetensors", "options", "galaxy"}));
  writer.metadata("version", "2");
  writer.write(folder / "bad.safetensors");
  CHECK(mentions(error_of([&] { xlora_options(folder / "bad.safetensors"); }), {"version", "2"}));
}
