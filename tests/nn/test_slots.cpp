// Scopes, and the table of a model's linear layers.

#include <doctest/doctest.h>
#include <experts/experts.hpp>
#include <mole/nn/slots.hpp>
#include <testing.hpp>

using namespace mole;
using namespace mole::testing;

TEST_CASE("A slot belongs to the scopes that the model names, and to no other") {
  SlotTable<double, Device> table;
  table.add_group({.layer = "blocks.3.attention", .block = "blocks.3"}, {{"blocks.3.attention.q", 4, 4}});
  table.add_group({}, {{"head", 4, 4}});
  CHECK(table.scope_of(0, Scope::matrix) == "blocks.3.attention.q");
  CHECK(table.scope_of(0, Scope::layer) == "blocks.3.attention");
  CHECK(table.scope_of(0, Scope::block) == "blocks.3");
  CHECK(table.scope_of(1, Scope::matrix) == "head");
  CHECK(table.scope_of(1, Scope::network) == "network");
  CHECK(lacks<ArgumentError>([&] { table.scope_of(1, Scope::block); }, {"head", "block", "matrix"}) == "");
}

TEST_CASE("A slot that stands already and a stream that does not are refused") {
  SlotTable<double, Device> table;
  table.add_group({}, {{"a.q", 4, 4}});
  CHECK(lacks<ArgumentError>([&] { table.add_group({}, {{"a.q", 4, 4}}); }, {"a.q"}) == "");
  CHECK(lacks<ArgumentError>(
            [&] {
              table.add_group({.stream = 1}, {{"a.k", 4, 4}});
            },
            {"stream", "1"}) == "");
}

TEST_CASE("The table finds slots by name and names the one it does not have") {
  SlotTable<double, Device> table;
  CHECK(table.add_group({}, {{"a.q", 4, 4}, {"a.k", 4, 4}}) == 0);
  CHECK(table.add_group({}, {{"a.o", 4, 4}}) == 1);
  CHECK(table.find("a.o") == 2);
  CHECK(table.contains("a.k"));
  CHECK(lacks<ArgumentError>([&] { table.find("a.v"); }, {"a.v"}) == "");
}

TEST_CASE("An adapter of another base is refused with the layer and both shapes") {
  SlotTable<double, Device> table;
  table.add_group({}, {{"a.q", 5, 4}});
  table.slots[0].weight = noise<double>({5, 4});
  LoraSet set{"french", "", {"a.q"}, [](const std::string&) { return random_factors(2, 4, 6, 1, 1); }};
  CHECK(lacks<FormatError>([&] { table.fitting_factors(set, "a.q"); },
                           {"french", "a.q", "[6, 4]", "[5, 4]", "another base"}) == "");
  set.slots = {"b.q"};
  CHECK(lacks<FormatError>([&] { table.check_layers(set); }, {"french", "b.q", "another base"}) == "");
  set.slots = {"lm_head"};
  CHECK(lacks<FormatError>([&] { table.check_layers(set); }, {"french", "lm_head", "the head"}) == "");
  set.slots = {};
  CHECK(lacks<FormatError>([&] { table.check_layers(set); }, {"french", "nothing"}) == "");
}

TEST_CASE("A LoRA starts at the layers that are named, with the numbers it has among all") {
  const auto made = [](const std::vector<std::string>& targets) {
    SlotTable<double, Device> table;
    table.add_group({}, {{"a.q", 4, 4}, {"a.qq", 4, 4}});
    table.add_group({}, {{"b.q", 4, 4}});
    Generator generator{3};
    table.add_lora(2, 4, generator, targets);
    return table;
  };
  const auto all = made({}), some = made({"q"}), one = made({"b.q"});
  CHECK(all.lora_parameters().size() == 6);
  CHECK(some.lora_parameters().size() == 4);
  CHECK(!some.slots[1].lora.defined());
  CHECK(some.slots[2].lora.down.to_host() == all.slots[2].lora.down.to_host());
  CHECK(!one.slots[0].lora.defined());
  CHECK(one.slots[2].lora.down.to_host() == all.slots[2].lora.down.to_host());
  CHECK(lacks<ArgumentError>([&] { made({"q", "wo"}); }, {"wo"}) == "");
}

