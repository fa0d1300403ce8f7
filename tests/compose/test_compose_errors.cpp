#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include <mole/compose/compose.hpp>

#include "compose/loras.hpp"

using namespace compose_test;
using mole::ComposeOptions;
using mole::LoraFactors;
using mole::LoraSet;

namespace {

const double not_a_number = std::numeric_limits<double>::quiet_NaN();
const auto equal = sets_of({lora(0), lora(1)});
const auto unequal_sets = sets_of({lora(0, 4), lora(1, 3)});

ComposeOptions options(const Numbers& weights, std::optional<double> density = 0.5,
                       std::optional<Index> rank = {}) {
  ComposeOptions made;
  made.weights = weights;
  made.density = density;
  made.rank = rank;
  return made;
}

/// What composing and asking for the first slot throws: its kind and its text.
std::string failure(const std::string& method, const std::vector<LoraSet>& sets,
                    const ComposeOptions& given) {
  try {
    const auto merged = mole::compose(method, sets, given);
    merged.factors(merged.slots.at(0));
  } catch (const mole::ArgumentError& error) {
    return std::string("argument: ") + error.what();
  } catch (const mole::FormatError& error) {
    return std::string("format: ") + error.what();
  } catch (const mole::NumericError& error) {
    return std::string("numeric: ") + error.what();
  }
  return "nothing";
}

}  // namespace

TEST_CASE("compose says what is wrong with its experts and options") {
  auto broken = lora(1);
  broken.A[3] = not_a_number;
  auto lying = lora(1);
  lying.B.pop_back();
  struct Case {
    std::string method;
    std::vector<LoraSet> sets;
    ComposeOptions given;
    std::vector<std::string> says;
  };
  const std::vector<Case> cases{
      {"tise", equal, options({}), {"argument", "no method tise", "dare_ties_svd"}},
      {"ties_svd_svd", equal, options({}), {"argument", "no method ties_svd_svd"}},
      {"sum", {}, options({}), {"argument", "sum: the list of experts is empty"}},
      {"sum", {equal[0], {"idle", "", {}, {}}}, options({}), {"format", "adapter idle adapts nothing"}},
      {"sum", equal, options({1}), {"argument", "one weight for each of 2 experts, got 1"}},
      {"ties", equal, options({1, 1, 1}), {"argument", "ties:", "got 3"}},
      {"svd", equal, options({1, not_a_number}), {"argument", "a weight is nan"}},
      {"sum", equal, options({1, std::numeric_limits<double>::infinity()}), {"argument", "weight is inf"}},
      {"normalised", equal, options({1, -1}), {"argument", "normalised: the weights sum to 0"}},
      {"lorahub", equal, options({}), {"argument", "lorahub: needs weights", "lorahub_search"}},
      {"pems_negate", equal, options({}), {"argument", "pems_negate: combines 1 expert, got 2"}},
      {"pems_subtract", {equal[0]}, options({}), {"argument", "pems_subtract: combines 2 experts, got 1"}},
      {"pems_analogy", equal, options({}), {"argument", "combines 3 experts, got 2"}},
      {"ties", equal, options({}, {}), {"argument", "ties: needs a density"}},
      {"ties_svd", equal, options({}, 0), {"argument", "expected a density in (0, 1], got 0"}},
      {"dare_linear", equal, options({}, 1.01), {"argument", "got 1.01"}},
      {"magnitude_prune", equal, options({}, -0.5), {"argument", "got -0.5"}},
      {"dare_ties_svd", equal, options({}, not_a_number), {"argument", "got nan"}},
      {"svd", equal, options({}, {}, 0), {"argument", "svd: expected a rank of at least 1, got 0"}},
      {"ties_svd", equal, options({}, 0.5, -3), {"argument", "got -3"}},
      {"pems_add",
       unequal_sets,
       options({}),
       {"argument", "equal rank", "layer", "e0 has 4", "e1 has 3", "cat"}},
      {"lorahub", unequal_sets, options({1, 1}), {"argument", "equal rank"}},
      {"ties", unequal_sets, options({}), {"argument", "equal rank", "e1 has 3"}},
      {"dare_linear", unequal_sets, options({}), {"argument", "equal rank"}},
      {"magnitude_prune", unequal_sets, options({}), {"argument", "equal rank"}},
      {"pems_add", sets_of({lora(0, 4, 1), lora(1, 4, -2)}), options({}), {"argument", "negative scale -2"}},
      {"sum", sets_of({lora(0), lora(1, 4, 2, 9)}), options({}), {"format", "[10, 12]", "[10, 9]"}},
      {"ties_svd", sets_of({lora(0), broken}), options({}), {"numeric", "e1", "layer", "nan"}},
      {"sum", sets_of({lora(0), lora(1, 4, not_a_number)}), options({}), {"numeric", "e1", "scale nan"}},
      {"sum", sets_of({lying}), options({}), {"format", "e0", "39 elements", "B [10, 4]"}},
  };
  for (const auto& c : cases) {
    CAPTURE(c.method);
    const auto text = failure(c.method, c.sets, c.given);
    CAPTURE(text);
    for (const auto& part : c.says) {
      CAPTURE(part);
      CHECK(text.find(part) != std::string::npos);
    }
  }
}

TEST_CASE("A merged adapter refuses slots that none of its experts adapts") {
  const auto merged = mole::compose("sum", equal);
  CHECK_THROWS_WITH_AS(merged.factors("elsewhere"), doctest::Contains("none of the experts adapts elsewhere"),
                       mole::ArgumentError);
}

TEST_CASE("Merging by a method names the expert that does not belong to the model, and changes nothing") {
  using Device = mole::testing::Device;
  mole::SlotTable<float, Device> table;
  table.add_group({}, {{"layer", d_out, d_in}});
  table.slots[0].weight = mole::testing::noise<float>({d_out, d_in});
  const auto foreign = set_of("foreign", {"elsewhere"}, lora(2));
  const auto small = set_of("small", {"layer"}, lora(2, 4, 2, 6, 5));
  CHECK_THROWS_WITH_AS(mole::merge(table, "ties", {equal[0], foreign}, options({})),
                       doctest::Contains("adapter foreign adapts elsewhere"), mole::FormatError);
  CHECK_THROWS_WITH_AS(mole::merge(table, "sum", {small}), doctest::Contains("[5, 6]"), mole::FormatError);
  CHECK_FALSE(table.slots[0].merged.defined());
}
