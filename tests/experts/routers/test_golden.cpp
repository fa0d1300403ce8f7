// Arrow and X-LoRA against PEFT's. Made by tests/data/make_router_goldens.py, which says what is in the
// files.

#include <doctest/doctest.h>

#include <sstream>
#include <string>
#include <vector>

#include <mole/experts/mole_linear.hpp>
#include <mole/experts/routers/registry.hpp>
#include <mole/io/safetensors.hpp>
#include <testing.hpp>

using namespace mole;
using namespace mole::testing;

namespace {

constexpr Index n_golden = 6;

class Goldens {
 public:
  explicit Goldens(const std::string& router)
      : file_(MOLE_TEST_DATA "/golden_peft/" + router + ".safetensors") {}

  /// The fields of each case.
  std::vector<std::vector<std::string>> cases() const {
    std::vector<std::vector<std::string>> list;
    std::istringstream lines(file_.metadata().at("cases"));
    for (std::string line; std::getline(lines, line);) {
      std::istringstream fields(line);
      list.emplace_back();
      for (std::string field; fields >> field;) list.back().push_back(field);
    }
    return list;
  }
  std::vector<double> numbers(const std::string& name) const { return file_.read<double>(name); }
  template <class T>
  Tensor<T, Device> tensor(const std::string& name) const {
    return Tensor<T, Device>::from(file_.at(name).shape, file_.read<T>(name));
  }
  LoraFactors expert(const std::string& name) const {
    const auto a = file_.at(name + ".A").shape, b = file_.at(name + ".B").shape;
    return {a[0], a[1], b[0], numbers(name + ".scale").at(0), numbers(name + ".A"), numbers(name + ".B")};
  }

 private:
  SafetensorsFile file_;
};

const std::vector<std::string> slot_names{"one", "two", "three"};

/// y = three(two(relu(one(x)))), as the maker of the goldens has it: two's output is the last hidden state.
template <class T>
struct ThreeLayers {
  explicit ThreeLayers(const Goldens& goldens, const XLoraOptions& options) {
    auto& table = layers.table;
    for (const auto& name : slot_names) {
      const auto W = goldens.tensor<T>(name + ".weight");
      const std::size_t group = table.add_group({}, {{name, W.size(0), W.size(1)}});
      table.slots[group].weight = W;
      table.slots[group].bias = goldens.tensor<T>(name + ".bias");
    }
    table.hidden = table.slots[1].shape[0];
    std::vector<LoraSet> sets;
    for (Index i = 0; i < n_golden; ++i)
      sets.push_back({std::to_string(i), "", slot_names, [&goldens, i](const std::string& slot) {
                        return goldens.expert(std::to_string(i) + "." + slot);
                      }});
    layers.mixer.emplace(table, sets, options);
  }

  Tensor<T, Device> hidden(const Tensor<T, Device>& x, MolePass<T, Device>& pass) const {
    return layers(1, relu(layers(0, x, pass)[0]), pass)[0];
  }
  Tensor<T, Device> operator()(const Tensor<T, Device>& x, MolePass<T, Device>& pass) const {
    auto first = layers.mixer->first_pass(x.size(0), pass);
    layers.mixer->classify(hidden(x, first), 0, pass);
    return layers(2, hidden(x, pass), pass)[0];
  }

  AdaptedLayers<T, Device> layers;
};

/// NAME LAYERWISE SOFTMAX TEMPERATURE TOP_K SOFTMAX_TOPK FIRST_PASS WEIGHT DEPTH
XLoraOptions xlora_options(const std::vector<std::string>& fields) {
  XLoraOptions options;
  options.scope = fields.at(1) == "1" ? Scope::matrix : Scope::network;
  options.softmax = fields.at(2) == "1";
  options.temperature = std::stod(fields.at(3));
  options.top_k = std::stoll(fields.at(4));
  options.renormalize = fields.at(5) == "1" ? Renormalize::softmax : Renormalize::none;
  options.first_pass = std::stod(fields.at(6));
  options.weight = std::stod(fields.at(7));
  options.depth = std::stoll(fields.at(8));
  options.width = 16;
  return options;
}

}  // namespace

