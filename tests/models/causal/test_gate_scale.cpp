// Decoder-only models whose gates read a standardised input.

#include <doctest/doctest.h>

#include "models/causal/tiny_causal.hpp"

using namespace mole;
using namespace mole::testing;

namespace {

using Batch = CausalBatch<double, Device>;
using Pass = MolePass<double, Device>;

std::vector<Batch> batches_with(const std::vector<Index>& first_answer) {
  return {causal_batch<double, Device>({{{1, 2, 3, 4}, first_answer}, {{5, 6}, {7, 16}}}, 0),
          causal_batch<double, Device>({{{9, 3, 8}, {2, 16}}, {{4, 4, 11, 12, 13}, {16}}}, 0)};
}

/// Mean and factor of everything that is scaled.
std::vector<std::vector<double>> scales_of(const CausalModel<double, Device>& model) {
  std::vector<std::vector<double>> all;
  for (const auto& scale : model.mixer().router().scales()) {
    all.push_back(scale.mean.to_host());
    all.push_back(scale.factor.to_host());
  }
  return all;
}

}  // namespace

TEST_CASE("Measured gates start even and learn, whichever the model and the router") {
  for (const auto& model : tiny_causal_models())
    for (const auto& router : std::vector<RouterOptions>{
             GateOptions{.input_scale = InputScale::standardised},
             GateOptions{.pooling = Pooling::token, .input_scale = InputScale::common},
             XLoraOptions{.pooling = Pooling::mean, .input_scale = InputScale::standardised},
             XLoraOptions{.pooling = Pooling::token, .input_scale = InputScale::common}}) {
      CAPTURE(router_name(router));
      model->attach(causal_adapters(*model), router);
      const auto batches = batches_with({7, 16});
      Pass pass;
      CHECK(lacks<ArgumentError>([&] { model->loss(batches[0], pass); }, {"standardise_gates"}) == "");
      model->standardise_gates(batches);
      CHECK(model->mixer().is_measured());
      CHECK(is_finite(model->loss(batches[0], pass = {}).item()));
    }
}

TEST_CASE("What sequence gates read is measured on the prompts: answers do not change it") {
  for (const auto& model : tiny_causal_models())
    for (const auto& router : std::vector<RouterOptions>{
             GateOptions{.input_scale = InputScale::standardised},
             XLoraOptions{.pooling = Pooling::mean, .input_scale = InputScale::standardised}}) {
      CAPTURE(router_name(router));
      model->attach(causal_adapters(*model), router);
      model->standardise_gates(batches_with({7, 16}));
      const auto one = scales_of(*model);
      model->standardise_gates(batches_with({11, 10, 9, 16}));
      const auto other = scales_of(*model);
      REQUIRE(one.size() == other.size());
      for (std::size_t i = 0; i < one.size(); ++i)
        for (std::size_t k = 0; k < one[i].size(); ++k)
          CHECK(other[i][k] == doctest::Approx(one[i][k]).epsilon(1e-9));
    }
}

TEST_CASE("Each adapted layer names the gate of its scope") {
  for (const auto& model : tiny_causal_models()) {
    model->attach(causal_adapters(*model), GateOptions{.scope = Scope::block});
    const auto& table = model->layers().table;
    int adapted = 0;
    for (std::size_t i = 0; i < table.slots.size(); ++i) {
      if (!model->mixer().experts_at(i).A.defined()) continue;
      ++adapted;
      CHECK(model->mixer().gates().at(model->mixer().gate_of(i)).name == table.scope_of(i, Scope::block));
    }
    CHECK(adapted > 4);
  }
}
