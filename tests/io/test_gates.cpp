// Files of trained gates, whichever router they are of.

#include <cmath>
#include <functional>
#include <limits>
#include <map>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include <doctest/doctest.h>

#include "io/gate_files.hpp"

using namespace mole;
using namespace io_test;

namespace {

std::vector<RouterOptions> every_router() {
  return {GateOptions{.scope = Scope::block, .pooling = Pooling::token, .top_k = 2},
          GateOptions{.scope = Scope::network, .input = GateInput::hidden},
          ArrowOptions{.top_k = 2, .temperature = 0.7},
          XLoraOptions{.scope = Scope::layer, .depth = 2, .width = 4, .top_k = 2, .weight = 1.5},
          XLoraOptions{.scope = Scope::network, .pooling = Pooling::mean, .softmax = false}};
}

}  // namespace

TEST_CASE("A model with any router computes the same after its file was attached, to the bit") {
  const Folder folder;
  const auto path = folder / "gates.safetensors";
  for (const auto& router : every_router()) {
    CAPTURE(router_name(router));
    auto model = gate_base();
    model.attach(gate_adapters(), router);
    randomize(model.mixer());
    const auto before = logits(model);
    save_gates(path, model.mixer());

    const auto file = read_gates(path);
    CHECK(file.options.index() == router.index());
    CHECK(file.experts == std::vector<std::string>{"a", "b", "c"});
    CHECK(file.digests == model.mixer().digests());
    auto other = gate_base();
    attach_gates(other, gate_adapters(), file);
    CHECK(logits(other) == before);
    // A mask leaves the experts it keeps a router of their own.
    for (auto* each : {&model, &other}) each->mixer().set_mask({true, false, true});
    CHECK(logits(other) == logits(model));
    CHECK(logits(other) != before);
  }
}

TEST_CASE_TEMPLATE("Gates survive a file under every policy", T, float, double, bf16, half) {
  const Folder folder;
  auto model = gate_base<T>();
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
        model.attach(gate_adapters(), options);
        randomize(model.mixer());
        const auto before = numbers(model.mixer());
        save_gates(folder / "g", model.mixer());
        const auto file = read_gates(folder / "g");
        const auto asked = std::get<GateOptions>(file.options);
        CHECK(asked.scope == scope);
        CHECK(asked.input == input);
        CHECK(asked.pooling == pooling);
        CHECK(asked.length == options.length);
        CHECK(asked.top_k == options.top_k);
        attach_gates(model, gate_adapters(), file);
        CHECK(numbers(model.mixer()) == before);
      }
}

TEST_CASE("Gates of a rank survive a file, and one of version 3 has none") {
  const Folder folder;
  auto model = gate_base<double>();
  for (const InputScale scale : {InputScale::unit, InputScale::standardised}) {
    model.attach(gate_adapters(), GateOptions{.input_scale = scale, .gate_rank = 2});
    randomize(model.mixer());
    model.mixer().take_scales();
    const auto before = numbers(model.mixer());
    save_gates(folder / "g", model.mixer());
    const auto file = read_gates(folder / "g");
    CHECK(std::get<GateOptions>(file.options).gate_rank == 2);
    attach_gates(model, gate_adapters(), file);
    CHECK(numbers(model.mixer()) == before);
  }
}

TEST_CASE("A classifier comes back with its options") {
  const Folder folder;
  auto model = gate_base();
  const XLoraOptions options{.scope = Scope::block,
                             .pooling = Pooling::mean,
                             .depth = 2,
                             .width = 5,
                             .temperature = 0.7,
                             .top_k = 2,
                             .renormalize = Renormalize::sum,
                             .weight = 1.25,
                             .first_pass = 0.1,
                             .seed = 3};
  model.attach(gate_adapters(), options);
  save_gates(folder / "g", model.mixer());
  const auto read = std::get<XLoraOptions>(read_gates(folder / "g").options);
  CHECK(read.scope == options.scope);
  CHECK(read.pooling == options.pooling);
  CHECK(read.depth == 2);
  CHECK(read.width == 5);
  CHECK(read.softmax);
  CHECK(read.temperature == 0.7);
  CHECK(read.top_k == 2);
  CHECK(read.renormalize == Renormalize::sum);
  CHECK(read.weight == 1.25);
  CHECK(read.first_pass == 0.1);
}

