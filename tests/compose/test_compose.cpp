#include <doctest/doctest.h>

#include <Eigen/Eigenvalues>
#include <functional>
#include <string>
#include <vector>

#include <mole/compose/compose.hpp>
#include <mole/io/safetensors.hpp>

#include "compose/loras.hpp"

using namespace compose_test;
using mole::compose;
using mole::ComposeOptions;
using mole::LoraFactors;

namespace {

const std::vector<LoraFactors> three{lora(0), lora(1), lora(2)};
const std::vector<LoraFactors> unequal{lora(0, 4, 2), lora(1, 3, 0.5), lora(2, 6, 1.25)};
const Numbers some_weights{0.75, -0.5, 1.5};

ComposeOptions with_weights(const Numbers& weights) {
  ComposeOptions options;
  options.weights = weights;
  return options;
}

LoraFactors composed(const std::string& method, const std::vector<LoraFactors>& loras,
                     const ComposeOptions& options = {}) {
  return compose(method, sets_of(loras), options).factors("layer");
}

std::vector<Numbers> changes(const std::vector<LoraFactors>& loras) {
  std::vector<Numbers> all;
  for (const auto& f : loras) all.push_back(change(f));
  return all;
}

std::vector<Numbers> factors(const std::vector<LoraFactors>& loras, Numbers LoraFactors::*which) {
  std::vector<Numbers> all;
  for (const auto& f : loras) all.push_back(f.*which);
  return all;
}

/// The best approximation of rank k of a change: D V V^T with the k leading eigenvectors of D^T D.
Numbers best_of_rank(const Numbers& values, Index k) {
  using Matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  const Matrix D = Eigen::Map<const Matrix>(values.data(), d_out, d_in);
  const Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd> gram(D.transpose() * D);
  const Eigen::MatrixXd V = gram.eigenvectors().rightCols(k);
  const Matrix best = D * V * V.transpose();
  return {best.data(), best.data() + best.size()};
}

}  // namespace

TEST_CASE("sum, cat and linear are the exact weighted sum, of the sum of the ranks") {
  for (const std::string method : {"sum", "cat", "linear"}) {
    CAPTURE(method);
    const auto merged = composed(method, unequal, with_weights(some_weights));
    CHECK(merged.rank == 13);
    CHECK(error(change(merged), weighted(changes(unequal), some_weights)) < 1e-13);
    CHECK(error(change(composed(method, unequal)), weighted(changes(unequal), {1, 1, 1})) < 1e-13);
  }
}

TEST_CASE("Normalised divides the weights by their sum, and without weights it is the mean") {
  const auto all = changes(unequal);
  CHECK(error(change(composed("normalised", unequal)), weighted(all, {1 / 3., 1 / 3., 1 / 3.})) < 1e-13);
  CHECK(error(change(composed("normalised", unequal, with_weights({1, 1, 2}))),
              weighted(all, {0.25, 0.25, 0.5})) < 1e-13);
}

TEST_CASE("One expert of weight 1 is that LoRA to the bit") {
  for (const std::string method : {"sum", "normalised", "pems_add"}) {
    CAPTURE(method);
    const auto merged = composed(method, {unequal[2]});
    CHECK(merged.A == unequal[2].A);
    CHECK(merged.B == unequal[2].B);
    CHECK(merged.scale == unequal[2].scale);
  }
}

TEST_CASE("svd is the best approximation of its rank, whether or not the sum has full rank") {
  // 4 + 3 = 7 is below both extents, 4 + 3 + 6 is not.
  for (const auto& loras : {std::vector<LoraFactors>{unequal[0], unequal[1]}, unequal}) {
    const Numbers weights(some_weights.begin(),
                          some_weights.begin() + static_cast<std::ptrdiff_t>(loras.size()));
    const auto sum = weighted(changes(loras), weights);
    auto options = with_weights(weights);
    for (const Index rank : {1, 3, 5}) {
      CAPTURE(rank);
      options.rank = rank;
      const auto merged = composed("svd", loras, options);
      CHECK(merged.rank == rank);
      CHECK(error(change(merged), best_of_rank(sum, rank)) < 1e-11);
    }
    options.rank = mole::full_rank;
    const auto exact = composed("svd", loras, options);
    CHECK(exact.rank == (loras.size() == 2 ? 7 : 10));
    CHECK(error(change(exact), sum) < 1e-12);
  }
}

