#include <doctest/doctest.h>

#include <map>
#include <string>
#include <vector>

#include <mole/compose/compose.hpp>
#include <mole/io/lora_set.hpp>
#include <mole/io/save_lora_set.hpp>

#include "compose/loras.hpp"
#include "io/folder.hpp"

using namespace compose_test;

namespace {

/// One set with other factors in each slot.
mole::LoraSet varied(const std::map<std::string, mole::LoraFactors>& factors) {
  mole::LoraSet set{"varied", "", {}, [factors](const std::string& slot) { return factors.at(slot); }};
  for (const auto& [slot, lora] : factors) set.slots.push_back(slot);
  return set;
}

void check_same(const mole::LoraSet& saved, const mole::LoraSet& loaded, double tolerance) {
  CHECK(loaded.slots.size() == saved.slots.size());
  for (const auto& slot : saved.slots) {
    CAPTURE(slot);
    const auto a = saved.factors(slot), b = loaded.factors(slot);
    CHECK(a.rank == b.rank);
    CHECK(b.scale == doctest::Approx(a.scale).epsilon(1e-15));
    CHECK(error(b.A, a.A) < tolerance);
    CHECK(error(b.B, a.B) < tolerance);
  }
}

}  // namespace

TEST_CASE("An adapter whose ranks and scales differ by slot comes back as it was saved") {
  // "q" is the end of two other names, and the dots of a name are no wildcards.
  const auto set = varied({{"q", lora(0, 2, 3)},
                           {"block.0.q", lora(1, 4, 2)},
                           {"block.1.q", lora(2, 4, 2)},
                           {"blockx1.q", lora(3, 4, 1)},
                           {"block.1.k", lora(4, 4, 2)},
                           {"block.1.wi_0", lora(5, 8, 1 / 3.)}});
  const io_test::Folder folder;
  mole::save_lora_set<double>(folder.path / "adapter", set, {}, mole::Dtype::F64);
  const auto adapter = mole::load_adapter(folder.path / "adapter");
  CHECK(adapter.warnings.empty());
  CHECK(adapter.config.rank == 4);
  CHECK(adapter.config.alpha == 8);
  check_same(set, mole::lora_set(adapter), 1e-15);
}

TEST_CASE("A uniform adapter needs no patterns and keeps what the config says of its base") {
  const auto set =
      mole::compose("svd", {set_of("a", {"one", "two"}, lora(0)), set_of("b", {"one"}, lora(1))});
  const io_test::Folder folder;
  mole::LoraConfig like;
  like.base_model_name_or_path = "the/base";
  like.task_type = "CAUSAL_LM";
  like.rank_pattern = {{"one", 99}};
  like.target_modules = {"nowhere"};
  mole::save_lora_set(folder.path, set, like);
  const auto adapter = mole::load_adapter(folder.path);
  CHECK(adapter.warnings.empty());
  CHECK(adapter.config.rank_pattern.empty());
  CHECK(adapter.config.alpha_pattern.empty());
  CHECK(adapter.config.rank == 4);
  CHECK(adapter.config.base_model_name_or_path == "the/base");
  CHECK(adapter.config.task_type == "CAUSAL_LM");
  check_same(set, mole::lora_set(adapter), 1e-6);
}

TEST_CASE("Every method's merged adapter of real experts comes back with its changes") {
  const auto base = io_test::golden("hf/t5_flan");
  std::vector<mole::LoraSet> all;
  for (const std::string name : {"a", "b", "c"})
    all.push_back(mole::lora_set(mole::load_adapter(base / ("adapter_" + name))));
  const std::vector<mole::LoraSet> of_one_rank{all[0], all[0]};
  for (const auto& method : mole::composition_methods()) {
    CAPTURE(method);
    const bool any = method.ends_with("svd") || method == "sum" || method == "cat" || method == "linear" ||
                     method == "normalised";
    auto sets = any ? all : of_one_rank;
    if (method == "pems_negate") sets.resize(1);
    if (method == "pems_analogy") sets.push_back(all[0]);
    mole::ComposeOptions options;
    options.density = 0.4;
    options.weights = mole::mean_weights(sets.size());
    const auto merged = mole::compose(method, sets, options);
    const io_test::Folder folder;
    mole::save_lora_set(folder.path, merged);
    const auto adapter = mole::load_adapter(folder.path);
    CHECK(adapter.warnings.empty());
    const auto loaded = mole::lora_set(adapter);
    CHECK(loaded.slots.size() == merged.slots.size());
    double worst = 0;
    for (const auto& slot : merged.slots)
      worst = std::max(worst, error(change(loaded.factors(slot)), change(merged.factors(slot))));
    CHECK(worst < 1e-6);
  }
}

TEST_CASE("An adapter without slots is not saved") {
  const io_test::Folder folder;
  CHECK(io_test::mentions(io_test::error_of<mole::ArgumentError>([&] {
                            mole::save_lora_set(folder.path, {"idle", "", {}, {}});
                          }),
                          {"idle", "adapts nothing"}));
  CHECK(folder.count() == 0);
}