TEST_CASE("A LoRA of a higher rank than a layer has is refused with that layer, and nothing changes") {
  SlotTable<double, Device> table;
  table.add_group({}, {{"a.q", 6, 9}, {"a.k", 3, 9}, {"a.o", 9, 4}});
  Generator generator{3};
  CHECK(lacks<ArgumentError>([&] { table.add_lora(100000, 4, generator); },
                             {"rank 100000", "a.k", "[3, 9]", "at most 3", "targets"}) == "");
  CHECK(lacks<ArgumentError>(
            [&] {
              table.add_lora(5, 4, generator, {"q", "o"});
            },
            {"a.o", "at most 4"}) == "");
  CHECK(lacks<ArgumentError>([&] { table.add_lora(0, 4, generator); }, {"at least 1"}) == "");
  CHECK(table.lora_parameters().empty());
  table.add_lora(6, 4, generator, {"q"});
  CHECK(table.lora_parameters().size() == 2);
  table.add_lora(3, 4, generator);
  CHECK(table.lora_parameters().size() == 6);
}

TEST_CASE_TEMPLATE("A slot applies its weight, its merged weight or its LoRA in training", T, float, double) {
  SlotTable<T, Device> table;
  table.add_group({}, {{"a.q", 3, 4}});
  auto& slot = table.slots[0];
  slot.weight = noise<T>({3, 4}, 1);
  slot.bias = noise<T>({3}, 2);
  const auto x = noise<T>({2, 4}, 3);
  CHECK(worst_error(table.apply(0, x), doubles(linear(x, slot.weight, slot.bias))) < tight<T>);
  Generator generator{1};
  table.add_lora(2, 4, generator);
  slot.lora.up.assign(noise<T>({3, 2}, 4));
  CHECK(slot.lora.scale == 2);
  CHECK(table.lora_parameters().size() == 2);
  CHECK(worst_error(table.apply(0, x),
                    doubles(add(linear(x, slot.weight, slot.bias), lora_output(x, slot.lora)))) < tight<T>);
  slot.merged = noise<T>({3, 4}, 5);
  slot.lora = {};
  CHECK(worst_error(table.apply(0, x), doubles(linear(x, slot.merged, slot.bias))) < tight<T>);
  table.reset();
  CHECK(worst_error(table.apply(0, x), doubles(linear(x, slot.weight, slot.bias))) < tight<T>);
}

TEST_CASE_TEMPLATE("A convolution is a slot: plain, merged, and with a LoRA in training", T, float, double) {
  SlotTable<T, Device> table;
  const ConvOptions options{2, Padding::all(1)};
  table.add_group({}, {{"conv", 3, 2 * 9, 0.1, SlotKernel{3, 3, options}, true}});
  table.add_group({}, {{"point", 3, 2, 0.1, SlotKernel{1, 1, {}}}});
  auto& slot = table.slots[0];
  CHECK(slot.stored_shape() == Shape{3, 2, 3, 3});
  CHECK(slot.channels() == 2);
  CHECK(slot.is_spatial());
  CHECK(slot.has_bias);
  CHECK(table.slots[1].stored_shape() == Shape{3, 2, 1, 1});
  CHECK_FALSE(table.slots[1].is_spatial());
  CHECK(kernels_of(table).at("conv") == Shape{3, 3});
  slot.weight = noise<T>({3, 2, 3, 3}, 1);
  slot.bias = noise<T>({3}, 2);
  const auto x = noise<T>({2, 5, 4, 2}, 3);
  const auto plain = conv2d(x, slot.weight, slot.bias, options);
  CHECK(worst_error(table.apply(0, x), doubles(plain)) < tight<T>);
  // A LoRA is the convolution by B A, with A's kernels first.
  const auto factors = random_factors(2, 18, 3, 0.5, 1);
  const LoraSet set{"one", "", {"conv"}, [&](const std::string&) { return factors; }};
  table.set_lora(set);
  const auto changed = table.apply(0, x);
  const auto change = delta(factors);
  const auto moved =
      add(slot.weight, Tensor<T, Device>::from({3, 2, 3, 3}, std::vector<T>(change.begin(), change.end())));
  CHECK(worst_error(changed, doubles(conv2d(x, moved, slot.bias, options))) < 50 * tight<T>);
  CHECK(table.lora_parameters().size() == 2);
  slot.lora = {};
  slot.merged = reshape(moved, {3, 18});
  CHECK(worst_error(table.apply(0, x), doubles(conv2d(x, moved, slot.bias, options))) < tight<T>);
  // Pixels of a 1x1 convolution may be tokens.
  table.slots[1].weight = noise<T>({3, 2, 1, 1}, 4);
  const auto tokens = table.apply(1, reshape(x, {2, 20, 2}));
  CHECK(worst_error(tokens, doubles(conv2d(x, table.slots[1].weight))) < tight<T>);
  CHECK(table.slots[1].product().shape() == Shape{3, 2});
  CHECK_THROWS_AS(table.add_group({}, {{"odd", 3, 7, 0.1, SlotKernel{2, 2, {}}}}), ArgumentError);
}
