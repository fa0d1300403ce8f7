// Standardised gates over a whole T5: every scope, pooling and router that reads experts' outputs or hidden states.

#include <cmath>
#include <string>
#include <variant>
#include <vector>

#include <doctest/doctest.h>
#include <models/t5/tiny_t5.hpp>
#include <mole/loss/total.hpp>

using namespace mole;
using namespace mole::testing;

namespace t5_gate_scales {

namespace {

using D = Tensor<double, Device>;
using Pass = MolePass<double, Device>;
using Batch = T5Batch<double, Device>;

/// A second batch without padding.
Batch other_batch() {
  return {Tensor<Index, Device>::from({2, tiny_length}, {2, 8, 6, 1, 4, 4, 10, 1}), D(),
          Tensor<Index, Device>::from({2, 3}, {3, 7, 1, 9, 9, 1})};
}

std::vector<RouterOptions> all_routers() {
  std::vector<RouterOptions> list;
  for (const InputScale scale : {InputScale::standardised, InputScale::common}) {
    for (auto options : mole::testing::all_policies()) {
      options.input_scale = scale;
      list.push_back(options);
    }
    for (const Pooling pooling : {Pooling::mean, Pooling::token})
      list.push_back(XLoraOptions{.scope = Scope::block,
                                  .pooling = pooling,
                                  .depth = 2,
                                  .width = 5,
                                  .first_pass = 0.2,
                                  .input_scale = scale});
  }
  return list;
}

std::string described(const RouterOptions& router) {
  const auto placement = placement_of(router);
  return message(router_name(router), to_string(placement.scope), to_string(placement.input),
                 to_string(placement.pooling), to_string(placement.input_scale));
}

std::vector<std::vector<double>> scales_of(const T5<double, Device>& model) {
  std::vector<std::vector<double>> list;
  for (const auto& scale : model.mixer().router().scales()) {
    list.push_back(doubles(scale.mean));
    list.push_back(doubles(scale.factor));
  }
  return list;
}

void scatter(T5<double, Device>& model) {
  std::uint64_t stream = 50;
  for (const auto& parameter : model.mixer().parameters())
    parameter.assign(noise<double>(parameter.shape(), stream++));
}

}  // namespace

TEST_CASE("Every gate is measured, trains without its scale, and is even at the start") {
  auto model = tiny_t5<double>();
  for (const auto& router : all_routers()) {
    CAPTURE(described(router));
    model.attach(tiny_adapters(model), router);
    const auto parameters = model.mixer().parameters().size();
    CHECK(lacks<ArgumentError>([&] { tiny_logits(model, {0, 4, 0, 2}); }, {"not been measured"}) == "");
    model.standardise_gates({tiny_batch<double>(), other_batch()});
    CHECK(model.mixer().is_measured());
    CHECK(model.mixer().parameters().size() == parameters);
    const auto scales = model.mixer().router().scales();
    CHECK(model.mixer().tensors().size() == parameters + 2 * scales.size());
    for (const auto& scale : scales) {
      CHECK_FALSE(scale.mean.requires_grad());
      double most = 0;
      for (const double factor : scale.factor.to_host()) {
        CHECK(factor >= 0);
        most = std::max(most, factor);
      }
      CHECK(most > 0);
    }
    if (!std::holds_alternative<GateOptions>(router)) continue;
    Pass pass;
    tiny_logits(model, {0, 4, 0, 2}, &pass);
    for (const auto& record : model.mixer().records(pass))
      for (const double weight : record.value.weights.to_host())
        CHECK(weight == 1.0 / static_cast<double>(record.experts.size()));
  }
}

TEST_CASE("Gates are measured uniform, whatever they have learned, and masks have no part in it") {
  auto model = tiny_t5<double>();
  for (const auto& router : all_routers()) {
    CAPTURE(described(router));
    model.attach(tiny_adapters(model), router);
    const std::vector<Batch> batches{tiny_batch<double>(), other_batch()};
    model.standardise_gates(batches);
    const auto fresh = scales_of(model);
    scatter(model);
    model.mixer().set_mask({true, false, true});
    model.standardise_gates(batches);
    CHECK(scales_of(model) == fresh);
  }
}

TEST_CASE("Standardised gates decode token by token as they do at once") {
  auto model = tiny_t5<double>();
  for (const auto& router : all_routers()) {
    CAPTURE(described(router));
    model.attach(tiny_adapters(model), router);
    model.standardise_gates({tiny_batch<double>(), other_batch()});
    scatter(model);
    const NoGrad off;
    const auto batch = tiny_batch<double>();
    const auto whole = tiny_logits(model, {0, 4, 8, 0, 2, 1});
    Pass pass;
    const auto memory = model.encode(batch.input(), pass);
    KvCache<double, Device> cache;
    for (Index t = 0; t < 3; ++t) {
      const std::vector<Index> all{0, 4, 8, 0, 2, 1};
      const auto step =
          model.decode(Tensor<Index, Device>::from(
                           {2, 1}, {all[static_cast<std::size_t>(t)], all[static_cast<std::size_t>(3 + t)]}),
                       memory, pass, &cache);
      model.mixer().next_step(model.layers().table.groups.back().place.stream, pass);
      CHECK(worst_error(step, doubles(slice(whole, 1, t, t + 1))) < 1e-12);
    }
  }
}

TEST_CASE("The total loss of standardised gates has the gradients that finite differences find") {
  constexpr double step = 2e-6;
  auto model = tiny_t5<double>();
  for (const InputScale scale : {InputScale::standardised, InputScale::common})
    for (const Scope scope : {Scope::matrix, Scope::block})
      for (const Pooling pooling : {Pooling::mean, Pooling::token}) {
        CAPTURE(message(to_string(scale), to_string(scope), to_string(pooling)));
        model.attach(tiny_adapters(model), {.scope = scope, .pooling = pooling, .input_scale = scale});
        model.standardise_gates({tiny_batch<double>(), other_batch()});
        scatter_gates(model, 0.5);
        const auto loss = [&] {
          Pass pass;
          const auto task = model.loss(tiny_batch<double>(), pass);
          return total_loss(task, model.balance(pass), 0.3);
        };
        backward(loss());
        double worst = 0, most = 0;
        const NoGrad off;
        std::size_t number = 0;
        for (const auto& parameter : model.mixer().parameters()) {
          REQUIRE(parameter.grad().defined());
          const auto original = parameter.to_host(), gradient = parameter.grad().to_host();
          // Every third parameter element is enough to see a wrong formula.
          for (std::size_t k = number++ % 3; k < original.size(); k += 3) {
            const auto at = [&](double offset) {
              auto moved = original;
              moved[k] += offset;
              parameter.assign(D::from(parameter.shape(), moved));
              return loss().item();
            };
            worst = std::max(worst, std::abs((at(step) - at(-step)) / (2 * step) - gradient[k]));
            most = std::max(most, std::abs(gradient[k]));
          }
          parameter.assign(D::from(parameter.shape(), original));
        }
        CHECK(worst < 2e-8);
        CHECK(most > 1e-4);
      }
}

}  // namespace t5_gate_scales