TEST_CASE("Files of version 1 load and give the logits that they gave then") {
  const std::map<std::string, std::pair<double, double>> expected{
      {"mole", {2.153038582887036, 2.3329471390507481}},
      {"flatten", {2.5325523768324696, 1.5308954068265492}},
      {"arrow", {2.8759288272781851, 0.59122938919879553}},
      {"xlora", {-0.753222790422303, 1.442933069749861}}};
  for (const auto& row : expected) {
    const auto& name = row.first;
    const auto& ends = row.second;
    CAPTURE(name);
    const auto path = std::filesystem::path(MOLE_TEST_DATA) / "gates_version_1" / (name + ".safetensors");
    auto model = gate_base();
    attach_gates(model, gate_adapters(), read_gates(path));
    const auto y = logits(model);
    CHECK(y.front() == doctest::Approx(ends.first).epsilon(1e-12));
    CHECK(y.back() == doctest::Approx(ends.second).epsilon(1e-12));
  }
}

TEST_CASE("A file of version 1 with a gate of other experts is refused") {
  const Folder folder;
  std::filesystem::copy_file(std::string(MOLE_TEST_DATA) + "/gates_version_1/mole.safetensors",
                             folder / "good");
  const std::string gate = "encoder.block.0.layer.0.SelfAttention.k";
  auto model = gate_base();
  const auto refused = [&](const std::string& fewer) {
    write_changed(folder, {{"gate_experts", fewer}});
    return error_of([&] { attach_gates(model, gate_adapters(), read_gates(folder / "bad")); });
  };
  CHECK(refused("{\"" + gate + "\":[\"b\"]}") == "");
  CHECK(mentions(refused("{\"" + gate + "\":[\"a\"]}"), {gate, "experts a", "b"}));
  CHECK(mentions(refused("{\"" + gate + "\":[\"d\"]}"), {gate, "'d'"}));
  CHECK(mentions(refused("{\"none\":[\"a\"]}"), {"none"}));
  CHECK(mentions(refused("[]"), {"gate_experts", "object"}));
}

TEST_CASE("Gates have the tensors and the metadata that the format promises") {
  const Folder folder;
  auto model = gate_base<float>();
  model.attach(gate_adapters(), GateOptions{.scope = Scope::block, .pooling = Pooling::token});
  save_gates(folder / "g", model.mixer());
  const SafetensorsFile file(folder / "g");
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
  CHECK(file.metadata().at("format") == "mole-gates");
  CHECK(file.metadata().at("version") == "4");
  CHECK(file.metadata().at("router") == "mole");
  CHECK(file.metadata().at("scope") == "block");
  CHECK(file.metadata().at("input") == "experts");
  CHECK(file.metadata().at("pooling") == "token");
  CHECK(file.metadata().at("input_scale") == "unit");
  CHECK(file.metadata().at("experts") == "[\"a\",\"b\",\"c\"]");
  for (const auto& digest : model.mixer().digests()) {
    CHECK(digest.size() == 16);
    CHECK(file.metadata().at("digests").find(digest) != std::string::npos);
  }
  for (const auto& router : every_router()) {
    model.attach(gate_adapters(), router);
    save_gates(folder / "g", model.mixer());
    const SafetensorsFile any(folder / "g");
    CHECK(any.metadata().at("router") == router_name(router));
    CHECK(any.names().empty() == model.mixer().parameters().empty());
  }
}

