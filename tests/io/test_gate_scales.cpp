// Files of gates whose input is standardised.

#include <cmath>
#include <filesystem>
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

namespace scaled_gate_files {

namespace {

std::vector<RouterOptions> routers() {
  std::vector<RouterOptions> list;
  for (const InputScale scale : {InputScale::standardised, InputScale::common}) {
    list.push_back(GateOptions{.scope = Scope::matrix, .pooling = Pooling::token, .input_scale = scale});
    list.push_back(GateOptions{.scope = Scope::block, .input_scale = scale});
    list.push_back(GateOptions{.scope = Scope::network, .input = GateInput::hidden, .input_scale = scale});
    list.push_back(GateOptions{.pooling = Pooling::flatten, .length = 4, .input_scale = scale});
    list.push_back(XLoraOptions{.scope = Scope::layer, .depth = 2, .width = 4, .input_scale = scale});
  }
  return list;
}

template <class T>
std::vector<T5Batch<T, Cpu>> batches() {
  return {{Tensor<Index, Cpu>::from({3, 4}, {5, 3, 9, 1, 7, 2, 1, 0, 2, 2, 6, 1}),
           Tensor<T, Cpu>::from({3, 4}, {1, 1, 1, 1, 1, 1, 1, 0, 1, 1, 1, 1}),
           Tensor<Index, Cpu>::from({3, 2}, {4, 1, 8, 1, 1, -100})}};
}

}  // namespace

TEST_CASE("Standardised gates compute the same after their file was attached, to the bit") {
  const Folder folder;
  for (const auto& router : routers()) {
    CAPTURE(router_name(router));
    auto model = gate_base();
    model.attach(gate_adapters(), router);
    model.standardise_gates(batches<double>());
    randomize(model.mixer());
    const auto before = logits(model);
    save_gates(folder / "g", model.mixer());
    auto other = gate_base();
    attach_gates(other, gate_adapters(), read_gates(folder / "g"));
    CHECK(placement_of(read_gates(folder / "g").options).input_scale == placement_of(router).input_scale);
    CHECK(all_numbers(other.mixer()) == all_numbers(model.mixer()));
    CHECK(logits(other) == before);
    for (auto* each : {&model, &other}) each->mixer().set_mask({true, false, true});
    CHECK(logits(other) == logits(model));
  }
}

TEST_CASE_TEMPLATE("A scale survives a file in every scalar", T, float, bf16, half) {
  const Folder folder;
  auto model = gate_base<T>();
  model.attach(gate_adapters(), GateOptions{.input_scale = InputScale::standardised});
  model.standardise_gates(batches<T>());
  const auto before = all_numbers(model.mixer());
  save_gates(folder / "g", model.mixer());
  attach_gates(model, gate_adapters(), read_gates(folder / "g"));
  CHECK(all_numbers(model.mixer()) == before);
}

TEST_CASE("A file has the mean and the factor of each gate, under the names that the format promises") {
  const Folder folder;
  auto model = gate_base<float>();
  for (const InputScale scale : {InputScale::standardised, InputScale::common}) {
    model.attach(gate_adapters(), GateOptions{.input_scale = scale});
    model.standardise_gates(batches<float>());
    save_gates(folder / "g", model.mixer());
    const SafetensorsFile file(folder / "g");
    CHECK(file.metadata().at("input_scale") == to_string(scale));
    CHECK(file.names().size() == 4 * model.mixer().gates().size());
    for (const auto& placed : model.mixer().gates()) {
      const Index features = placed.gate.weight.size(0);
      CHECK(file.at(placed.name + ".gate.input_mean").shape == Shape{features});
      CHECK(file.at(placed.name + ".gate.input_factor").shape ==
            (scale == InputScale::common ? Shape{} : Shape{features}));
    }
    model.attach(gate_adapters(), XLoraOptions{.input_scale = scale});
    model.standardise_gates(batches<float>());
    save_gates(folder / "g", model.mixer());
    const SafetensorsFile classifier(folder / "g");
    CHECK(classifier.contains("classifier.input_mean"));
    CHECK(classifier.contains("classifier.input_factor"));
  }
}

TEST_CASE("Gates that were not measured are not written, and loading stands in for measuring") {
  const Folder folder;
  for (const auto& router : routers()) {
    auto model = gate_base();
    model.attach(gate_adapters(), router);
    CHECK(mentions(error_of<ArgumentError>([&] { save_gates(folder / "new", model.mixer()); }),
                   {"save_gates", "not been measured", "standardise_gates"}));
    CHECK_FALSE(std::filesystem::exists(folder / "new"));
    model.standardise_gates(batches<double>());
    save_gates(folder / "good", model.mixer());
    const auto before = logits(model);
    model.attach(gate_adapters(), router);
    CHECK(error_of<ArgumentError>([&] { logits(model); }) != "");
    load_gates(folder / "good", model.mixer());
    if (std::holds_alternative<GateOptions>(router)) CHECK(logits(model) == before);
  }
}

TEST_CASE("Scales that are missing, of other extents, not finite or negative are named and change nothing") {
  const Folder folder;
  auto model = gate_base();
  for (const auto& router : routers()) {
    CAPTURE(router_name(router));
    model.attach(gate_adapters(), router);
    model.standardise_gates(batches<double>());
    save_gates(folder / "good", model.mixer());
    randomize(model.mixer());
    const auto refused = [&](const std::map<std::string, Tensors>& tensors,
                             const std::vector<std::string>& parts) {
      check_refused(folder, model.mixer(), tensors, parts);
    };
    for (const auto& stored : model.mixer().stored()) {
      const auto& name = stored.name;
      const auto& shape = stored.shape;
      const bool factor = name.find("input_factor") != std::string::npos;
      if (!factor && name.find("input_mean") == std::string::npos) continue;
      CAPTURE(name);
      refused({{name, {}}}, {"bad", name, "lacks"});
      refused({{name, {Shape{5}, std::vector<double>(5, 1)}}}, {"bad", name, "[5]", message(shape)});
      auto values = std::vector<double>(static_cast<std::size_t>(shape.size()), 1);
      values.back() = std::numeric_limits<double>::infinity();
      refused({{name, {shape, values}}}, {"bad", name, "infinite"});
      values.back() = -0.5;
      if (factor) refused({{name, {shape, values}}}, {"bad", name, "below 0"});
      if (factor) continue;
      // X-LoRA reads hidden states, of any length.
      const auto mean_of = [&](double value) {
        return std::map<std::string, Tensors>{
            {name, {shape, std::vector<double>(static_cast<std::size_t>(shape.size()), value)}}};
      };
      for (const double value : {1.01, -1e30}) {
        if (std::holds_alternative<GateOptions>(router)) {
          refused(mean_of(value), {"bad", name, "mean beyond -1 or 1"});
        } else {
          write_changed(folder, {}, mean_of(value));
          CHECK(error_of([&] { load_gates(folder / "bad", model.mixer()); }) == "");
        }
      }
      for (const double value : {1.0, -1.0 - 0x1p-50}) {
        write_changed(folder, {}, mean_of(value));
        CHECK(error_of([&] { load_gates(folder / "bad", model.mixer()); }) == "");
      }
    }
  }
}

TEST_CASE("Values that are finite in a file and not in the model are refused") {
  const Folder folder;
  for (const auto& router : routers()) {
    CAPTURE(router_name(router));
    auto model = gate_base<float>();
    model.attach(gate_adapters(), router);
    model.standardise_gates(batches<float>());
    save_gates(folder / "good", model.mixer());
    const auto before = all_numbers(model.mixer());
    for (const auto& stored : model.mixer().stored()) {
      if (stored.name.ends_with("log_temperature")) continue;  // has narrower limits
      CAPTURE(stored.name);
      const auto size = static_cast<std::size_t>(stored.shape.size());
      write_changed(folder, {}, {{stored.name, {stored.shape, std::vector<double>(size, 1e39)}}});
      CHECK(mentions(error_of<FormatError>([&] { load_gates(folder / "bad", model.mixer()); }),
                     {"bad", stored.name, "beyond this model's numbers"}));
    }
    CHECK(all_numbers(model.mixer()) == before);
  }
}

TEST_CASE("Gates with a mean that none of their inputs can have are not written") {
  const Folder folder;
  auto model = gate_base<float>();
  model.attach(gate_adapters(), GateOptions{.input_scale = InputScale::common});
  model.standardise_gates(batches<float>());
  const auto mean = model.mixer().router().scales().front().mean;
  mean.assign(Tensor<float, Cpu>::full(mean.shape(), 1.5F));
  CHECK(mentions(error_of<ArgumentError>([&] { save_gates(folder / "g", model.mixer()); }),
                 {"save_gates", "input_mean", "mean beyond -1 or 1"}));
  CHECK_FALSE(std::filesystem::exists(folder / "g"));
}

TEST_CASE("Gates of another input scale are refused, with the way out") {
  const Folder folder;
  auto model = gate_base();
  model.attach(gate_adapters(), GateOptions{.input_scale = InputScale::common});
  model.standardise_gates(batches<double>());
  save_gates(folder / "good", model.mixer());
  for (const InputScale scale : {InputScale::unit, InputScale::standardised}) {
    model.attach(gate_adapters(), GateOptions{.input_scale = scale});
    CHECK(mentions(error_of([&] { load_gates(folder / "good", model.mixer()); }),
                   {"input_scale", "common", to_string(scale), "attach_gates()"}));
  }
  // A file that says unit and holds scales, or the other way round.
  write_changed(folder, {{"input_scale", "unit"}});
  CHECK(mentions(error_of([&] { attach_gates(model, gate_adapters(), read_gates(folder / "bad")); }),
                 {"bad", "input_", "no gate for"}));
  model.attach(gate_adapters(), GateOptions{});
  save_gates(folder / "good", model.mixer());
  write_changed(folder, {{"input_scale", "standardised"}});
  CHECK(mentions(error_of([&] { attach_gates(model, gate_adapters(), read_gates(folder / "bad")); }),
                 {"bad", "input_mean", "lacks"}));
}

TEST_CASE("Files of version 2 load as of unit input and give the logits that they gave then") {
  const std::map<std::string, std::pair<double, double>> expected{
      {"mole", {-1.0288167872960525, 4.0720432558906809}},
      {"xlora", {1.675192947251037, 4.2413855019069482}}};
  for (const auto& one : expected) {
    const auto& name = one.first;
    const auto& ends = one.second;
    CAPTURE(name);
    const auto path = std::filesystem::path(MOLE_TEST_DATA) / "gates_version_2" / (name + ".safetensors");
    const auto file = read_gates(path);
    CHECK(placement_of(file.options).input_scale == InputScale::unit);
    auto model = gate_base();
    attach_gates(model, gate_adapters(), file);
    const auto y = logits(model);
    CHECK(y.front() == doctest::Approx(ends.first).epsilon(1e-12));
    CHECK(y.back() == doctest::Approx(ends.second).epsilon(1e-12));
  }
}

}  // namespace scaled_gate_files
