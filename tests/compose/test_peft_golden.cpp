#include <doctest/doctest.h>

#include <cmath>
#include <map>
#include <optional>
#include <sstream>
#include <string>
#include <vector>

#include <mole/compose/compose.hpp>
#include <mole/io/safetensors.hpp>

#include "compose/loras.hpp"

// Made by tests/data/make_peft_goldens.py, which says what is in the file.

using namespace compose_test;
using mole::LoraFactors;

namespace {

struct PeftCase {
  std::string name, method;
  std::vector<std::string> adapters;
  mole::ComposeOptions options;
};

std::vector<std::string> parts_of(const std::string& text, char by) {
  std::vector<std::string> parts;
  std::istringstream in(text);
  for (std::string part; std::getline(in, part, by);) parts.push_back(part);
  return parts;
}

class Goldens {
 public:
  Goldens() : file_(MOLE_TEST_DATA "/golden_peft/compose.safetensors") {
    for (const auto& line : parts_of(file_.metadata().at("cases"), '\n')) {
      const auto fields = parts_of(line, ' ');
      PeftCase c{fields.at(0), fields.at(1), parts_of(fields.at(2), ','), {}};
      for (const auto& w : parts_of(fields.at(3), ',')) c.options.weights.push_back(std::stod(w));
      if (fields.at(4) != "-") c.options.density = std::stod(fields[4]);
      if (fields.at(5) == "frequency") c.options.majority_sign = mole::MajoritySign::frequency;
      if (fields.at(6) != "-") c.options.rank = std::stoll(fields[6]);
      cases.push_back(c);
    }
  }

  bool adapts(const std::string& adapter, const std::string& slot) const {
    return file_.contains(adapter + "." + slot + ".A");
  }
  LoraFactors lora(const std::string& adapter, const std::string& slot) const {
    const auto start = adapter + "." + slot;
    const auto a = file_.at(start + ".A").shape, b = file_.at(start + ".B").shape;
    return {a[0], a[1], b[0], numbers(start + ".scale").at(0), numbers(start + ".A"), numbers(start + ".B")};
  }
  Numbers mask(const std::string& name, std::size_t k) const {
    return numbers(name + ".mask." + std::to_string(k));
  }
  std::vector<mole::LoraSet> sets(const PeftCase& c) const {
    std::vector<mole::LoraSet> all;
    for (const auto& adapter : c.adapters) {
      mole::LoraSet set{
          adapter, "", {}, [this, adapter](const std::string& slot) { return lora(adapter, slot); }};
      for (const std::string slot : {"one", "two"})
        if (adapts(adapter, slot)) set.slots.push_back(slot);
      all.push_back(set);
    }
    return all;
  }

  std::vector<PeftCase> cases;

 private:
  Numbers numbers(const std::string& name) const { return file_.read<double>(name); }

  mole::SafetensorsFile file_;
};

constexpr double tolerance = 1e-6;

}  // namespace

TEST_CASE("cat, svd, pruning and TIES are PEFT's") {
  const Goldens goldens;
  int compared = 0;
  for (const auto& c : goldens.cases) {
    if (c.method == "linear" || c.method.starts_with("dare")) continue;
    const auto merged = mole::compose(c.method, goldens.sets(c), c.options);
    for (const auto& slot : merged.slots) {
      CAPTURE(c.name);
      CAPTURE(slot);
      const auto ours = merged.factors(slot), theirs = goldens.lora(c.name, slot);
      // PEFT pads the factors of cat with zeros where an adapter is absent from the slot.
      if (c.method != "cat") CHECK(ours.rank == theirs.rank);
      CHECK(error(change(ours), change(theirs)) < tolerance);
      ++compared;
      if (c.method.ends_with("svd") || c.method == "cat") continue;
      CHECK(error(ours.A, theirs.A) < tolerance);
      CHECK(error(ours.B, theirs.B) < tolerance);
    }
  }
  CHECK(compared >= 18);
}

TEST_CASE("PEFT's linear is not the sum of the changes but a mix of factors with cross terms") {
  const Goldens goldens;
  const auto& c = goldens.cases.at(0);
  REQUIRE(c.method == "linear");
  mole::SlotExperts experts{"one", {0, 1, 2}, c.adapters, {}};
  Numbers on_a, on_b, sum;
  for (std::size_t i = 0; i < 3; ++i) {
    experts.lora.push_back(goldens.lora(c.adapters[i], "one"));
    on_b.push_back(std::sqrt(std::abs(c.options.weights[i])));
    on_a.push_back(std::copysign(on_b.back(), c.options.weights[i]));
    const auto d = change(experts.lora.back());
    sum.resize(d.size());
    for (std::size_t j = 0; j < d.size(); ++j) sum[j] += c.options.weights[i] * d[j];
  }
  const auto theirs = change(goldens.lora(c.name, "one"));
  CHECK(error(change(mole::mix_factors(experts, on_a, on_b)), theirs) < tolerance);
  CHECK(error(sum, theirs) > 0.1);
  const auto ours = mole::compose("linear", goldens.sets(c), c.options).factors("one");
  CHECK(error(change(ours), sum) < 1e-12);
}

TEST_CASE("DARE with PEFT's masks is PEFT's") {
  const Goldens goldens;
  for (const auto& c : goldens.cases) {
    if (!c.method.starts_with("dare")) continue;
    CAPTURE(c.name);
    const bool svd = c.method.ends_with("_svd"), ties = c.method.find("ties") != std::string::npos;
    std::size_t masks = 0;
    for (const std::string slot : {"one", "two"}) {
      CAPTURE(slot);
      std::vector<LoraFactors> loras;
      Numbers weights, on_a, on_b;
      for (std::size_t i = 0; i < c.adapters.size(); ++i) {
        if (!goldens.adapts(c.adapters[i], slot)) continue;
        loras.push_back(goldens.lora(c.adapters[i], slot));
        weights.push_back(c.options.weights[i]);
        on_b.push_back(std::sqrt(std::abs(weights.back() * loras.back().scale)));
        on_a.push_back(std::copysign(on_b.back(), weights.back()));
      }
      const auto merged = [&](auto part, const Numbers& w) {
        std::vector<Numbers> dropped;
        for (const auto& f : loras) {
          dropped.push_back(part(f));
          const auto mask = goldens.mask(c.name, masks++);
          REQUIRE(mask.size() == dropped.back().size());
          for (std::size_t j = 0; j < mask.size(); ++j) dropped.back()[j] *= mask[j] / *c.options.density;
        }
        const auto tensor = [&](std::size_t i) { return dropped[i]; };
        return ties ? mole::disjoint_mean(loras.size(), tensor, w, c.options.majority_sign)
                    : mole::weighted_sum(loras.size(), tensor, w);
      };
      const auto theirs = goldens.lora(c.name, slot);
      if (svd) {
        const auto full = merged([](const LoraFactors& f) { return change(f); }, weights);
        CHECK(error(change(mole::truncated_svd(full, d_out, d_in, *c.options.rank)), change(theirs)) <
              tolerance);
        continue;
      }
      CHECK(error(merged([](const LoraFactors& f) { return f.A; }, on_a), theirs.A) < tolerance);
      CHECK(error(merged([](const LoraFactors& f) { return f.B; }, on_b), theirs.B) < tolerance);
    }
  }
}
