// The gates of a whole T5: which there are, what each holds and reads, and what none may see.

#include <algorithm>
#include <map>
#include <set>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <models/t5/tiny_t5.hpp>
#include <mole/autodiff/grad_check.hpp>
#include <mole/loss/total.hpp>

using namespace mole;
using namespace mole::testing;
using D = Tensor<double, Device>;

namespace {

template <class T>
std::set<std::string> gate_names(T5<T, Device>& model) {
  std::set<std::string> names;
  for (const auto& placed : model.mixer().gates()) names.insert(placed.name);
  CHECK(names.size() == model.mixer().gates().size());
  return names;
}

template <class T>
const PlacedGate<T, Device>& gate_named(T5<T, Device>& model, const std::string& name) {
  for (const auto& placed : model.mixer().gates())
    if (placed.name == name) return placed;
  throw ArgumentError("no gate named " + name);
}

std::vector<double> part(const std::vector<double>& values, std::size_t from, std::size_t to) {
  return {values.begin() + static_cast<std::ptrdiff_t>(from),
          values.begin() + static_cast<std::ptrdiff_t>(to)};
}

/// Scatters the gates; the worst error of a gate's gradient of the total loss by finite differences.
double worst_slope(T5<double, Device>& model) {
  constexpr double step = 2e-6;
  scatter_gates(model);
  const auto batch = tiny_batch<double>();
  auto total = [&] {
    MolePass<double, Device> pass;
    const auto loss = model.loss(batch, pass, 0.1);
    return total_loss(loss, model.balance(pass), 0.3);
  };
  backward(total());
  double worst = 0;
  const NoGrad off;
  for (const auto& parameter : model.mixer().parameters()) {
    REQUIRE(parameter.grad().defined());
    const auto original = parameter.to_host(), gradient = parameter.grad().to_host();
    for (std::size_t k = 0; k < original.size(); ++k) {
      auto at = [&](double offset) {
        auto moved = original;
        moved[k] += offset;
        parameter.assign(D::from(parameter.shape(), moved));
        return total().item();
      };
      worst = std::max(worst, std::abs((at(step) - at(-step)) / (2 * step) - gradient[k]));
    }
    parameter.assign(D::from(parameter.shape(), original));
  }
  return worst;
}

/// Five adapters of rank 1, the last of them on the attention alone.
std::vector<LoraSet> many_adapters(const T5<double, Device>& model) {
  std::vector<LoraSet> sets;
  for (std::uint64_t i = 0; i < 5; ++i)
    sets.push_back(adapter_for(model, "expert " + std::to_string(i), 1, 60 * i,
                               [i](const auto& slot) { return i < 4 || has(slot, "Attention"); }));
  return sets;
}

/// Adds g_e times each expert to the slots of a scope.
void merge(T5<double, Device>& model, const std::string& name, Scope scope, const std::vector<LoraSet>& sets,
           const std::vector<Index>& experts, const std::vector<double>& g) {
  for (auto& slot : model.layers().table.slots) {
    const auto& table = model.layers().table;
    if (table.scope_of(table.find(slot.name), scope) != name) continue;
    auto W = slot.weight.to_host();
    for (std::size_t e = 0; e < experts.size(); ++e) {
      const auto& set = sets[static_cast<std::size_t>(experts[e])];
      if (std::find(set.slots.begin(), set.slots.end(), slot.name) == set.slots.end()) continue;
      const auto change = delta(set.factors(slot.name));
      for (std::size_t i = 0; i < W.size(); ++i) W[i] += g[e] * change[i];
    }
    slot.merged = D::from(slot.weight.shape(), W);
  }
}

}  // namespace