TEST_CASE("A file keeps the notes that a program left, and its gates are the same") {
  const Folder folder;
  auto model = gate_base();
  model.attach(gate_adapters(), GateOptions{});
  save_gates(folder / "plain.safetensors", model.mixer());
  save_gates(folder / "noted.safetensors", model.mixer(), {{"template", "a \"b\"\n"}, {"router", "none"}});
  const auto plain = read_gates(folder / "plain.safetensors"),
             noted = read_gates(folder / "noted.safetensors");
  CHECK(plain.notes.empty());
  CHECK(noted.notes == std::map<std::string, std::string>{{"router", "none"}, {"template", "a \"b\"\n"}});
  CHECK(std::holds_alternative<GateOptions>(noted.options));
  load_gates(noted, model.mixer());
}

TEST_CASE("Gates of other adapters are refused, and nothing changes") {
  const Folder folder;
  for (const auto& router : every_router()) {
    CAPTURE(router_name(router));
    auto model = gate_base();
    model.attach(gate_adapters(), router);
    save_gates(folder / "g", model.mixer());
    const auto file = read_gates(folder / "g");
    randomize(model.mixer());
    const auto before = logits(model);
    const auto error = [&](const std::function<void(std::vector<LoraSet>&)>& change) {
      auto sets = gate_adapters();
      change(sets);
      const auto text = error_of([&] { attach_gates(model, sets, file); });
      CHECK(logits(model) == before);
      return text;
    };
    CHECK(mentions(error([](auto& sets) { std::swap(sets[0], sets[1]); }), {"a, b, c", "b, a, c", "order"}));
    CHECK(mentions(error([](auto& sets) { sets.pop_back(); }), {"given a, b"}));
    CHECK(mentions(error([](auto& sets) { sets[2].name = "d"; }), {"given a, b, d"}));
    CHECK(mentions(error([](auto& sets) { sets[1].digest = "9"; }), {"'b'", "another adapter", "9"}));
  }
}

TEST_CASE("Gates of another router or other options are refused and change nothing") {
  const Folder folder;
  auto model = gate_base();
  const std::vector<RouterOptions> all{
      GateOptions{},
      GateOptions{.scope = Scope::layer},
      GateOptions{.input = GateInput::hidden},
      GateOptions{.pooling = Pooling::token},
      GateOptions{.top_k = 1},
      GateOptions{.pooling = Pooling::flatten, .length = 4},
      GateOptions{.pooling = Pooling::flatten, .length = 5},
      ArrowOptions{},
      ArrowOptions{.temperature = 2},
      XLoraOptions{},
      XLoraOptions{.weight = 2},
  };
  for (std::size_t saved = 0; saved < all.size(); ++saved) {
    model.attach(gate_adapters(), all[saved]);
    save_gates(folder / "g", model.mixer());
    for (std::size_t attached = 0; attached < all.size(); ++attached) {
      CAPTURE(saved);
      CAPTURE(attached);
      model.attach(gate_adapters(), all[attached]);
      randomize(model.mixer());
      const auto before = numbers(model.mixer());
      const auto text = error_of([&] { load_gates(folder / "g", model.mixer()); });
      CAPTURE(text);
      CHECK((text == "") == (saved == attached));
      if (saved == attached) continue;
      CHECK(mentions(text, {"/g\":", "attach_gates()"}));
      CHECK(numbers(model.mixer()) == before);
    }
  }
  model.attach(gate_adapters(), GateOptions{.scope = Scope::layer});
  save_gates(folder / "g", model.mixer());
  model.attach(gate_adapters(), GateOptions{});
  CHECK(mentions(error_of([&] { load_gates(folder / "g", model.mixer()); }), {"scope", "layer", "block"}));
  model.attach(gate_adapters(), ArrowOptions{});
  CHECK(mentions(error_of([&] { load_gates(folder / "g", model.mixer()); }), {"router", "mole", "arrow"}));
}

