// Statistics of gates, from records written by hand.

#include <cmath>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <mole/experts/gate_statistics.hpp>
#include <mole/loss/balance.hpp>
#include <testing.hpp>

using namespace mole;
using namespace mole::testing;
using D = Tensor<double, Device>;
using Records = std::vector<GateRecord<double, Device>>;
using Row = std::vector<double>;

namespace {

GateRecord<double, Device> record(const std::string& name, const D& g, const D& mask = {},
                                  std::vector<Index> experts = {0, 1},
                                  const std::string& stream = "encoder") {
  return {name, {g, g}, mask, std::move(experts), stream};
}

/// Two sequences at one gate, and real tokens 0, 1 of the first and 0 of the second at another.
Records two_gates() {
  return {record("block.0", D::from({2, 2}, {0.25, 0.75, 1, 0})),
          record("block.1@memory", D::from({2, 2, 2}, {0.5, 0.5, 0, 1, 0.125, 0.875, 9, 9}),
                 D::from({2, 2}, {1, 1, 1, 0}), {0, 2}, "memory")};
}

double entropy_of(const Row& p) {
  double sum = 0;
  for (const double v : p) sum -= v > 0 ? v * std::log(v) : 0;
  return sum;
}

}  // namespace

TEST_CASE("Uniform gates have the entropy ln N, the normalised one 1, and no variation") {
  for (const Index N : {Index{2}, Index{5}, Index{128}}) {
    std::vector<Index> experts;
    for (Index i = 0; i < N; ++i) experts.push_back(i);
    const auto g = D::full({3, N}, 1.0 / static_cast<double>(N));
    const auto stats = gate_statistics<double, Device>({record("all", g, {}, experts)});
    CHECK(stats.front().entropy() == doctest::Approx(std::log(static_cast<double>(N))).epsilon(1e-14));
    CHECK(stats.front().normalized_entropy() == doctest::Approx(1).epsilon(1e-14));
    CHECK(stats.front().variation() < 1e-12);
  }
}

TEST_CASE("A gate that gives all to one expert has entropy 0 and variation sqrt(N - 1)") {
  const auto stats =
      gate_statistics<double, Device>({record("one", D::from({2, 3}, {0, 1, 0, 0, 1, 0}), {}, {0, 1, 2})});
  CHECK(stats.front().entropy() == 0);
  CHECK(stats.front().variation() == doctest::Approx(std::sqrt(2.0)));
  CHECK(stats.front().used == std::vector<Index>{0, 2, 0});
  CHECK(stats.front().first == std::vector<Index>{0, 2, 0});
}

TEST_CASE("Statistics are means over sequences, or over real tokens, and add up over batches") {
  std::vector<GateStatistics> all;
  gather_statistics(all, two_gates());
  REQUIRE(all.size() == 2);
  CHECK_FALSE(all[0].by_token);
  CHECK(all[0].rows == 2);
  CHECK(all[0].load() == Row{0.625, 0.375});
  CHECK(all[0].used == std::vector<Index>{2, 1});
  CHECK(all[0].first == std::vector<Index>{1, 1});
  CHECK(all[0].entropy() == doctest::Approx(entropy_of({0.25, 0.75}) / 2));
  CHECK(all[0].variation() == doctest::Approx(0.25));
  CHECK(all[1].by_token);
  CHECK(all[1].stream == "memory");
  CHECK(all[1].rows == 3);
  CHECK(all[1].load()[0] == doctest::Approx(0.625 / 3));
  CHECK(all[1].entropy() == doctest::Approx((std::log(2.0) + entropy_of({0.125, 0.875})) / 3));

  gather_statistics<double, Device>(all, {record("block.0", D::from({1, 2}, {0, 1}))});
  REQUIRE(all.size() == 2);
  CHECK(all[0].rows == 3);
  CHECK(all[0].load()[1] == doctest::Approx(1.75 / 3));
  CHECK(
      lacks<ArgumentError>(
          [&] {
            gather_statistics<double, Device>(all, {record("block.0", D::from({1, 2}, {0, 1}), {}, {0, 2})});
          },
          {"block.0", "other experts"}) == "");
}

TEST_CASE("The variation of loads is their deviation over their mean, of the experts that have one") {
  CHECK(load_variation({0.25, 0.25}) == 0);
  CHECK(load_variation({0, 0, 0, 2}) == doctest::Approx(std::sqrt(3.0)));
  CHECK(load_variation({1, std::nan(""), 3}) == doctest::Approx(0.5));
  CHECK(std::isnan(load_variation({0, 0})));
  CHECK(std::isnan(load_variation({0.75, -0.25})));
  CHECK(std::isnan(load_variation({})));
}

TEST_CASE(
    "Q over all gates is the balance loss's, which reads them before top-k; the load is what was used") {
  auto records = two_gates();
  records[0].value.weights = D::from({2, 2}, {0, 1, 1, 0});
  std::vector<GateSample<double, Device>> samples;
  for (const auto& r : records) samples.push_back({r.value.dense, r.row_mask, r.experts});
  const auto q = doubles(expert_shares(samples, 3).q);
  const auto stats = gate_statistics(records);
  CHECK(worst_error(expert_q(stats, 3), q) < 1e-15);
  CHECK(std::isnan(expert_q(stats, 4)[3]));
  CHECK(stats[0].q() == Row{0.625, 0.375});
  CHECK(stats[0].load() == Row{0.5, 0.5});
  CHECK(expert_load(stats, 3)[1] == 0.5);
}

TEST_CASE("A common factor of the weights does not change the entropy, and negative rows have none") {
  const auto stats = gate_statistics<double, Device>(
      {record("scaled", D::from({1, 2}, {1, 3})), record("raw", D::from({2, 2}, {-1, 2, 0, 0}))});
  CHECK(stats[0].entropy() == doctest::Approx(entropy_of({0.25, 0.75})));
  CHECK(stats[1].rows == 2);
  CHECK(stats[1].decided == 0);
  CHECK(std::isnan(stats[1].entropy()));
}