TEST_CASE("There is a gate for each scope, and one more where token gates read the encoder's tokens") {
  auto model = tiny_t5<double>(2);
  const std::vector<LoraSet> sets{adapter_for(model, "a", 1, 1), adapter_for(model, "b", 2, 2)};
  std::set<std::string> matrices, matrices_by_token;
  for (const auto& slot : model.layers().table.slots) {
    matrices.insert(slot.name);
    const bool memory =
        ends_with(slot.name, "EncDecAttention.k") || ends_with(slot.name, "EncDecAttention.v");
    matrices_by_token.insert(memory ? slot.name + "@memory" : slot.name);
  }
  REQUIRE(matrices.size() == 36);
  const std::set<std::string> layers{"encoder.block.0.layer.0", "encoder.block.0.layer.1",
                                     "encoder.block.1.layer.0", "encoder.block.1.layer.1",
                                     "decoder.block.0.layer.0", "decoder.block.0.layer.1",
                                     "decoder.block.0.layer.2", "decoder.block.1.layer.0",
                                     "decoder.block.1.layer.1", "decoder.block.1.layer.2"},
      blocks{"encoder.block.0", "encoder.block.1", "decoder.block.0", "decoder.block.1"};
  auto with = [](std::set<std::string> names, std::initializer_list<std::string> more) {
    names.insert(more);
    return names;
  };
  for (const Pooling pooling : {Pooling::flatten, Pooling::mean, Pooling::token}) {
    const bool token = pooling == Pooling::token;
    auto names = [&](Scope scope) {
      model.attach(sets, {.scope = scope, .pooling = pooling, .length = 4});
      return gate_names(model);
    };
    CHECK(names(Scope::matrix) == (token ? matrices_by_token : matrices));
    CHECK(names(Scope::layer) ==
          (token ? with(layers, {"decoder.block.0.layer.1@memory", "decoder.block.1.layer.1@memory"})
                 : layers));
    CHECK(names(Scope::block) ==
          (token ? with(blocks, {"decoder.block.0@memory", "decoder.block.1@memory"}) : blocks));
    CHECK(names(Scope::network) ==
          (token ? std::set<std::string>{"network", "network@memory"} : std::set<std::string>{"network"}));
  }
}

TEST_CASE("A gate holds only the experts that adapt something in its scope") {
  auto model = tiny_t5<double>();
  using List = std::vector<Index>;
  model.attach(tiny_adapters(model), {.scope = Scope::matrix});
  CHECK(gate_named(model, "encoder.block.0.layer.0.SelfAttention.q").gate.experts == List{0, 1});
  CHECK(gate_named(model, "encoder.block.0.layer.0.SelfAttention.k").gate.experts == List{0});
  CHECK(gate_named(model, "decoder.block.0.layer.2.DenseReluDense.wo").gate.experts == List{0, 2});
  model.attach(tiny_adapters(model), {.scope = Scope::layer});
  CHECK(gate_named(model, "encoder.block.0.layer.0").gate.experts == List{0, 1});
  CHECK(gate_named(model, "encoder.block.0.layer.1").gate.experts == List{0, 2});
  model.attach(tiny_adapters(model), {.scope = Scope::block});
  CHECK(gate_named(model, "encoder.block.0").gate.experts == List{0, 1, 2});
  const auto sets = tiny_adapters(model);
  model.attach({sets[1], sets[2]}, {.scope = Scope::matrix});
  CHECK_THROWS_AS(gate_named(model, "encoder.block.0.layer.0.SelfAttention.k"), ArgumentError);
}

TEST_CASE(
    "A gate reads its scope's first adapted slots that share an input, and there only its own experts") {
  auto model = tiny_t5<double>();
  model.attach(tiny_adapters(model), {.scope = Scope::block});
  // q, k, v by rank: all 2 + 2 + 2, qv 1 + 1; the decoder's gate reads k, v of its cross-attention: 4 + 1.
  CHECK(gate_named(model, "encoder.block.0").gate.weight.shape() == Shape{8, 3});
  CHECK(gate_named(model, "decoder.block.0").gate.weight.shape() == Shape{5, 3});
  model.attach(tiny_adapters(model), {.scope = Scope::layer});
  // The decoder's feed-forward gate holds all and ff, but reads k, v, where ff is absent and qv is not its
  // own.
  CHECK(gate_named(model, "decoder.block.0.layer.2").gate.experts == std::vector<Index>{0, 2});
  CHECK(gate_named(model, "decoder.block.0.layer.2").gate.weight.shape() == Shape{4, 2});
  model.attach(tiny_adapters(model), {.scope = Scope::network, .pooling = Pooling::flatten, .length = 4});
  CHECK(gate_named(model, "network").gate.weight.shape() == Shape{32, 3});
  model.attach(tiny_adapters(model), {.scope = Scope::block, .input = GateInput::hidden});
  CHECK(gate_named(model, "decoder.block.0").gate.weight.shape() == Shape{6, 3});
}

