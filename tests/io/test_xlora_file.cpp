#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include <mole/backends/cpu.hpp>
#include <mole/io/attach.hpp>
#include <mole/io/xlora_file.hpp>
#include <mole/models/t5/checkpoint.hpp>

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

TEST_CASE("a classifier's file with wrong options or tensors is refused, naming it and what is wrong") {
  const Folder folder;
  auto model = load_t5<double, Cpu>(golden("hf/t5_flan/base"));
  model.attach(golden_sets(), XLoraOptions{.scope = Scope::network, .depth = 2, .width = 5});
  save_xlora(folder / "good", model.mixer());
  const SafetensorsFile good(folder / "good");
  const auto options = nlohmann::json::parse(good.metadata().at("options"));
  using Values = std::vector<double>;
  const auto written = [&](const nlohmann::json& changed, const std::string& tensor = "", Shape shape = {},
                           const Values& values = {}) {
    SafetensorsWriter writer;
    for (const auto& [key, text] : good.metadata())
      writer.metadata(key, key == "options" ? changed.dump() : text);
    for (const auto& name : good.names())
      if (name != tensor) writer.add(name, Dtype::F64, good.at(name).shape, good.read<double>(name));
    if (!values.empty()) writer.add(tensor, Dtype::F64, shape, values);
    writer.write(folder / "bad");
  };
  const auto refused = [&] { return error_of([&] { load_xlora(folder / "bad", model.mixer()); }); };
  written(options);
  CHECK(refused() == "");

  struct Case {
    const char* key;
    nlohmann::json value;
    std::vector<std::string> parts;
  };
  for (const auto& wrong : std::vector<Case>{{"scope", "galaxy", {"galaxy", "network"}},
                                             {"scope", 1, {"scope", "a text"}},
                                             {"pooling", "max", {"max", "token"}},
                                             {"pooling", "flatten", {"flatten is not for it"}},
                                             {"depth", 0, {"depth", "0"}},
                                             {"depth", 3, {"4 tensors", "6"}},
                                             {"depth", -1, {"depth", "whole number", "-1"}},
                                             {"depth", 1e300, {"depth", "whole number"}},
                                             {"width", 6, {"classifier.0.bias", "[5]", "6"}},
                                             {"width", 2.5, {"width", "2.5"}},
                                             {"softmax", "yes", {"softmax", "true or false"}},
                                             {"temperature", 0, {"temperature", "above 0"}},
                                             {"temperature", nullptr, {"temperature", "finite"}},
                                             {"top_k", 4, {"top-k", "4", "3"}},
                                             {"renormalize", "twice", {"twice", "none, sum or softmax"}},
                                             {"weight", "much", {"weight", "much"}},
                                             {"first_pass", false, {"first_pass"}}}) {
    CAPTURE(wrong.key);
    auto changed = options;
    changed[wrong.key] = wrong.value;
    written(changed);
    CAPTURE(refused());
    CHECK(mentions(refused(), wrong.parts));
    CHECK(mentions(refused(), {"bad"}));
    changed.erase(wrong.key);
    written(changed);
    CHECK(mentions(refused(), {"bad", "'options'", "lacks " + std::string(wrong.key)}));
  }
  written("all");
  CHECK(mentions(refused(), {"'options'", "object"}));

  written(options, "classifier.1.bias");
  CHECK(mentions(refused(), {"bad", "3 tensors"}));
  written(options, "classifier.1.bias", {4}, {1, 2, 3, 4});
  const auto& last = good.at("classifier.1.bias").shape;
  CHECK(mentions(refused(), {"classifier.1.bias", "[4]", message(last)}));
  Values values(static_cast<std::size_t>(last.size()), 1);
  values.back() = std::nan("");
  written(options, "classifier.1.bias", last, values);
  CHECK(mentions(refused(), {"classifier.1.bias", "NaN"}));

  model.mixer().parameters().front().fill(std::numeric_limits<double>::infinity());
  CHECK(mentions(error_of<ArgumentError>([&] { save_xlora(folder / "new", model.mixer()); }),
                 {"classifier.0.weight", "infinite"}));
  CHECK_FALSE(std::filesystem::exists(folder / "new"));
}

TEST_CASE("ways to renormalise have names that read back, and an unknown one is answered with them") {
  for (const auto how : {Renormalize::none, Renormalize::sum, Renormalize::softmax})
    CHECK(parse_renormalize(to_string(how)) == how);
  CHECK(mentions(error_of<ArgumentError>([] { parse_renormalize("max"); }), {"max", "none, sum or softmax"}));
}
