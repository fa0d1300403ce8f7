#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

#include <mole/backends/cpu.hpp>
#include <mole/io/lora_set.hpp>
#include <mole/models/t5/checkpoint.hpp>

#include "io/folder.hpp"
#include "testing.hpp"

using namespace mole;
using namespace io_test;

namespace {

LoraSet golden_set(const std::string& name, const std::string& model = "t5_flan") {
  return lora_set(load_adapter(golden("hf/" + model + "/adapter_" + name), name));
}

template <class T>
T5<T, Cpu> golden_model(const std::string& model = "t5_flan") {
  return load_t5<T, Cpu>(golden("hf/" + model + "/base"));
}

}  // namespace

TEST_CASE("An adapter as a model sees it keeps its file open and its numbers in it") {
  LoraSet set;
  {
    const auto adapter = load_adapter(golden("hf/t5_flan/adapter_b"), "mine");
    set = lora_set(adapter);
    CHECK(set.digest == adapter.digest);
  }
  CHECK(set.name == "mine");
  REQUIRE(set.slots.size() == 24);
  CHECK(std::is_sorted(set.slots.begin(), set.slots.end()));
  const SafetensorsFile file(golden("hf/t5_flan/adapter_b/adapter_model.safetensors"));
  for (const auto& slot : set.slots) {
    const auto factors = set.factors(slot);
    CHECK(factors.rank == 8);
    CHECK(factors.d_in == 48);
    CHECK(factors.d_out == 48);
    CHECK(factors.scale == doctest::Approx(16 / std::sqrt(8.0)).epsilon(1e-15));
    CHECK(factors.A == file.read<double>("base_model.model." + slot + ".lora_A.weight"));
    CHECK(factors.B == file.read<double>("base_model.model." + slot + ".lora_B.weight"));
  }
  CHECK(mentions(error_of<ArgumentError>([&] { set.factors("nowhere"); }), {"mine", "nowhere"}));
}

TEST_CASE("An adapter trained by PEFT gives PEFT's logits") {
  using T = double;
  for (const std::string model_name : {"t5_flan", "t5_v1"}) {
    auto model = golden_model<T>(model_name);
    const SafetensorsFile expected(golden("hf/" + model_name + "/expected.safetensors"));
    const auto ids = [&](const std::string& name) {
      return Tensor<Index, Cpu>::from(expected.at(name).shape, expected.read<Index>(name));
    };
    const T5Batch<T, Cpu> batch{
        ids("input_ids"),
        Tensor<T, Cpu>::from(expected.at("attention_mask").shape, expected.read<T>("attention_mask")),
        ids("labels")};
    for (const std::string name : {"a", "b", "c"}) {
      CAPTURE(model_name);
      CAPTURE(name);
      model.attach({golden_set(name, model_name)}, {});
      const NoGrad off;
      MolePass<T, Cpu> pass;
      // transformers takes the variance of its norm in float32, also in a model of doubles.
      CHECK(testing::worst_error(model.logits(batch, pass), expected.read<double>(name + ".logits")) < 5e-5);
    }
  }
}

TEST_CASE("An adapter of another base is refused with its name and the layer's") {
  auto model = golden_model<float>();
  for (const std::string other : {"llama", "opt"}) {
    const auto text = error_of([&] { model.attach({golden_set("a", other)}, {}); });
    CAPTURE(text);
    CHECK(mentions(text, {"adapter a", "layers.0.self_attn.q_proj", "another base"}));
  }
}

TEST_CASE(
    "An adapter with NaN is neither attached, put in an expert's place nor trained on, and all stays as it was") {
  auto model = golden_model<float>();
  const auto good = golden_set("a");
  auto bad = golden_set("b");
  const auto spoilt = bad.slots.back();
  bad.factors = [whole = bad.factors, spoilt](const std::string& slot) {
    auto factors = whole(slot);
    if (slot == spoilt) factors.B.back() = std::numeric_limits<double>::quiet_NaN();
    return factors;
  };
  const auto refused = [&](auto&& work) {
    return mentions(error_of<NumericError>(work), {"adapter b", spoilt, "nan", "train it again"});
  };
  CHECK(refused([&] { model.attach({good, bad}, {}); }));
  CHECK(!model.layers().mixer);
  CHECK(refused([&] { model.layers().table.set_lora(bad); }));
  CHECK(model.layers().table.lora_parameters().empty());
  auto scaled = golden_set("b");
  scaled.factors = [whole = scaled.factors](const std::string& slot) {
    auto factors = whole(slot);
    factors.scale = 1e39;  // no float
    return factors;
  };
  CHECK(mentions(error_of<NumericError>([&] { model.layers().table.set_lora(scaled); }),
                 {"adapter b", "lora_alpha"}));
  CHECK(model.layers().table.lora_parameters().empty());
  auto other = golden_set("b");
  other.name = "other";
  model.attach({good, other}, {});
  CHECK(refused([&] { model.replace_expert("other", bad); }));
  CHECK(model.mixer().names().back() == "other");
  model.replace_expert("other", golden_set("b"));
}

TEST_CASE(
    "An adapter that is overwritten in place is refused, one that is replaced by a rename is used to the end") {
  const Folder folder;
  const auto copy = [&](const std::string& name, const std::string& to) {
    std::filesystem::create_directories(folder / to);
    for (const char* file : {"adapter_config.json", "adapter_model.safetensors"})
      write_text(folder / to / file, read_text(golden("hf/t5_flan/adapter_" + name) / file));
  };
  copy("b", "adapter");
  const auto weights = folder / "adapter" / "adapter_model.safetensors";
  const auto good = read_text(weights);
  const auto set = lora_set(load_adapter(folder / "adapter"));
  const auto slot = set.slots.front();
  const auto before = set.factors(slot);
  // Every number of one tensor, the others as they were.
  const SafetensorsFile file(weights);
  const auto& view = file.at("base_model.model." + slot + ".lora_A.weight");
  auto bad = good;
  const std::string stored(reinterpret_cast<const char*>(view.data), static_cast<std::size_t>(view.bytes));
  bad.replace(bad.find(stored), stored.size(), std::string(stored.size(), '\1'));
  write_text(weights, bad);
  const auto error = error_of([&] { set.factors(slot); });
  CHECK(mentions(error, {"adapter_model.safetensors", slot, "overwritten", "load it again"}));
  CHECK(set.factors(set.slots.back()).A.size() == before.A.size());
  write_text(weights, good);
  CHECK(set.factors(slot).A == before.A);
  auto model = golden_model<double>();
  write_text(weights, bad);
  CHECK_THROWS_AS(model.attach({set}, {}), FormatError);
  write_text(weights, good);

  write_atomically(weights, std::string_view(bad));
  CHECK(set.factors(slot).A == before.A);
  CHECK(lora_set(load_adapter(folder / "adapter")).digest != set.digest);
}