TEST_CASE("A gate that is missing, unknown, of other extents or not finite is named and changes nothing") {
  const Folder folder;
  auto model = gate_base();
  for (const auto& router :
       {RouterOptions(GateOptions{}), RouterOptions(XLoraOptions{.depth = 2, .width = 3})}) {
    model.attach(gate_adapters(), router);
    save_gates(folder / "good", model.mixer());
    randomize(model.mixer());
    const auto before = numbers(model.mixer());
    const auto refused = [&](const std::map<std::string, Tensors>& tensors,
                             const std::vector<std::string>& parts) {
      check_refused(folder, model.mixer(), tensors, parts);
    };
    for (const auto& stored : model.mixer().stored()) {
      const auto& name = stored.name;
      const auto& shape = stored.shape;
      CAPTURE(name);
      refused({{name, {}}}, {"bad", name, "lacks"});
      refused({{name, {Shape{7}, std::vector<double>(7)}}}, {"bad", name, "[7]", message(shape)});
      auto values = std::vector<double>(static_cast<std::size_t>(shape.size()), 1);
      values.back() = std::nan("");
      refused({{name, {shape, values}}}, {"bad", name, "NaN"});
    }
    refused({{"encoder.bias", {Shape{1}, {1}}}}, {"bad", "encoder.bias"});
    load_gates(folder / "good", model.mixer());
    CHECK(numbers(model.mixer()) != before);
  }
}

TEST_CASE("A gate's columns must be the experts that this model mixes there") {
  const Folder folder;
  auto model = gate_base();
  model.attach(gate_adapters(), GateOptions{.scope = Scope::matrix});
  save_gates(folder / "good", model.mixer());
  auto gates = Json::parse(SafetensorsFile(folder / "good").metadata().at("gates"));
  const auto refused = [&] {
    write_changed(folder, {{"gates", gates.dump()}});
    return error_of([&] { load_gates(folder / "bad", model.mixer()); });
  };
  for (auto& gate : gates)
    if (gate["experts"] == Json({"b"})) {
      gate["experts"] = {"a"};
      CHECK(mentions(refused(), {gate["name"].get<std::string>(), "experts a", "b"}));
      break;
    }
  std::swap(gates[0], gates[1]);
  CHECK(mentions(refused(), {gates[0]["name"].get<std::string>(), "at that place"}));
  gates.erase(gates.begin());
  CHECK(mentions(refused(), {"gates", "another model"}));
}

TEST_CASE("Files that are no gates files, later ones and damaged ones are refused by name") {
  const Folder folder;
  auto model = gate_base();
  const auto error = [&](const std::string& key, const std::string& value) {
    write_changed(folder, {{key, value}});
    return error_of([&] { read_gates(folder / "bad"); });
  };
  model.attach(gate_adapters(), GateOptions{.top_k = 2});
  save_gates(folder / "good", model.mixer());
  CHECK(mentions(error("format", "pt"), {"bad", "no gates file"}));
  CHECK(mentions(error("format", ""), {"no gates file"}));
  CHECK(mentions(error("version", "5"), {"bad", "version 5"}));
  CHECK(mentions(error("version", "one"), {"'version'", "'one'"}));
  CHECK(error("router", "") == "");
  CHECK(mentions(error("router", "oracle"), {"bad", "'router'", "oracle"}));
  for (const std::string key : {"version", "scope", "input", "pooling", "top_k", "length", "input_scale",
                                "experts", "digests", "gates"})
    CHECK(mentions(error(key, ""), {"bad", "'" + key + "'", "missing"}));
  CHECK(mentions(error("scope", "galaxy"), {"bad", "'scope'", "galaxy", "network"}));
  CHECK(mentions(error("input", "eyes"), {"'input'", "eyes"}));
  CHECK(mentions(error("pooling", "max"), {"'pooling'", "max"}));
  CHECK(mentions(error("pooling", "flatten"), {"length"}));
  CHECK(mentions(error("input_scale", "sd"), {"'input_scale'", "sd", "standardised or common"}));
  CHECK(mentions(error("top_k", "-1"), {"'top_k'", "whole number"}));
  CHECK(mentions(error("top_k", "4"), {"top-k", "4", "3"}));
  CHECK(mentions(error("length", "1e9"), {"'length'", "whole number"}));
  CHECK(mentions(error("experts", "[\"a\", 2]"), {"bad", "'experts'"}));
  CHECK(mentions(error("experts", "[\"a\""), {"bad", "'experts'", "malformed"}));
  CHECK(mentions(error("experts", "[\"a\",\"b\"]"), {"bad", "3 digests for 2 experts"}));
  CHECK(mentions(error("experts", "[]"), {"bad", "no experts"}));
  CHECK(mentions(error("gates", "{}"), {"'gates'", "list"}));
  CHECK(mentions(error("gates", R"([{"name": 1}])"), {"'gates'", "name and experts"}));
  CHECK(mentions(error("gates", R"([{"name": "x", "experts": ["d"]}])"), {"x", "'d'"}));
  CHECK(mentions(error("gates", R"([{"name": "x", "experts": ["a", "a"]}])"), {"x", "twice"}));

  model.attach(gate_adapters(), XLoraOptions{.scope = Scope::network, .depth = 2, .width = 5});
  save_gates(folder / "good", model.mixer());
  CHECK(mentions(error("pooling", "flatten"), {"flatten is not for it"}));
  CHECK(mentions(error("depth", "0"), {"depth", "0"}));
  CHECK(mentions(error("depth", "1e300"), {"'depth'", "whole number"}));
  CHECK(mentions(error("width", "2.5"), {"'width'", "2.5"}));
  CHECK(mentions(error("softmax", "yes"), {"'softmax'", "true or false"}));
  CHECK(mentions(error("temperature", "0"), {"temperature", "above 0"}));
  CHECK(mentions(error("temperature", "inf"), {"'temperature'", "finite"}));
  CHECK(mentions(error("renormalize", "twice"), {"twice", "none, sum or softmax"}));
}

