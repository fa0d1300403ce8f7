#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>
#include <vector>

#include <mole/compose/compose.hpp>

#include "compose/loras.hpp"

using namespace compose_test;
using mole::compose;
using mole::ComposeOptions;
using mole::LoraFactors;
using mole::MajoritySign;

namespace {

const std::vector<LoraFactors> loras{lora(3, 4, 2), lora(4, 4, 0.5), lora(5, 4, 1.25)};
const Numbers weights{0.75, -0.5, 1.5};

/// The definition, by sorting: an element stays if fewer than k others are larger.
Numbers trimmed(const Numbers& values, double density) {
  std::vector<std::size_t> order(values.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return std::abs(values[a]) > std::abs(values[b]); });
  Numbers kept(values.size());
  for (std::size_t i = 0; i < static_cast<std::size_t>(density * static_cast<double>(values.size())); ++i)
    kept[order[i]] = values[order[i]];
  return kept;
}

/// TIES after trimming, one element at a time.
Numbers elected(const std::vector<Numbers>& tensors, const Numbers& w, MajoritySign majority) {
  Numbers merged;
  for (std::size_t j = 0; j < tensors[0].size(); ++j) {
    double positive = 0, negative = 0;
    for (const auto& t : tensors) {
      const double vote = majority == MajoritySign::total ? std::abs(t[j]) : (t[j] != 0);
      (t[j] > 0 ? positive : negative) += vote;
    }
    double sum = 0;
    int count = 0;
    for (std::size_t i = 0; i < tensors.size(); ++i)
      if (positive >= negative ? tensors[i][j] > 0 : tensors[i][j] < 0) {
        sum += w[i] * tensors[i][j];
        ++count;
      }
    merged.push_back(count ? sum / count : 0);
  }
  return merged;
}

Numbers dropped(const Numbers& values, double density, mole::RandomStream stream) {
  auto kept = values;
  for (std::size_t i = 0; i < kept.size(); ++i)
    kept[i] *= (mole::uniform(stream, static_cast<Index>(i)) < density) / density;
  return kept;
}

struct PruningCase {
  std::string method;
  double density;
  MajoritySign majority = MajoritySign::total;
};
const std::vector<PruningCase> pruning_cases{{"magnitude_prune", 0.3},
                                             {"magnitude_prune", 1},
                                             {"ties", 0.3},
                                             {"ties", 0.7, MajoritySign::frequency},
                                             {"ties", 1},
                                             {"dare_linear", 0.4},
                                             {"dare_ties", 0.4},
                                             {"dare_ties", 0.6, MajoritySign::frequency}};

Numbers merged(const PruningCase& c, const std::vector<Numbers>& tensors, const Numbers& w,
               std::uint64_t seed, char part) {
  std::vector<Numbers> pruned;
  for (std::size_t i = 0; i < tensors.size(); ++i)
    pruned.push_back(c.method.starts_with("dare")
                         ? dropped(tensors[i], c.density, mole::mask_stream(seed, "layer", i, part))
                         : trimmed(tensors[i], c.density));
  return c.method.ends_with("ties") ? elected(pruned, w, c.majority) : weighted(pruned, w);
}

ComposeOptions options_of(const PruningCase& c, std::uint64_t seed = 17) {
  ComposeOptions options;
  options.weights = weights;
  options.density = c.density;
  options.majority_sign = c.majority;
  options.seed = seed;
  return options;
}

}  // namespace

TEST_CASE("Pruning of factors weighs A and B by the root of weight times scale, the sign on A") {
  std::vector<Numbers> A, B;
  Numbers on_a, on_b;
  for (std::size_t i = 0; i < loras.size(); ++i) {
    A.push_back(loras[i].A);
    B.push_back(loras[i].B);
    on_b.push_back(std::sqrt(std::abs(weights[i] * loras[i].scale)));
    on_a.push_back(std::copysign(on_b.back(), weights[i]));
  }
  for (const auto& c : pruning_cases) {
    CAPTURE(c.method);
    CAPTURE(c.density);
    const auto found = compose(c.method, sets_of(loras), options_of(c)).factors("layer");
    CHECK(found.rank == 4);
    CHECK(found.scale == 1);
    CHECK(error(found.A, merged(c, A, on_a, 17, 'A')) < 1e-14);
    CHECK(error(found.B, merged(c, B, on_b, 17, 'B')) < 1e-14);
  }
}