TEST_CASE("svd takes the largest rank of the experts unless it is given one") {
  CHECK(composed("svd", unequal).rank == 6);
}

TEST_CASE("svd at full rank drops what is only rounding") {
  ComposeOptions options;
  options.rank = mole::full_rank;
  const auto merged = composed("svd", {three[0], three[0]}, options);
  CHECK(merged.rank == 4);
  CHECK(error(change(merged), weighted(changes({three[0]}), {2})) < 1e-12);
}

TEST_CASE("The PEMs mix A and B by themselves") {
  const auto A = factors(three, &LoraFactors::A), B = factors(three, &LoraFactors::B);
  struct Case {
    std::string method;
    std::size_t n;
    Numbers weights, on_a, on_b;
  };
  const std::vector<Case> cases{
      {"pems_add", 3, {}, {1 / 3., 1 / 3., 1 / 3.}, {1 / 3., 1 / 3., 1 / 3.}},
      {"pems_add", 2, {0.3, 0.7}, {0.3, 0.7, 0}, {0.3, 0.7, 0}},
      {"pems_negate", 1, {}, {1, 0, 0}, {-1, 0, 0}},
      {"pems_negate", 1, {0.4}, {1, 0, 0}, {-0.4, 0, 0}},
      {"pems_subtract", 2, {0.6, 0.4}, {0.6, 0.4, 0}, {0.6, -0.4, 0}},
      {"pems_analogy", 3, {}, {0.5, 0.5, 0.5}, {0.5, 0.5, -0.5}},
      {"pems_analogy", 3, {0.2, 0.8, 0.8}, {0.2, 0.8, 0.8}, {0.2, 0.8, -0.8}},
  };
  for (const auto& c : cases) {
    CAPTURE(c.method);
    CAPTURE(c.weights.size());
    const std::vector<LoraFactors> loras(three.begin(), three.begin() + static_cast<std::ptrdiff_t>(c.n));
    const auto mixed = composed(c.method, loras, with_weights(c.weights));
    CHECK(mixed.rank == 4);
    CHECK(mixed.scale == 2);
    CHECK(error(mixed.A, weighted(A, c.on_a)) < 1e-14);
    CHECK(error(mixed.B, weighted(B, c.on_b)) < 1e-14);
  }
  const auto negated = change(composed("pems_negate", {three[0]}));
  CHECK(error(negated, weighted(changes({three[0]}), {-1})) == 0);
}

TEST_CASE("Mixing of factors gives differing scales to both factors alike") {
  const std::vector<LoraFactors> loras{lora(0, 4, 2), lora(1, 4, 0.5)};
  const auto mixed = composed("pems_add", loras, with_weights({1, 0}));
  CHECK(error(change(mixed), change(loras[0])) < 1e-14);
  const auto both = composed("pems_add", loras, with_weights({1, 2}));
  CHECK(error(both.A, weighted(factors(loras, &LoraFactors::A), {std::sqrt(2.0), 2 * std::sqrt(0.5)})) <
        1e-14);
}

TEST_CASE("lorahub matches the golden of its merged module") {
  const mole::SafetensorsFile file(MOLE_TEST_DATA "/golden/linear_composition.safetensors");
  std::vector<LoraFactors> loras;
  for (int i = 0; i < 3; ++i) {
    const auto a = "lora_A." + std::to_string(i), b = "lora_B." + std::to_string(i);
    loras.push_back({file.at(a).shape[0], file.at(a).shape[1], file.at(b).shape[0], 1.0, file.read<double>(a),
                     file.read<double>(b)});
  }
  const auto found = composed("lorahub", loras, with_weights(file.read<double>("weights")));
  CHECK(error(change(found), file.read<double>("lorahub_delta")) < 1e-12);
}

