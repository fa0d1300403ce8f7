// Experts in a UNet: scopes, poolings, masks, top-k, and slots outside every scope.

#include <cmath>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <mole/autodiff/backward.hpp>
#include <mole/backends/cpu.hpp>
#include <mole/compose/linear.hpp>
#include <mole/io/gates.hpp>
#include <mole/models/diffusion/lora_composite.hpp>

#include "kohya_experts.hpp"

namespace mole::image_experts {

namespace {

using Tn = Tensor<double, Cpu>;

using namespace kohya_experts;

Tn run(const UNet<double, Cpu>& unet, MolePass<double, Cpu>& pass) {
  return unet(Tn::randn({2, 4, 5, 4}, {1, 1}), Tensor<Index, Cpu>::from({2}, {700, 20}),
              Tn::randn({2, 3, 24}, {1, 2}), pass);
}

double difference(const Tn& a, const Tn& b) {
  const auto x = a.to_host(), y = b.to_host();
  double worst = 0;
  for (std::size_t i = 0; i < x.size(); ++i) worst = std::max(worst, std::abs(x[i] - y[i]));
  return worst;
}

Tn merged(UNet<double, Cpu>& unet, const std::vector<LoraSet>& sets, const std::vector<double>& weights) {
  unet.detach();
  merge(unet.layers().table, sets, weights);
  MolePass<double, Cpu> pass;
  const auto y = run(unet, pass);
  unet.detach();
  return y;
}

}  // namespace

TEST_CASE("Fresh gates are the mean of the adapters at every scope, outside of it too") {
  auto unet = load_base();
  const auto sets = experts(unet);
  const auto expected = merged(unet, sets, {0.5, 0.5});
  struct Count {
    Scope scope;
    Pooling pooling;
    std::size_t gates;
  };
  // Four transformer blocks of three layers; with token gates k and v of the text have their own.
  for (const auto& [scope, pooling, gates] :
       {Count{Scope::block, Pooling::mean, 4}, Count{Scope::layer, Pooling::mean, 12},
        Count{Scope::network, Pooling::mean, 1}, Count{Scope::block, Pooling::token, 8},
        Count{Scope::layer, Pooling::token, 16}, Count{Scope::matrix, Pooling::mean, sets[0].slots.size()},
        Count{Scope::matrix, Pooling::token, sets[0].slots.size()}}) {
    const std::string name = std::string(to_string(scope)) + " " + to_string(pooling);
    CAPTURE(name);
    unet.attach(sets, GateOptions{.scope = scope, .pooling = pooling});
    MolePass<double, Cpu> pass;
    CHECK(difference(run(unet, pass), expected) <= 1e-12);
    CHECK(unet.mixer().gates().size() == gates);
    CHECK(unet.mixer().records(pass).size() == gates);
  }
  unet.attach(sets, GateOptions{.input = GateInput::hidden});
  MolePass<double, Cpu> pass;
  CHECK(difference(run(unet, pass), expected) <= 1e-12);
}

TEST_CASE("Token gates have a row for each pixel of a level and for each token of the text") {
  auto unet = load_base();
  unet.attach(experts(unet), GateOptions{.pooling = Pooling::token});
  MolePass<double, Cpu> pass;
  run(unet, pass);
  const std::string block = "down_blocks.0.attentions.0.transformer_blocks.0";
  for (const auto& record : unet.mixer().records(pass)) {
    if (record.name == block) CHECK(record.value.weights.shape() == Shape{2, 20, 2});
    if (record.name == "mid_block.attentions.0.transformer_blocks.0")
      CHECK(record.value.weights.shape() == Shape{2, 6, 2});
    if (record.name == block + "@memory") {
      CHECK(record.value.weights.shape() == Shape{2, 3, 2});
      CHECK(record.stream == "memory");
    }
  }
}

TEST_CASE("A mask leaves one adapter, in gates and outside of them; top-k leaves the best") {
  auto unet = load_base();
  const auto sets = experts(unet);
  const auto second = merged(unet, sets, {0, 1});
  for (const Scope scope : {Scope::block, Scope::matrix}) {
    unet.attach(sets, GateOptions{.scope = scope});
    unet.mixer().set_mask({false, true});
    MolePass<double, Cpu> pass;
    CHECK(difference(run(unet, pass), second) <= 1e-12);
    unet.mixer().set_mask({true, true});
    MolePass<double, Cpu> again;
    CHECK(difference(run(unet, again), second) > 1e-4);
  }
  unet.attach(sets, GateOptions{.top_k = 1, .outside = OutsideWeight::off});
  for (auto& placed : unet.mixer().gates())
    placed.gate.weight.assign(Tn::randn(placed.gate.weight.shape(), {3, 4}, 20));
  MolePass<double, Cpu> pass;
  run(unet, pass);
  for (const auto& record : unet.mixer().records(pass))
    for (const double g : record.value.weights.to_host()) CHECK((g == 0 || std::abs(g - 1) < 1e-12));
}

TEST_CASE("Experts outside every scope count in full, at their mean or not at all") {
  auto unet = load_base();
  const auto sets = experts(unet);
  auto inner = sets, outer = sets;
  for (auto* some : {&inner, &outer})
    for (auto& set : *some)
      std::erase_if(set.slots, [&](const std::string& slot) {
        return (slot.find("transformer_blocks") == slot.npos) == (some == &inner);
      });
  const auto with = [&](OutsideWeight outside) {
    unet.detach();
    unet.attach(sets, GateOptions{.outside = outside});
    MolePass<double, Cpu> pass;
    return run(unet, pass);
  };
  const auto plain = [&](double weight) {
    unet.detach();
    auto& table = unet.layers().table;
    merge(table, inner, {0.5, 0.5});
    std::vector<Tn> kept;
    for (const auto& slot : table.slots) kept.push_back(slot.merged);
    if (weight > 0) {
      merge(table, outer, {weight, weight});
      for (std::size_t i = 0; i < kept.size(); ++i)
        if (kept[i].defined()) table.slots[i].merged = kept[i];
    }
    MolePass<double, Cpu> pass;
    return run(unet, pass);
  };
  CHECK(difference(with(OutsideWeight::off), plain(0)) <= 1e-12);
  CHECK(difference(with(OutsideWeight::mean), plain(0.5)) <= 1e-12);
  CHECK(difference(with(OutsideWeight::full), plain(1)) <= 1e-12);
  CHECK(difference(plain(1), plain(0)) > 1e-4);
}

TEST_CASE("The gate of a convolution has the gradient that finite differences give") {
  auto unet = load_base();
  const auto sets = experts(unet);
  for (const Pooling pooling : {Pooling::mean, Pooling::token}) {
    unet.attach(sets, GateOptions{.scope = Scope::matrix, .pooling = pooling});
    for (auto& placed : unet.mixer().gates())
      placed.gate.weight.assign(Tn::randn(placed.gate.weight.shape(), {3, 4}));
    const auto loss = [&] {
      MolePass<double, Cpu> pass;
      return sum(square(run(unet, pass)));
    };
    backward(loss());
    for (const std::string name :
         {"down_blocks.0.resnets.0.conv1", "up_blocks.0.upsamplers.0.conv",
          "down_blocks.0.downsamplers.0.conv", "up_blocks.0.resnets.0.conv_shortcut"}) {
      CAPTURE(name);
      for (auto& placed : unet.mixer().gates()) {
        if (placed.name != name) continue;
        auto& F = placed.gate.weight;
        const auto at = F.to_host();
        const double expected = F.grad().to_host()[1];
        double found = 0;
        for (const double sign : {1.0, -1.0}) {
          auto moved = at;
          moved[1] += sign * 1e-4;
          F.assign(Tn::from(F.shape(), moved));
          const NoGrad off;
          found += sign * loss().item() / 2e-4;
        }
        F.assign(Tn::from(F.shape(), at));
        CHECK(std::abs(expected) > 1e-9);
        CHECK(found == doctest::Approx(expected).epsilon(1e-5));
      }
    }
  }
}

TEST_CASE("Saved gates bring a UNet back, with what counts outside of them") {
  const io_test::Folder folder;
  auto unet = load_base();
  const auto sets = experts(unet);
  unet.attach(sets, GateOptions{.scope = Scope::layer, .outside = OutsideWeight::full});
  for (auto& placed : unet.mixer().gates())
    placed.gate.weight.assign(Tn::randn(placed.gate.weight.shape(), {3, 4}));
  MolePass<double, Cpu> before, after;
  const auto expected = run(unet, before);
  save_gates(folder / "gates.safetensors", unet.mixer());
  auto again = load_base();
  attach_gates(again, sets, read_gates(folder / "gates.safetensors"));
  CHECK(again.mixer().policies().outside == OutsideWeight::full);
  CHECK(difference(run(again, after), expected) <= 1e-6);
}

TEST_CASE("What has no meaning in a UNet is refused") {
  auto unet = load_base();
  const auto sets = experts(unet);
  CHECK_THROWS_AS(unet.attach(sets, GateOptions{.scope = Scope::network, .pooling = Pooling::token}),
                  ArgumentError);
  CHECK_THROWS_AS(unet.attach(sets, XLoraOptions{}), ArgumentError);
  auto outer = sets;
  for (auto& set : outer)
    std::erase_if(set.slots,
                  [](const std::string& slot) { return slot.find("transformer_blocks") != slot.npos; });
  CHECK_THROWS_AS(unet.attach(outer, GateOptions{}), ArgumentError);
  CHECK_NOTHROW(unet.attach(outer, GateOptions{.scope = Scope::matrix}));
}

TEST_CASE("LoRA Switch and Composite of one adapter are that adapter; of two they differ from their mean") {
  auto unet = load_base();
  const auto sets = experts(unet);
  const NoiseSchedule schedule;
  const auto noise = Tn::randn({1, 4, 4, 4}, {1, 1}), text = Tn::randn({1, 3, 24}, {1, 2}),
             negative = Tn::randn({1, 3, 24}, {1, 3});
  const SampleOptions options{.steps = 3, .guidance = 2};
  unet.attach({sets[0]}, GateOptions{});
  const auto alone = sample(unet, schedule, noise, text, negative, options);
  CHECK(difference(sample_switch(unet, schedule, noise, text, negative, options, 1), alone) <= 1e-12);
  CHECK(difference(sample_composite(unet, schedule, noise, text, negative, options), alone) <= 1e-12);
  unet.attach(sets, GateOptions{});
  const auto mean = sample(unet, schedule, noise, text, negative, options);
  // Three steps of five each: the first alone.
  CHECK(difference(sample_switch(unet, schedule, noise, text, negative, options, 5), alone) <= 1e-12);
  CHECK(difference(sample_switch(unet, schedule, noise, text, negative, options, 1), alone) > 1e-6);
  CHECK(difference(sample_composite(unet, schedule, noise, text, negative, options), mean) > 1e-9);
  CHECK_THROWS_AS(sample_switch(unet, schedule, noise, text, negative, options, 0), ArgumentError);
  // All experts count again.
  CHECK(difference(sample(unet, schedule, noise, text, negative, options), mean) == 0);
}

}  // namespace mole::image_experts