TEST_CASE("The svd methods prune the full changes, and lose nothing at full rank") {
  std::vector<Numbers> changes;
  for (const auto& f : loras) changes.push_back(change(f));
  for (const auto& c : pruning_cases) {
    CAPTURE(c.method);
    CAPTURE(c.density);
    auto options = options_of(c);
    options.rank = mole::full_rank;
    const auto full = compose(c.method + "_svd", sets_of(loras), options).factors("layer");
    const auto expected = merged(c, changes, weights, 17, 'D');
    CHECK(error(change(full), expected) < 1e-12);
    options.rank = 2;
    const auto two = compose(c.method + "_svd", sets_of(loras), options).factors("layer");
    CHECK(two.rank == 2);
    CHECK(error(change(two), change(mole::truncated_svd(expected, d_out, d_in, 2))) < 1e-11);
    options.rank.reset();
    CHECK(compose(c.method + "_svd", sets_of(loras), options).factors("layer").rank == 4);
  }
}

TEST_CASE("The svd methods take experts of any ranks") {
  const std::vector<LoraFactors> unequal{lora(0, 4), lora(1, 2), lora(2, 7)};
  for (const auto& c : pruning_cases)
    CHECK(compose(c.method + "_svd", sets_of(unequal), options_of(c)).factors("layer").rank == 7);
}

TEST_CASE("A density of 1 without election is the plain sum of factors or changes") {
  ComposeOptions options;
  options.density = 1;
  options.rank = mole::full_rank;
  for (const std::string method : {"magnitude_prune_svd", "dare_linear_svd"}) {
    const auto found = compose(method, sets_of(loras), options).factors("layer");
    CHECK(error(change(found), change(compose("sum", sets_of(loras)).factors("layer"))) < 1e-12);
  }
}

TEST_CASE("keep_largest keeps the floor of density n, the first of equals") {
  CHECK(mole::keep_largest({3, -4, 1, 2}, 0.5) == Numbers{3, -4, 0, 0});
  CHECK(mole::keep_largest({3, -4, 1, 2}, 0.74) == Numbers{3, -4, 0, 0});
  CHECK(mole::keep_largest({1, -1, 1, -1, 1}, 0.6) == Numbers{1, -1, 1, 0, 0});
  CHECK(mole::keep_largest({3, -4, 1, 2}, 0.2) == Numbers{0, 0, 0, 0});
  CHECK(mole::keep_largest({3, -4, 1, 2}, 1) == Numbers{3, -4, 1, 2});
}

TEST_CASE("A draw elects the positive sign, and zeros neither vote nor count") {
  const std::vector<Numbers> tensors{{2, -3, 0, -1}, {-2, -1, 5, 0}};
  const auto tensor = [&](std::size_t i) { return tensors[i]; };
  CHECK(mole::disjoint_mean(2, tensor, {1, 1}, MajoritySign::total) == Numbers{2, -2, 5, -1});
  CHECK(mole::disjoint_mean(2, tensor, {10, 1}, MajoritySign::frequency) == Numbers{20, -15.5, 5, -10});
}

TEST_CASE("DARE keeps the expectation and the share, and differs by seed, expert, slot and factor") {
  constexpr double density = 0.25;
  const Numbers ones(20000, 1.0);
  const auto stream = mole::mask_stream(1, "layer", 0, 'A');
  const auto kept = mole::keep_random(ones, density, stream);
  for (const double v : kept) CHECK((v == 0 || v == 4));
  // Four standard deviations of the mean of 20000 such numbers.
  const double mean = std::accumulate(kept.begin(), kept.end(), 0.0) / 20000;
  CHECK(std::abs(mean - 1) < 4 * std::sqrt((1 / density - 1) / 20000));
  CHECK(mole::keep_random(ones, density, stream) == kept);
  for (const auto& other : {mole::mask_stream(2, "layer", 0, 'A'), mole::mask_stream(1, "other", 0, 'A'),
                            mole::mask_stream(1, "layer", 1, 'A'), mole::mask_stream(1, "layer", 0, 'B')}) {
    const auto mask = mole::keep_random(ones, density, other);
    double both = 0;
    for (std::size_t i = 0; i < mask.size(); ++i) both += mask[i] != 0 && kept[i] != 0;
    const double chance = density * density;
    CHECK(std::abs(both / 20000 - chance) < 4 * std::sqrt(chance * (1 - chance) / 20000));
  }
}

TEST_CASE("DARE is the same for the same seed") {
  const PruningCase c{"dare_ties", 0.5};
  const auto of_seed = [&](std::uint64_t seed) {
    return compose(c.method, sets_of(loras), options_of(c, seed)).factors("layer").A;
  };
  CHECK(of_seed(5) == of_seed(5));
  CHECK(of_seed(5) != of_seed(6));
}
