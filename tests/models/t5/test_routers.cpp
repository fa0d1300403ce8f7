// The routers over a whole T5: where their gates are, what X-LoRA's first pass sees, and what they share.

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <models/t5/tiny_t5.hpp>
#include <mole/experts/gate_statistics.hpp>
#include <mole/loss/total.hpp>

using namespace mole;
using namespace mole::testing;
using D = Tensor<double, Device>;
using Pass = MolePass<double, Device>;

namespace router_tests {

namespace {

std::vector<RouterOptions> routers() {
  return {GateOptions{.pooling = Pooling::token},
          GateOptions{.input = GateInput::hidden},
          ArrowOptions{.top_k = 2},
          XLoraOptions{},
          XLoraOptions{.scope = Scope::network, .depth = 2, .width = 5, .first_pass = 0.3},
          XLoraOptions{.scope = Scope::block, .pooling = Pooling::mean}};
}

/// The encoder's output for the tiny batch without any experts.
D bare_memory() {
  const auto model = tiny_t5<double>();
  const auto batch = tiny_batch<double>();
  Pass pass;
  return model.encode(batch.input(), pass).states;
}

GateRecord<double, Device> record_of(const std::vector<GateRecord<double, Device>>& records,
                                     const std::string& name) {
  for (const auto& record : records)
    if (record.name == name) return record;
  throw ArgumentError("no record of " + name);
}

}  // namespace

TEST_CASE("Arrow has a token gate for each adapted matrix, by its own prototypes, and nothing to train") {
  auto model = tiny_t5<double>();
  model.attach(tiny_adapters(model), ArrowOptions{});
  CHECK(model.mixer().parameters().empty());
  CHECK(model.mixer().gates().size() == model.layers().table.slots.size());
  Pass pass;
  tiny_logits(model, {0, 4, 0, 2}, &pass);
  const auto records = model.mixer().records(pass);
  CHECK(records.size() == model.mixer().gates().size());
  // The first group's input is the norm of the embedded tokens.
  D table, norm;
  model.visit([&](const std::string& name, const Shape&, const D& tensor) {
    if (name == "shared.weight") table = tensor;
    if (name == "encoder.block.0.layer.0.layer_norm.weight") norm = tensor;
  });
  const auto x = rms_norm(embedding(table, tiny_batch<double>().input_ids), norm);
  for (const std::string name : {"q", "k", "v"}) {
    const auto slot = "encoder.block.0.layer.0.SelfAttention." + name;
    const auto& stack = model.mixer().experts_at(model.layers().table.find(slot));
    const Index n = name == "k" ? 1 : 2;
    const auto record = record_of(records, slot);
    CHECK(record.row_mask.defined());
    CHECK(record.value.weights.shape() == Shape{2, tiny_length, n});
    const auto expected = arrow_weights(linear(x, stack.A), arrow_prototypes(stack, n), {});
    CHECK(worst_error(record.value.weights, doubles(expected.weights)) < 1e-13);
  }
  const auto k = record_of(records, "decoder.block.0.layer.1.EncDecAttention.k@memory");
  CHECK(k.stream == "memory");
  CHECK(k.value.weights.shape() == Shape{2, tiny_length, 1});
  CHECK(record_of(records, "decoder.block.0.layer.0.SelfAttention.q").value.weights.shape() ==
        Shape{2, 2, 2});
}

TEST_CASE("X-LoRA's classifier reads the bare encoder's output: by token there, its mean in the decoder") {
  auto model = tiny_t5<double>();
  model.attach(tiny_adapters(model), XLoraOptions{.temperature = 0.5});
  const auto parameters = model.mixer().parameters();
  REQUIRE(parameters.size() == 2);
  Pass pass;
  tiny_logits(model, {0, 4, 0, 2}, &pass);
  const auto z = bare_memory();
  const auto mean = masked_mean(z, tiny_batch<double>().input_mask);
  const auto tokens = linear(z, parameters[0], parameters[1]),
             whole = linear(mean, parameters[0], parameters[1]);
  Index column = 0;
  const auto records = model.mixer().records(pass);
  CHECK(records.size() == model.layers().table.slots.size());
  for (const auto& record : records) {
    CAPTURE(record.name);
    const Index end = column + static_cast<Index>(record.experts.size());
    const auto logits = slice(record.stream == "decoder" ? whole : tokens, -1, column, end);
    CHECK(record.row_mask.defined() == (record.stream != "decoder"));
    CHECK(worst_error(record.value.weights, doubles(softmax(scale(logits, 2)))) < 1e-13);
    column = end;
  }
  CHECK(column == parameters[0].size(0));
}

TEST_CASE("X-LoRA's first pass holds every expert at the scaling that was asked for, times the weight") {
  auto model = tiny_t5<double>();
  const auto sets = tiny_adapters(model);
  auto summed = tiny_t5<double>();
  for (auto& slot : summed.layers().table.slots) {
    auto W = slot.weight.to_host();
    for (const auto& set : sets)
      for (const auto& name : set.slots)
        if (name == slot.name) {
          const auto change = delta(set.factors(name));
          for (std::size_t i = 0; i < W.size(); ++i) W[i] += 0.3 * 1.5 * change[i];
        }
    slot.merged = D::from(slot.weight.shape(), W);
  }
  const auto batch = tiny_batch<double>();
  Pass plain;
  const auto z = summed.encode(batch.input(), plain).states;
  model.attach(sets, XLoraOptions{.scope = Scope::network, .weight = 1.5, .first_pass = 0.3});
  Pass pass;
  tiny_logits(model, {0, 4, 0, 2}, &pass);
  const auto parameters = model.mixer().parameters();
  const auto logits = slice(linear(z, parameters[0], parameters[1]), -1, 0, 3);
  const auto gate = record_of(model.mixer().records(pass), "network@memory").value;
  CHECK(worst_error(gate.dense, doubles(softmax(logits))) < 1e-12);
  CHECK(worst_error(gate.weights, doubles(scale(softmax(logits), 1.5))) < 1e-12);
}

TEST_CASE("A network's sequence scalings of X-LoRA give the model with that sum of adapters merged") {
  auto model = tiny_t5<double>();
  const auto sets = tiny_adapters(model);
  model.attach(sets, XLoraOptions{.scope = Scope::network, .pooling = Pooling::mean, .weight = 1.5});
  const NoGrad off;
  const auto ids = Tensor<Index, Device>::from({1, 3}, {5, 3, 1});
  const auto decoder_ids = Tensor<Index, Device>::from({1, 2}, {0, 4});
  Pass pass;
  const auto logits =
      model.decode(decoder_ids, model.encode(TokenBatch<double, Device>::unpadded(ids), pass), pass);
  const auto records = model.mixer().records(pass);
  REQUIRE(records.size() == 1);
  const auto g = doubles(records.front().value.weights);
  auto merged = tiny_t5<double>();
  for (auto& slot : merged.layers().table.slots) {
    auto W = slot.weight.to_host();
    for (std::size_t e = 0; e < sets.size(); ++e)
      for (const auto& name : sets[e].slots)
        if (name == slot.name) {
          const auto change = delta(sets[e].factors(name));
          for (std::size_t i = 0; i < W.size(); ++i) W[i] += g[e] * change[i];
        }
    slot.merged = D::from(slot.weight.shape(), W);
  }
  Pass plain;
  const auto expected =
      merged.decode(decoder_ids, merged.encode(TokenBatch<double, Device>::unpadded(ids), plain), plain);
  CHECK(worst_error(logits, doubles(expected)) < 1e-12);
}

TEST_CASE("X-LoRA's gradients of the total loss are right by finite differences") {
  constexpr double step = 2e-6;
  auto model = tiny_t5<double>();
  for (const auto& options : {XLoraOptions{.scope = Scope::network, .depth = 2, .width = 3, .top_k = 2},
                              XLoraOptions{.scope = Scope::layer, .temperature = 0.7}}) {
    model.attach(tiny_adapters(model), options);
    const auto batch = tiny_batch<double>();
    auto total = [&] {
      Pass pass;
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
    CHECK(worst < 2e-9);
  }
}

TEST_CASE("Every router reports its gates in one record, which balance loss and statistics read") {
  auto model = tiny_t5<double>();
  for (const auto& router : routers()) {
    CAPTURE(std::string(router_name(router)));
    model.attach(tiny_adapters(model), router);
    Pass pass;
    model.loss(tiny_batch<double>(), pass);
    const auto records = model.mixer().records(pass);
    CHECK(records.size() == model.mixer().gates().size());
    CHECK(std::isfinite(model.balance(pass).item()));
    for (const auto& gate : gate_statistics(records)) {
      CAPTURE(gate.name);
      double total = 0;
      for (const double q : gate.load()) total += q;
      CHECK(std::abs(total - 1) < 1e-14);
      // Of two sequences: one each, four and two real tokens, or three and two labels.
      CHECK(gate.rows == (!gate.by_token ? 2 : gate.stream == "decoder" ? 5 : 6));
      CHECK(gate.decided == gate.rows);
    }
  }
}

TEST_CASE("Under every router a masked expert gets nothing and padding changes nothing") {
  auto model = tiny_t5<double>(2);
  for (const auto& router : routers()) {
    CAPTURE(std::string(router_name(router)));
    model.attach(tiny_adapters(model), router);
    const auto padded = doubles(tiny_logits(model, {0, 4, 0, 2}));
    const NoGrad off;
    Pass alone;
    const auto memory = model.encode(
        TokenBatch<double, Device>::unpadded(Tensor<Index, Device>::from({1, 2}, {7, 1})), alone);
    const auto plain = model.decode(Tensor<Index, Device>::from({1, 2}, {0, 2}), memory, alone);
    CHECK(worst_error(plain, {padded.begin() + 22, padded.end()}) < 1e-13);
    model.mixer().set_mask({false, true, true});
    Pass pass;
    tiny_logits(model, {0, 4, 0, 2}, &pass);
    for (const auto& row : token_gates(model.mixer().records(pass))) {
      double total = 0;
      for (const double g : row.weights) total += g;
      if (row.experts.front() == 0) CHECK(row.weights.front() == 0);
      CHECK(total == doctest::Approx(row.experts.size() == 1 ? 0.0 : 1.0));
    }
  }
}

TEST_CASE("With cached decoding every router generates the tokens that teacher forcing finds best") {
  auto model = tiny_t5<double>(2);
  for (const auto& router : routers()) {
    CAPTURE(std::string(router_name(router)));
    model.attach(tiny_adapters(model), router);
    const auto batch = tiny_batch<double>();
    Pass pass;
    const auto tokens = generate(model, batch.input(), pass, {.max_new_tokens = 4});
    Pass beams;
    CHECK(generate(model, batch.input(), beams, {.max_new_tokens = 4, .beams = 2}).size() == 2);
    for (std::size_t s = 0; s < 2; ++s) {
      const NoGrad off;
      const auto length = static_cast<Index>(tokens[s].size()) - 1;
      const std::vector<Index> input = s == 0 ? std::vector<Index>{5, 3, 9, 1} : std::vector<Index>{7, 1};
      Pass forced;
      const auto memory = model.encode(TokenBatch<double, Device>::unpadded(Tensor<Index, Device>::from(
                                           {1, static_cast<Index>(input.size())}, input)),
                                       forced);
      const std::vector<Index> given(tokens[s].begin(), tokens[s].end() - 1);
      const auto logits =
          doubles(model.decode(Tensor<Index, Device>::from({1, length}, given), memory, forced));
      for (std::size_t t = 0; t < given.size(); ++t) {
        const auto row = logits.begin() + static_cast<std::ptrdiff_t>(11 * t);
        CHECK(std::max_element(row, row + 11) - row == tokens[s][t + 1]);
      }
    }
  }
}

TEST_CASE("With few experts left by top-k only these are computed, with the same outputs and gradients") {
  auto model = tiny_t5<double>();
  std::vector<LoraSet> sets;
  for (std::uint64_t i = 0; i < 6; ++i)
    sets.push_back(adapter_for(model, "expert " + std::to_string(i), 1 + static_cast<Index>(i % 2), 50 * i,
                               [i](const auto& slot) { return i != 3 || ends_with(slot, ".q"); }));
  // A gate's top-k of 2 leaves few of 6; of the same 6 with the rest masked, top-k of 4 leaves as many but
  // takes the path of all experts.
  auto run = [&](Index top_k, const std::vector<bool>& keep, Pass& pass, std::vector<double>& gradient) {
    model.attach(sets, {.scope = Scope::block, .top_k = top_k});
    scatter_gates(model);
    model.mixer().set_mask(keep);
    const auto loss = model.loss(tiny_batch<double>(), pass);
    backward(loss);
    for (const auto& parameter : model.mixer().parameters()) {
      const auto part = doubles(parameter.grad());
      gradient.insert(gradient.end(), part.begin(), part.end());
    }
    return loss.item();
  };
  for (const std::size_t other : {1u, 3u}) {
    std::vector<bool> keep(6, false);
    keep[0] = keep[other] = true;
    Pass few, all;
    std::vector<double> few_gradient, all_gradient;
    const double a = run(2, keep, few, few_gradient), b = run(4, keep, all, all_gradient);
    CHECK(few.used.size() == 2);
    for (const auto& [gate, columns] : few.used) CHECK(columns.size() == 2);
    CHECK(all.used.empty());
    CHECK(std::abs(a - b) < 1e-14);
    CHECK(worst_error(few_gradient, all_gradient) < 1e-13);
    CHECK(worst_error(few_gradient, std::vector<double>(few_gradient.size())) > 1e-6);
  }
}

TEST_CASE("An adapter's factors are read slot by slot, each once") {
  auto model = tiny_t5<double>();
  auto sets = tiny_adapters(model);
  std::vector<std::string> read;
  for (auto& set : sets)
    set.factors = [factors = set.factors, &read](const std::string& slot) {
      read.push_back(slot);
      return factors(slot);
    };
  model.attach(sets, GateOptions{});
  std::size_t expected = 0;
  for (const auto& set : sets) expected += set.slots.size();
  CHECK(read.size() == expected);
  std::set<std::string> finished;
  for (std::size_t i = 0; i < read.size(); ++i) {
    CHECK(finished.count(read[i]) == 0);
    if (i + 1 < read.size() && read[i + 1] != read[i]) finished.insert(read[i]);
  }
}

TEST_CASE("What a router cannot do in a model is refused, naming why") {
  auto model = tiny_t5<double>();
  const auto sets = tiny_adapters(model);
  CHECK(lacks<ArgumentError>([&] { model.attach(sets, ArrowOptions{.top_k = 4}); }, {"top-k", "4", "3"}) ==
        "");
  CHECK(lacks<ArgumentError>([&] { model.attach(sets, XLoraOptions{.top_k = 4}); }, {"top-k", "4", "3"}) ==
        "");
  model.attach(sets, ArrowOptions{});
  CHECK(model.mixer().policies().scope == Scope::matrix);
  model.attach(sets, XLoraOptions{});
  Pass pass;
  CHECK(lacks<ArgumentError>(
            [&] {
              model.decode(Tensor<Index, Device>::from({1, 1}, {0}), {bare_memory(), {}}, pass);
            },
            {"gate", "not been read"}) == "");
  model.attach(sets, XLoraOptions{.softmax = false});
  Pass scaled;
  model.loss(tiny_batch<double>(), scaled);
  CHECK(lacks<ArgumentError>([&] { model.balance(scaled); }, {"softmax", "balance loss"}) == "");
}

}  // namespace router_tests