TEST_CASE("An expert that is absent from a scope has no mass there and no share in it") {
  auto model = tiny_t5<double>();
  model.attach(tiny_adapters(model), {.scope = Scope::matrix, .pooling = Pooling::token});
  scatter_gates(model);
  MolePass<double, Device> pass;
  const auto batch = tiny_batch<double>();
  model.loss(batch, pass);
  for (const auto& record : model.mixer().records(pass)) {
    CAPTURE(record.name);
    REQUIRE(record.value.weights.size(-1) == static_cast<Index>(record.experts.size()));
    const auto sums = doubles(sum(record.value.weights, {-1}));
    CHECK(worst_error(sums, std::vector<double>(sums.size(), 1)) < 1e-14);
  }
}

TEST_CASE("Where no expert adapts cross-attention's k and v, the decoder's gates read the pooled memory") {
  auto model = tiny_t5<double>();
  const std::vector<LoraSet> sets{
      adapter_for(model, "a", 2, 1, [](const auto& slot) { return ends_with(slot, ".q"); }),
      adapter_for(model, "b", 1, 2, [](const auto& slot) { return ends_with(slot, ".q"); })};
  model.attach(sets, {.scope = Scope::block, .pooling = Pooling::mean});
  scatter_gates(model);
  const auto placed = gate_named(model, "decoder.block.0");
  CHECK(placed.reads.empty());
  CHECK(placed.gate.weight.shape() == Shape{6, 2});
  MolePass<double, Device> pass;
  tiny_logits(model, {0, 4, 0, 2}, &pass);
  MolePass<double, Device> again;
  const auto batch = tiny_batch<double>();
  const auto memory = model.encode(batch.input(), again);
  const auto v = unit_rows(masked_mean(memory.states, batch.input_mask));
  for (const auto& record : model.mixer().records(pass))
    if (record.name == placed.name)
      CHECK(worst_error(record.value.weights, doubles(softmax(matmul(v, placed.gate.weight)))) < 1e-14);
}

TEST_CASE("No gate lets a decoder position see later tokens, and sequence gates see none of the decoder's") {
  auto model = tiny_t5<double>(2);
  for (const auto& options : all_policies()) {
    CAPTURE(name_of(options));
    model.attach(tiny_adapters(model), options);
    scatter_gates(model);
    MolePass<double, Device> first, second;
    const auto a = doubles(tiny_logits(model, {0, 4, 8, 0, 2, 5}, &first));
    const auto b = doubles(tiny_logits(model, {0, 4, 3, 0, 2, 9}, &second));
    const std::size_t V = 11;
    for (const std::size_t sequence : {0u, 1u}) {
      const std::size_t at = sequence * 3 * V;
      CHECK(worst_error(part(a, at, at + 2 * V), part(b, at, at + 2 * V)) < 1e-13);
      CHECK(worst_error(part(a, at + 2 * V, at + 3 * V), part(b, at + 2 * V, at + 3 * V)) > 1e-3);
    }
    if (options.pooling == Pooling::token) continue;
    const auto before = model.mixer().records(first), after = model.mixer().records(second);
    REQUIRE(before.size() == model.mixer().gates().size());
    for (std::size_t i = 0; i < before.size(); ++i)
      CHECK(doubles(before[i].value.weights) == doubles(after[i].value.weights));
  }
}

TEST_CASE("Padding the input changes neither logits nor the gates of real tokens") {
  auto model = tiny_t5<double>(2);
  for (const auto& options : all_policies()) {
    if (options.pooling == Pooling::flatten) continue;
    CAPTURE(name_of(options));
    model.attach(tiny_adapters(model), options);
    scatter_gates(model);
    const auto padded = doubles(tiny_logits(model, {0, 4, 0, 2}));
    const NoGrad off;
    MolePass<double, Device> pass;
    const auto memory =
        model.encode(TokenBatch<double, Device>::unpadded(Tensor<Index, Device>::from({1, 2}, {7, 1})), pass);
    const auto plain = model.decode(Tensor<Index, Device>::from({1, 2}, {0, 2}), memory, pass);
    CHECK(worst_error(plain, part(padded, 22, 44)) < 1e-13);
  }
}

