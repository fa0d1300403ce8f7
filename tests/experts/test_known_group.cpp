// A group of slots whose gate was read before, as in a decoder's steps, on a backend with kernels for layers of a few rows:
// beside the processor, which has none.

#include <doctest/doctest.h>

#include <cstddef>
#include <string>
#include <vector>

#include <mole/experts/adapted_layers.hpp>
#include <mole/experts/routers/registry.hpp>

#include "experts/ops/with_kernels.hpp"

namespace with_kernels {

namespace {

constexpr Index width = 6, key_width = 4;

/// q, k and v of one block, and o behind them. Two experts, of which the second leaves k alone.
template <class B>
AdaptedLayers<double, B> block(const GateOptions& options) {
  AdaptedLayers<double, B> layers;
  const GroupPlace place{"block.self_attn", "block"};
  const std::vector<SlotShape> projections{
      {"q", width, width}, {"k", key_width, width}, {"v", key_width, width}},
      output{{"o", width, width}};
  layers.table.add_linear_group(place, projections);
  layers.table.add_linear_group(place, output);
  for (std::size_t i = 0; i < layers.table.slots.size(); ++i) {
    auto& slot = layers.table.slots[i];
    slot.weight = noise<double, B>(slot.shape, 10 + i);
    if (i == 0) slot.bias = noise<double, B>({slot.shape[0]}, 20);
  }
  const auto expert = [&](const std::string& name, std::vector<std::string> slots, std::uint64_t seed) {
    return LoraSet{name, name, std::move(slots), [seed, &table = layers.table](const std::string& slot) {
                     const auto& shape = table.slots[table.find(slot)].shape;
                     return LoraFactors{2,
                                        shape[1],
                                        shape[0],
                                        1,
                                        doubles(noise<double, Cpu>({2, shape[1]}, seed)),
                                        doubles(noise<double, Cpu>({shape[0], 2}, seed + 1))};
                   }};
  };
  layers.mixer.emplace(layers.table,
                       std::vector{expert("a", {"q", "k", "v", "o"}, 1), expert("b", {"q", "v", "o"}, 2)},
                       options);
  for (auto& gate : layers.mixer->gates())
    gate.gate.weight.assign(noise<double, B>(gate.gate.weight.shape(), 7));
  return layers;
}

/// The outputs of both groups for a prompt, and for a token after it by the same gates.
template <class B>
std::vector<std::vector<double>> decoded(const AdaptedLayers<double, B>& layers, MolePass<double, B> pass) {
  const NoGrad off;
  std::vector<std::vector<double>> found;
  for (const Index tokens : {3, 1}) {
    auto outputs =
        layers(0, noise<double, B>({2, tokens, width}, 30 + static_cast<std::uint64_t>(tokens)), pass);
    outputs.push_back(layers(1, outputs[0], pass)[0]);
    for (const auto& y : outputs) found.push_back(doubles(y));
    if (layers.mixer) layers.mixer->next_step(0, pass);
  }
  return found;
}

}  // namespace

TEST_CASE("A token after the prompt takes one launch of products a group, and has the processor's numbers") {
  for (const Scope scope : {Scope::block, Scope::matrix})
    for (const bool given : {false, true}) {
      CAPTURE(message(to_string(scope), given));
      const GateOptions options{.scope = scope, .pooling = Pooling::mean};
      const auto layers = block<WithKernels>(options);
      MolePass<double, WithKernels> pass;
      MolePass<double, Cpu> expected_pass;
      if (given) {
        pass.weights = noise<double, WithKernels>({2, 2}, 5);
        expected_pass.weights = noise<double, Cpu>({2, 2}, 5);
      }
      WithKernels::takes_products = true;
      WithKernels::row_product_calls = 0;
      const auto found = decoded(layers, pass);
      CHECK(WithKernels::row_product_calls == 4);
      WithKernels::takes_products = false;
      check_equal(found, decoded(block<Cpu>(options), expected_pass));
    }
}

TEST_CASE("Top-k, token gates and LoRAs in training go slot by slot, a pass without experts in one launch") {
  const auto launches = [](const AdaptedLayers<double, WithKernels>& layers, bool bare) {
    MolePass<double, WithKernels> pass;
    pass.bare = bare;
    WithKernels::takes_products = true;
    WithKernels::row_product_calls = 0;
    decoded(layers, pass);
    WithKernels::takes_products = false;
    return WithKernels::row_product_calls;
  };
  CHECK(launches(block<WithKernels>({.scope = Scope::block, .pooling = Pooling::mean}), true) == 4);
  CHECK(launches(block<WithKernels>({.scope = Scope::block, .pooling = Pooling::token}), false) == 2);
  auto layers = block<WithKernels>({.scope = Scope::block, .pooling = Pooling::mean});
  layers.mixer.reset();
  CHECK(launches(layers, false) == 4);
  Generator generator{1};
  layers.table.add_lora(2, 2, generator, {"k"});
  CHECK(launches(layers, false) == 2);
}

}  // namespace with_kernels
