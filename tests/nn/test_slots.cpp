// Scopes by name, and the table of a model's linear layers.

#include <doctest/doctest.h>
#include <experts/experts.hpp>
#include <mole/nn/slots.hpp>
#include <testing.hpp>

using namespace mole;
using namespace mole::testing;

TEST_CASE("scopes follow the names of T5 and of decoder-only models") {
  struct Case {
    const char *slot, *layer, *block;
  };
  for (const Case& c :
       {Case{"encoder.block.0.layer.0.SelfAttention.q", "encoder.block.0.layer.0", "encoder.block.0"},
        Case{"decoder.block.11.layer.2.DenseReluDense.wi_0", "decoder.block.11.layer.2", "decoder.block.11"},
        Case{"model.layers.3.self_attn.q_proj", "model.layers.3.self_attn", "model.layers.3"},
        Case{"model.layers.3.mlp.down_proj", "model.layers.3.mlp", "model.layers.3"},
        Case{"model.decoder.layers.10.fc1", "model.decoder.layers.10", "model.decoder.layers.10"},
        Case{"transformer.h.7.attn.c_attn", "transformer.h.7.attn", "transformer.h.7"},
        Case{"lm_head", "lm_head", "lm_head"}}) {
    CAPTURE(c.slot);
    CHECK(scope_of(c.slot, Scope::matrix) == c.slot);
    CHECK(scope_of(c.slot, Scope::layer) == c.layer);
    CHECK(scope_of(c.slot, Scope::block) == c.block);
    CHECK(scope_of(c.slot, Scope::network) == "network");
  }
}

TEST_CASE("the table finds slots by name and names the one it does not have") {
  SlotTable<double, Device> table;
  CHECK(table.add_group(Stream::encoder, {"a.q", "a.k"}) == 0);
  CHECK(table.add_group(Stream::decoder, {"a.o"}) == 1);
  CHECK(table.find("a.o") == 2);
  CHECK(table.contains("a.k"));
  CHECK(lacks<ArgumentError>([&] { table.find("a.v"); }, {"a.v"}) == "");
}

TEST_CASE("an adapter of another base is refused with the layer and both shapes") {
  SlotTable<double, Device> table;
  table.add_group(Stream::encoder, {"a.q"});
  table.slots[0].weight = noise<double>({5, 4});
  LoraSet set{"french", "", {"a.q"}, [](const std::string&) { return random_factors(2, 4, 6, 1, 1); }};
  CHECK(lacks<FormatError>([&] { table.fitting_factors(set, "a.q"); },
                           {"french", "a.q", "[6, 4]", "[5, 4]", "another base"}) == "");
  set.slots = {"b.q"};
  CHECK(lacks<FormatError>([&] { table.check_layers(set); }, {"french", "b.q", "another base"}) == "");
  set.slots = {};
  CHECK(lacks<FormatError>([&] { table.check_layers(set); }, {"french", "nothing"}) == "");
}

TEST_CASE_TEMPLATE("a slot applies its weight, its merged weight or its LoRA in training", T, float, double) {
  SlotTable<T, Device> table;
  table.add_group(Stream::encoder, {"a.q"});
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
