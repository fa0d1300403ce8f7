#include <doctest/doctest.h>

#include <limits>
#include <string>
#include <type_traits>
#include <vector>

#include <mole/compose/linear.hpp>

#include "loss/golden.hpp"

using mole::Index;
using mole::Shape;

namespace {

/// One adapter on the one slot "layer" of a table whose weight is zero.
mole::LoraSet adapter(const std::string& name, const mole::LoraFactors& factors,
                      const std::string& slot = "layer") {
  return {name, "", {slot}, [factors](const std::string&) { return factors; }};
}

template <class T>
mole::SlotTable<T, mole::testing::Device> table_of(const mole::Tensor<T, mole::testing::Device>& W) {
  mole::SlotTable<T, mole::testing::Device> table;
  table.add_group({}, {{"layer", W.size(0), W.size(1)}});
  table.slots[0].weight = W;
  return table;
}

struct Experts {
  std::vector<mole::LoraSet> sets;
  Shape shape;
};

Experts golden_experts() {
  const mole::SafetensorsFile file(MOLE_TEST_DATA "/golden/linear_composition.safetensors");
  const auto scale = file.read<double>("scale");
  Experts experts;
  for (std::size_t i = 0; i < scale.size(); ++i) {
    const auto a = "lora_A." + std::to_string(i), b = "lora_B." + std::to_string(i);
    mole::LoraFactors f{file.at(a).shape[0],  file.at(a).shape[1], file.at(b).shape[0], scale[i],
                        file.read<double>(a), file.read<double>(b)};
    experts.shape = {f.d_out, f.d_in};
    experts.sets.push_back(adapter("e" + std::to_string(i), f));
  }
  return experts;
}

}  // namespace

TEST_CASE_TEMPLATE("merge matches the goldens of eq. 1 and eq. 2", T, float, double) {
  const Golden golden("linear_composition");
  const auto experts = golden_experts();
  const auto weights =
      mole::SafetensorsFile(MOLE_TEST_DATA "/golden/linear_composition.safetensors").read<double>("weights");
  auto table = table_of(mole::Tensor<T, mole::testing::Device>::zeros(experts.shape));
  mole::merge(table, experts.sets, mole::sum_weights(experts.sets.size()));
  CHECK(golden.error(table.slots[0].merged, "sum_delta") < golden_tolerance<T>);
  mole::merge(table, experts.sets, weights);
  CHECK(golden.error(table.slots[0].merged, "normalised_delta") < golden_tolerance<T>);
}

TEST_CASE("merge replaces what was merged before and leaves the frozen weight alone") {
  const auto experts = golden_experts();
  const auto W = mole::Tensor<double, mole::testing::Device>::ones(experts.shape);
  auto table = table_of(W);
  mole::merge(table, experts.sets, mole::sum_weights(3));
  mole::merge(table, {experts.sets[0]}, {1.0});
  const auto expected = mole::delta(experts.sets[0].factors("layer"));
  const auto merged = table.slots[0].merged.to_host();
  for (std::size_t i = 0; i < expected.size(); ++i)
    CHECK(merged[i] == doctest::Approx(1 + expected[i]).epsilon(1e-14));
  for (const double w : W.to_host()) CHECK(w == 1);
}

TEST_CASE("merge_for_good puts the same weights in place of the frozen ones") {
  const auto experts = golden_experts();
  auto table = table_of(mole::Tensor<double, mole::testing::Device>::ones(experts.shape));
  const auto weights = mole::mean_weights(3);
  mole::merge(table, experts.sets, weights);
  const auto merged = table.slots[0].merged.to_host();
  mole::merge_for_good(table, experts.sets, weights);
  CHECK(!table.slots[0].merged.defined());
  CHECK(table.slots[0].weight.to_host() == merged);
  CHECK_THROWS_AS(mole::merge_for_good(table, experts.sets, {1.0}), mole::ArgumentError);
}

TEST_CASE("Mean weights add up to 1") {
  double sum = 0;
  for (const double w : mole::mean_weights(7)) sum += w;
  CHECK(sum == doctest::Approx(1).epsilon(1e-15));
}