// Later gates read what the masked ones before them made, and differ.
TEST_CASE("Masked, the first gate of a model is what it was, renormalised") {
  auto model = tiny_t5<double>();
  for (const auto& options : all_policies()) {
    CAPTURE(name_of(options));
    model.attach(tiny_adapters(model), options);
    scatter_gates(model);
    const auto first = [&] {
      MolePass<double, Device> pass;
      tiny_logits(model, {0, 4, 0, 2}, &pass);
      return model.mixer().records(pass).front();
    };
    const auto whole = first();
    const std::size_t n = whole.experts.size();
    REQUIRE(n > 1);
    auto expected = doubles(whole.value.weights);
    for (std::size_t row = 0; row < expected.size(); row += n) {
      double rest = 0;
      for (std::size_t j = 0; j < n; ++j) rest += whole.experts[j] == 0 ? 0 : expected[row + j];
      for (std::size_t j = 0; j < n; ++j) expected[row + j] *= whole.experts[j] == 0 ? 0 : 1 / rest;
    }
    model.mixer().set_mask({false, true, true});
    CHECK(worst_error(first().value.weights, expected) < 1e-14);
  }
}

TEST_CASE("A masked expert gets no weight anywhere, and gates that hold no other give none") {
  auto model = tiny_t5<double>();
  for (const auto& options : all_policies()) {
    CAPTURE(name_of(options));
    model.attach(tiny_adapters(model), options);
    scatter_gates(model);
    model.mixer().set_mask({false, true, true});
    MolePass<double, Device> pass;
    tiny_logits(model, {0, 4, 0, 2}, &pass);
    for (const auto& record : model.mixer().records(pass)) {
      const auto weights = doubles(record.value.weights);
      const std::size_t n = record.experts.size();
      for (std::size_t i = 0; i < weights.size(); i += n) {
        double total = 0;
        for (std::size_t j = 0; j < n; ++j) {
          if (record.experts[j] == 0) CHECK(weights[i + j] == 0);
          total += weights[i + j];
        }
        CHECK(total == doctest::Approx(n == 1 ? 0.0 : 1.0));
      }
    }
  }
  CHECK(lacks<ArgumentError>(
            [&] {
              model.mixer().set_mask({false, false, false});
            },
            {"all experts", "masked"}) == "");
  CHECK(lacks<ArgumentError>([&] { model.mixer().set_mask({true}); }, {"3", "1"}) == "");
}

TEST_CASE("The mask is taken back by a mask of all") {
  auto model = tiny_t5<double>();
  model.attach(tiny_adapters(model), {});
  scatter_gates(model);
  const auto before = doubles(tiny_logits(model, {0, 4, 0, 2}));
  model.mixer().set_mask({true, false, true});
  CHECK(worst_error(tiny_logits(model, {0, 4, 0, 2}), before) > 1e-4);
  model.mixer().set_mask({true, true, true});
  CHECK(doubles(tiny_logits(model, {0, 4, 0, 2})) == before);
}

TEST_CASE("What cannot be attached is refused, naming why") {
  auto model = tiny_t5<double>();
  const auto sets = tiny_adapters(model);
  CHECK(lacks<ArgumentError>([&] { model.attach({}, {}); }, {"empty", "at least one"}) == "");
  CHECK(lacks<ArgumentError>([&] { model.attach({sets[0], sets[0]}, {}); }, {"all", "two"}) == "");
  CHECK(lacks<ArgumentError>([&] { model.attach(sets, {.top_k = 4}); }, {"top-k", "4", "3"}) == "");
  CHECK(lacks<ArgumentError>([&] { model.attach(sets, {.pooling = Pooling::flatten}); },
                             {"flatten", "length"}) == "");
  auto other = sets[0];
  other.factors = [](const std::string&) { return random_factors(2, 9, 9, 1, 1); };
  CHECK(lacks<FormatError>([&] { model.attach({other}, {}); },
                           {"all", "SelfAttention.q", "[9, 9]", "[6, 6]"}) == "");
  CHECK_THROWS_AS(model.mixer(), ArgumentError);
  other.slots.push_back("encoder.block.9.layer.0.SelfAttention.q");
  CHECK(lacks<FormatError>([&] { model.attach({other}, {}); }, {"encoder.block.9", "another base"}) == "");
}