TEST_CASE("Arrow's gates and outputs are PEFT's") {
  const Goldens goldens("arrow");
  const auto x = goldens.tensor<double>("x");
  int shipped = 0, exact = 0;
  for (const auto& fields : goldens.cases()) {
    CAPTURE(fields.at(0));
    std::vector<LoraFactors> experts;
    for (Index i = 0; i < n_golden; ++i)
      experts.push_back(goldens.expert(fields.at(1) + "." + std::to_string(i)));
    const ArrowOptions options{.top_k = std::stoll(fields.at(2)), .temperature = std::stod(fields.at(3))};
    const MoleLinear<double, Device> layer(goldens.tensor<double>("W"), goldens.tensor<double>("bias"),
                                           experts, options);
    // PEFT finds the directions by 15 power iterations in float32, ours are exact in double: it is followed
    // to what float32 can tell, and to the last digits where the maker put an exact decomposition into PEFT.
    const bool power = fields.at(4) == "power";
    const double tolerance = power ? 1e-6 : 1e-12;
    const auto out = layer(x);
    CHECK(worst_error(out.gate.weights, goldens.numbers(fields[0] + ".gate")) < tolerance);
    CHECK(worst_error(out.y, goldens.numbers(fields[0] + ".y")) < tolerance);
    ++(power ? shipped : exact);
  }
  CHECK(shipped >= 2);
  CHECK(exact >= 4);
}

// Three differences are on purpose, and no case has them: in the first pass PEFT keeps the top k of the equal
// scalings, ours all of them; an encoder-decoder, whose decoder has one scaling a sequence, is not PEFT's;
// nor is Renormalize::sum.
TEST_CASE("X-LoRA's scalings, gates and outputs are PEFT's, by layer and for the network") {
  const Goldens goldens("xlora");
  const auto x = goldens.tensor<double>("x");
  const std::size_t rows = static_cast<std::size_t>(x.size(0) * x.size(1));
  int by_layer = 0, for_all = 0;
  for (const auto& fields : goldens.cases()) {
    const auto& name = fields.at(0);
    CAPTURE(name);
    const auto options = xlora_options(fields);
    const ThreeLayers<double> model(goldens, options);
    const auto parameters = model.layers.mixer->parameters();
    for (std::size_t k = 0; k < parameters.size(); ++k)
      parameters[k].assign(goldens.tensor<double>(name + ".classifier." + std::to_string(k)));
    MolePass<double, Device> pass;
    const auto y = model(x, pass);
    CHECK(worst_error(y, goldens.numbers(name + ".y")) < 1e-12);
    const auto records = model.layers.mixer->records(pass);
    const bool layerwise = options.scope == Scope::matrix;
    REQUIRE(records.size() == (layerwise ? slot_names.size() : 1));
    ++(layerwise ? by_layer : for_all);
    const auto scalings = goldens.numbers(name + ".scalings");
    for (std::size_t slot = 0; slot < slot_names.size(); ++slot) {
      CAPTURE(slot_names[slot]);
      const auto& gate = records[layerwise ? slot : 0].value;
      // PEFT multiplies by the global weight in the layer, ours is in the gate.
      auto weights = goldens.numbers(name + "." + slot_names[slot] + ".gate");
      for (double& value : weights) value *= options.weight;
      CHECK(worst_error(gate.weights, weights) < 1e-13);
      std::vector<double> said;
      for (std::size_t row = 0; row < rows; ++row)
        for (std::size_t i = 0; i < n_golden; ++i)
          said.push_back(scalings[(row * slot_names.size() + slot) * n_golden + i]);
      CHECK(worst_error(gate.dense, said) < 1e-13);
    }
  }
  CHECK(by_layer >= 5);
  CHECK(for_all >= 3);
}

TEST_CASE("In float both routers follow PEFT to float's rounding") {
  const Goldens arrow("arrow"), xlora("xlora");
  std::vector<LoraFactors> experts;
  for (Index i = 0; i < n_golden; ++i) experts.push_back(arrow.expert("gapped." + std::to_string(i)));
  const MoleLinear<float, Device> layer(arrow.tensor<float>("W"), arrow.tensor<float>("bias"), experts,
                                        ArrowOptions{.top_k = 2});
  const auto out = layer(arrow.tensor<float>("x"));
  CHECK(worst_error(out.gate.weights, arrow.numbers("shipped.gate")) < 1e-5);
  CHECK(worst_error(out.y, arrow.numbers("shipped.y")) < 1e-4);

  for (const auto& fields : xlora.cases()) {
    CAPTURE(fields.at(0));
    const ThreeLayers<float> model(xlora, xlora_options(fields));
    const auto parameters = model.layers.mixer->parameters();
    for (std::size_t k = 0; k < parameters.size(); ++k)
      parameters[k].assign(xlora.tensor<float>(fields[0] + ".classifier." + std::to_string(k)));
    MolePass<float, Device> pass;
    CHECK(worst_error(model(xlora.tensor<float>("x"), pass), xlora.numbers(fields[0] + ".y")) < 1e-4);
  }
}