TEST_CASE_TEMPLATE("merge refuses what is not finite before it changes anything", T, float, double) {
  using Device = mole::testing::Device;
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const bool is_float = std::is_same_v<T, float>;
  mole::SlotTable<T, Device> table;
  table.add_group({}, {{"first", 1, 2}, {"second", 1, 2}});
  for (auto& slot : table.slots) slot.weight = mole::Tensor<T, Device>::ones({1, 2});
  const auto pair_of = [](double scale, double a, double b) {
    return mole::LoraSet{"pair", "", {"first", "second"}, [=](const std::string& slot) {
                           return slot == "first" ? mole::LoraFactors{1, 2, 1, 1, {1, 1}, {1}}
                                                  : mole::LoraFactors{1, 2, 1, scale, {0, a}, {b}};
                         }};
  };
  mole::merge(table, pair_of(1, 2, 3));
  // What is said of it, where nothing has changed.
  const auto refusal = [&](const mole::LoraSet& set) {
    const auto before = table.slots[0].merged.to_host();
    std::string text;
    for (const bool for_good : {false, true}) try {
        for_good ? mole::merge_for_good(table, {set}, {1.0}) : mole::merge(table, set);
        return std::string();
      } catch (const mole::NumericError& error) {
        text = error.what();
        CHECK(table.slots[0].merged.to_host() == before);
        CHECK(table.slots[0].weight.to_host() == std::vector<T>{1, 1});
      }
    return text;
  };
  const auto names = [](const std::string& text) {
    return text.find("adapter pair") != text.npos && text.find("second") != text.npos;
  };
  CHECK(names(refusal(pair_of(1, nan, 1))));
  CHECK(names(refusal(pair_of(1, 1, -std::numeric_limits<double>::infinity()))));
  CHECK(names(refusal(pair_of(nan, 1, 1))));
  CHECK(names(refusal(pair_of(1e9, 1e200, 1e200))));
  if (is_float) CHECK(names(refusal(pair_of(1e9, 1e20, 1e20))));
  table.slots[1].weight = mole::Tensor<T, Device>::from({1, 2}, {T(nan), 1});
  CHECK(names(refusal(pair_of(1, 1, 1))));
  table.slots[1].weight = mole::Tensor<T, Device>::ones({1, 2});
  // Large, but finite; the bound of the first look is beyond what a float holds.
  mole::merge_for_good(table, {pair_of(1e-20, 1e29, 1e29)}, {1.0});
  CHECK(static_cast<double>(table.slots[1].weight.to_host()[1]) == doctest::Approx(1e38));
}

TEST_CASE("merge names what does not fit") {
  const auto experts = golden_experts();
  auto table = table_of(mole::Tensor<double, mole::testing::Device>::ones(experts.shape));
  const double nan = std::numeric_limits<double>::quiet_NaN();
  CHECK_THROWS_WITH_AS(mole::merge(table, std::vector<mole::LoraSet>{}, {}),
                       doctest::Contains("list of experts is empty"), mole::ArgumentError);
  CHECK_THROWS_WITH_AS(mole::merge(table, experts.sets, {1.0}), doctest::Contains("got 1"),
                       mole::ArgumentError);
  CHECK_THROWS_WITH_AS(mole::merge(table, experts.sets, {1.0, nan, 1.0}), doctest::Contains("nan"),
                       mole::ArgumentError);
  const auto foreign = adapter("foreign", experts.sets[0].factors("layer"), "other.layer");
  CHECK_THROWS_WITH_AS(mole::merge(table, {foreign}, {1.0}), doctest::Contains("other.layer"),
                       mole::FormatError);
  auto wide = table_of(mole::Tensor<double, mole::testing::Device>::ones({2, 3}));
  CHECK_THROWS_WITH_AS(mole::merge(wide, experts.sets, {1, 1, 1}), doctest::Contains("[2, 3]"),
                       mole::FormatError);
}