TEST_CASE("Flatten gates refuse a batch of another length, naming both") {
  auto model = tiny_t5<double>();
  model.attach(tiny_adapters(model), {.pooling = Pooling::flatten, .length = 7});
  CHECK(lacks<ShapeError>([&] { tiny_logits(model, {0, 0}); }, {"flatten", "7", "4"}) == "");
}

TEST_CASE("The gradients of the total loss reach every gate and are right by finite differences") {
  auto model = tiny_t5<double>();
  for (const auto& options : all_policies()) {
    CAPTURE(name_of(options));
    model.attach(tiny_adapters(model), options);
    CHECK(worst_slope(model) < 2e-9);
  }
}

TEST_CASE("Where only the chosen experts are computed, gradients are right by finite differences") {
  auto model = tiny_t5<double>();
  for (auto options : all_policies()) {
    if (options.pooling == Pooling::token) continue;
    options.top_k = 2;
    CAPTURE(name_of(options));
    model.attach(many_adapters(model), options);
    CHECK(worst_slope(model) < 2e-9);
    MolePass<double, Device> pass;
    tiny_logits(model, {0, 4, 0, 2}, &pass);
    CHECK(pass.used.size() == model.mixer().gates().size());
  }
}

TEST_CASE("With top-k each sequence is decoded as by the base with its own chosen experts merged in") {
  auto model = tiny_t5<double>(2), merged = tiny_t5<double>(2);
  const auto sets = many_adapters(model);
  const auto batch = tiny_batch<double>();
  for (const Scope scope : {Scope::matrix, Scope::block, Scope::network})
    for (const Index beams : {1, 3}) {
      CAPTURE(std::string(to_string(scope)));
      CAPTURE(beams);
      model.attach(sets, {.scope = scope, .top_k = 2});
      scatter_gates(model);
      MolePass<double, Device> pass;
      const GenerateOptions search{.max_new_tokens = 6, .beams = beams};
      const auto tokens = generate(model, batch.input(), pass, search);
      const auto records = model.mixer().records(pass);
      for (std::size_t s = 0; s < 2; ++s) {
        for (auto& slot : merged.layers().table.slots) slot.merged = {};
        for (const auto& record : records) {
          // Beams of a sequence have equal gates.
          const std::size_t n = record.experts.size(), row = s * static_cast<std::size_t>(beams) * n;
          const auto g = part(doubles(record.value.weights), row, row + n);
          CHECK(std::count(g.begin(), g.end(), 0) == static_cast<std::ptrdiff_t>(n) - 2);
          merge(merged, record.name, scope, sets, record.experts, g);
        }
        const auto length = static_cast<Index>(s == 0 ? 4 : 2);
        const auto ids = batch.input_ids.to_host();
        const std::vector<Index> own(ids.begin() + static_cast<std::ptrdiff_t>(4 * s),
                                     ids.begin() + static_cast<std::ptrdiff_t>(4 * s) + length);
        MolePass<double, Device> plain;
        CHECK(generate(merged,
                       TokenBatch<double, Device>::unpadded(Tensor<Index, Device>::from({1, length}, own)),
                       plain, search)
                  .front() == tokens[s]);
      }
    }
}

TEST_CASE("X-LoRA's first pass mixes all experts, whatever top-k leaves to the second") {
  auto model = tiny_t5<double>();
  const auto sets = many_adapters(model);
  auto run = [&](Index top_k, std::vector<double>& gates) {
    model.attach(
        sets,
        XLoraOptions{.scope = Scope::network, .pooling = Pooling::mean, .top_k = top_k, .first_pass = 0.3});
    MolePass<double, Device> pass;
    const auto logits = doubles(tiny_logits(model, {0, 4, 0, 2}, &pass));
    gates = doubles(pass.gates.front()->dense);
    CHECK(pass.used.size() == (top_k > 0 ? 1 : 0));
    return logits;
  };
  std::vector<double> with_all, with_one;
  const auto all = run(0, with_all), one = run(1, with_one);
  CHECK(worst_error(with_one, with_all) < 1e-14);
  CHECK(worst_error(one, all) > 1e-3);
}
