#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
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
  explicit Goldens(const std::string& problem)
      : file_(MOLE_TEST_DATA "/golden_peft/" + problem + ".safetensors") {
    slots = parts_of(file_.metadata().at("slots"), ',');
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
  std::vector<mole::LoraSet> sets(const PeftCase& c) const {
    std::vector<mole::LoraSet> all;
    for (const auto& adapter : c.adapters) {
      mole::LoraSet set{
          adapter, "", {}, [this, adapter](const std::string& slot) { return lora(adapter, slot); }};
      for (const auto& slot : slots)
        if (adapts(adapter, slot)) set.slots.push_back(slot);
      all.push_back(set);
    }
    return all;
  }
  /// The masks that torch drew for a case of DARE, eight elements a byte.
  mole::DareMask masks(const PeftCase& c) const {
    return [this, &c, read = std::map<std::string, Numbers>()](const std::string& slot, std::size_t place,
                                                               char part, Index element) mutable {
      const auto name = c.name + "." + slot + "." + c.adapters.at(place) + ".mask." + part;
      const auto [found, is_new] = read.try_emplace(name);
      if (is_new) found->second = numbers(name);
      const auto byte = static_cast<unsigned>(found->second.at(static_cast<std::size_t>(element / 8)));
      return (byte >> (7 - element % 8) & 1) != 0;
    };
  }

  std::vector<std::string> slots;
  std::vector<PeftCase> cases;

 private:
  Numbers numbers(const std::string& name) const { return file_.read<double>(name); }

  mole::SafetensorsFile file_;
};

/// Four adapters of ranks 4 and 6 in two slots of 10 x 12; six of rank 8 in three slots of 64 x 48.
const std::vector<std::string> problems{"compose", "compose_large"};

/// How far the factors or, where they are not unique, the change of a merged slot are from PEFT's.
double worst_of_slot(const PeftCase& c, const LoraFactors& ours, const LoraFactors& theirs) {
  const double changes = error(change(ours), change(theirs));
  if (c.method.ends_with("svd") || c.method == "cat") return changes;
  return std::max({changes, error(ours.A, theirs.A), error(ours.B, theirs.B)});
}

constexpr double tolerance = 1e-10;

}  // namespace

TEST_CASE("cat, svd, pruning and TIES are PEFT's") {
  for (const auto& problem : problems) {
    const Goldens goldens(problem);
    std::set<std::string> compared;
    for (const auto& c : goldens.cases) {
      if (c.method == "linear" || c.method.starts_with("dare")) continue;
      const auto merged = mole::compose(c.method, goldens.sets(c), c.options);
      CHECK(merged.slots == goldens.slots);
      for (const auto& slot : merged.slots) {
        CAPTURE(problem);
        CAPTURE(c.name);
        CAPTURE(slot);
        const auto ours = merged.factors(slot), theirs = goldens.lora(c.name, slot);
        // PEFT pads the factors of cat with zeros where an adapter is absent from the slot.
        if (c.method != "cat") CHECK(ours.rank == theirs.rank);
        CHECK(worst_of_slot(c, ours, theirs) < tolerance);
      }
      compared.insert(c.method);
    }
    CHECK(compared ==
          std::set<std::string>{"cat", "magnitude_prune", "magnitude_prune_svd", "svd", "ties", "ties_svd"});
  }
}

TEST_CASE("PEFT's linear is not the sum of the changes but a mix of factors with cross terms") {
  for (const auto& problem : problems) {
    const Goldens goldens(problem);
    const auto& c = goldens.cases.at(0);
    REQUIRE(c.method == "linear");
    const std::string slot = "one";
    mole::SlotExperts experts{slot, {}, {}, {}};
    Numbers on_a, on_b, sum;
    for (std::size_t i = 0; i < c.adapters.size(); ++i) {
      if (!goldens.adapts(c.adapters[i], slot)) continue;
      experts.places.push_back(i);
      experts.names.push_back(c.adapters[i]);
      experts.lora.push_back(goldens.lora(c.adapters[i], slot));
      on_b.push_back(std::sqrt(std::abs(c.options.weights[i])));
      on_a.push_back(std::copysign(on_b.back(), c.options.weights[i]));
      const auto d = change(experts.lora.back());
      sum.resize(d.size());
      for (std::size_t j = 0; j < d.size(); ++j) sum[j] += c.options.weights[i] * d[j];
    }
    const auto theirs = change(goldens.lora(c.name, slot));
    CHECK(error(change(mole::mix_factors(experts, on_a, on_b)), theirs) < tolerance);
    CHECK(error(sum, theirs) > 0.1);
    const auto ours = mole::compose("linear", goldens.sets(c), c.options).factors(slot);
    CHECK(error(change(ours), sum) < 1e-12);
  }
}

TEST_CASE("DARE by the masks that torch drew is PEFT's") {
  for (const auto& problem : problems) {
    const Goldens goldens(problem);
    std::set<std::string> compared;
    for (const auto& c : goldens.cases) {
      if (!c.method.starts_with("dare")) continue;
      auto options = c.options;
      options.mask = goldens.masks(c);
      const auto merged = mole::compose(c.method, goldens.sets(c), options);
      const auto own = mole::compose(c.method, goldens.sets(c), c.options);
      CHECK(merged.slots == goldens.slots);
      for (const auto& slot : merged.slots) {
        CAPTURE(problem);
        CAPTURE(c.name);
        CAPTURE(slot);
        const auto theirs = goldens.lora(c.name, slot);
        CHECK(worst_of_slot(c, merged.factors(slot), theirs) < tolerance);
        // Another mask is another adapter: the comparison above is no accident.
        CHECK(worst_of_slot(c, own.factors(slot), theirs) > 0.1);
      }
      compared.insert(c.method);
    }
    CHECK(compared == std::set<std::string>{"dare_linear", "dare_linear_svd", "dare_ties", "dare_ties_svd"});
  }
}

TEST_CASE("DARE's own masks go the way of given ones, to the bit") {
  const Goldens goldens("compose_large");
  for (const auto& c : goldens.cases) {
    if (!c.method.starts_with("dare")) continue;
    CAPTURE(c.name);
    auto options = c.options;
    options.seed = 23;
    const auto own = mole::compose(c.method, goldens.sets(c), options);
    options.mask = [&](const std::string& slot, std::size_t place, char part, Index element) {
      return mole::uniform(mole::mask_stream(23, slot, place, part), element) < *c.options.density;
    };
    const auto given = mole::compose(c.method, goldens.sets(c), options);
    CHECK(given.digest != own.digest);
    for (const auto& slot : goldens.slots) {
      CHECK(given.factors(slot).A == own.factors(slot).A);
      CHECK(given.factors(slot).B == own.factors(slot).B);
    }
  }
}