TEST_CASE("Options that ask for more than the file's own tensors are refused before anything is made") {
  const Folder folder;
  auto model = gate_base();
  const auto refused = [&](const std::string& key, const std::string& value) {
    write_changed(folder, {{key, value}});
    return error_of([&] { attach_gates(model, gate_adapters(), read_gates(folder / "bad")); });
  };
  model.attach(gate_adapters(), GateOptions{.pooling = Pooling::flatten, .length = 4});
  save_gates(folder / "good", model.mixer());
  CHECK(mentions(refused("length", "200000000"), {"bad", ".gate.weight", "where this model needs"}));
  model.attach(gate_adapters(), XLoraOptions{.depth = 3, .width = 4});
  save_gates(folder / "good", model.mixer());
  CHECK(mentions(refused("width", "2000000000"), {"bad", "classifier.0.weight", "where this model needs"}));
  CHECK(mentions(refused("depth", "900"), {"bad", "classifier"}));
  CHECK(mentions(error_of<ArgumentError>([&] { model.mixer(); }), {"no experts are attached"}));
}

TEST_CASE("Where gates fit the adapters and not the model, nothing stays attached") {
  const Folder folder;
  auto model = gate_base();
  auto fewer = gate_adapters();
  fewer[2].slots.pop_back();
  model.attach(fewer, XLoraOptions{});
  save_gates(folder / "g", model.mixer());
  CHECK(error_of([&] { attach_gates(model, gate_adapters(), read_gates(folder / "g")); }) != "");
  CHECK(mentions(error_of<ArgumentError>([&] { model.mixer(); }), {"no experts are attached"}));
}

TEST_CASE("Gates that are not finite are not written") {
  const Folder folder;
  auto model = gate_base();
  model.attach(gate_adapters(), XLoraOptions{});
  model.mixer().parameters().front().fill(std::numeric_limits<double>::infinity());
  CHECK(mentions(error_of<ArgumentError>([&] { save_gates(folder / "new", model.mixer()); }),
                 {"classifier.0.weight", "infinite"}));
  CHECK_FALSE(std::filesystem::exists(folder / "new"));
}

TEST_CASE("Ways to renormalise have names that read back, and an unknown one is answered with them") {
  for (const auto how : {Renormalize::none, Renormalize::sum, Renormalize::softmax})
    CHECK(parse_renormalize(to_string(how)) == how);
  CHECK(mentions(error_of<ArgumentError>([] { parse_renormalize("max"); }), {"max", "none, sum or softmax"}));
}