TEST_CASE("An expert absent from a slot is left out there") {
  const std::vector<mole::LoraSet> sets{set_of("a", {"one", "both"}, three[0]),
                                        set_of("b", {"both", "two"}, three[1])};
  const auto merged = compose("sum", sets, with_weights({2, 3}));
  CHECK(merged.slots == std::vector<std::string>{"one", "both", "two"});
  CHECK(error(change(merged.factors("one")), weighted({change(three[0])}, {2})) < 1e-13);
  CHECK(error(change(merged.factors("two")), weighted({change(three[1])}, {3})) < 1e-13);
  CHECK(error(change(merged.factors("both")), weighted(changes({three[0], three[1]}), {2, 3})) < 1e-13);
  // The sign of an expert goes with the expert, not with its place among those of the slot.
  const auto less = compose("pems_subtract", sets, with_weights({1, 1}));
  CHECK(error(change(less.factors("two")), weighted({change(three[1])}, {-1})) < 1e-13);
}

TEST_CASE("Factors are read only for the slot that is asked for") {
  std::vector<std::string> read;
  std::vector<mole::LoraSet> sets;
  for (const std::string name : {"a", "b"})
    sets.push_back({name, "", {"one", "two"}, [&read, name](const std::string& slot) {
                      read.push_back(name + " " + slot);
                      return three[0];
                    }});
  const auto merged = compose("sum", sets);
  CHECK(read.empty());
  merged.factors("two");
  CHECK(read == std::vector<std::string>{"a two", "b two"});
}

TEST_CASE("A merged adapter has a name, and a digest that tells methods, options and experts apart") {
  const auto sets = sets_of(three);
  const auto digest = [&](const std::string& method, const ComposeOptions& options = {}) {
    return compose(method, sets, options).digest;
  };
  CHECK(compose("svd", sets).name == "svd(e0, e1, e2)");
  CHECK(compose("sum", sets_of(std::vector<LoraFactors>(6, three[0]))).name == "sum(e0, e1, e2, e3, +2)");
  ComposeOptions ranked;
  ranked.rank = 2;
  CHECK(digest("svd") == digest("svd"));
  CHECK(digest("svd") != digest("sum"));
  CHECK(digest("svd") != digest("svd", ranked));
  CHECK(digest("sum") != digest("sum", with_weights({1, 1, 2})));
  CHECK(digest("sum") != compose("sum", {sets[1], sets[0], sets[2]}).digest);
}

TEST_CASE_TEMPLATE("Every method merges into a model what its factors say", T, float, double) {
  using Device = mole::testing::Device;
  mole::SlotTable<T, Device> table;
  table.add_group({}, {{"layer", d_out, d_in}, {"frozen", d_out, d_in}});
  for (auto& slot : table.slots) slot.weight = mole::testing::noise<T>({d_out, d_in});
  const auto W = mole::testing::doubles(table.slots[0].weight);
  for (const auto& method : mole::composition_methods()) {
    CAPTURE(method);
    const std::size_t n = method == "pems_negate" ? 1 : method == "pems_subtract" ? 2 : 3;
    const auto sets = sets_of({three.begin(), three.begin() + static_cast<std::ptrdiff_t>(n)});
    ComposeOptions options;
    options.density = 0.5;
    options.weights = Numbers(some_weights.begin(), some_weights.begin() + static_cast<std::ptrdiff_t>(n));
    mole::merge(table, method, sets, options);
    const auto expected = weighted({W, change(compose(method, sets, options).factors("layer"))}, {1, 1});
    CHECK(mole::testing::worst_error(table.slots[0].merged, expected) < 4 * mole::testing::tight<T>);
    CHECK_FALSE(table.slots[1].merged.defined());
  }
}
