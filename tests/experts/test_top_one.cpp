// Top-1: the weight that is left is 1 whatever a gate says, and the gate trains all the same.

#include <cmath>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <experts/experts.hpp>
#include <mole/loss/mse.hpp>
#include <mole/optim/adamw.hpp>
#include <testing.hpp>

using namespace mole;
using namespace mole::testing;

namespace top_one {

namespace {

using D = Tensor<double, Device>;
constexpr Index S = 4, L = 5, d = 8, N = 3;

std::vector<LoraFactors> experts() {
  return {random_factors(2, d, d, 1, 11), random_factors(2, d, d, 1, 12), random_factors(2, d, d, 1, 13)};
}

std::vector<RouterOptions> routers() {
  std::vector<RouterOptions> list;
  for (const GateInput input : {GateInput::experts, GateInput::hidden})
    for (const Pooling pooling : {Pooling::flatten, Pooling::mean, Pooling::token})
      list.push_back(GateOptions{.input = input, .pooling = pooling, .length = L, .top_k = 1});
  for (const Renormalize how : {Renormalize::sum, Renormalize::softmax})
    for (const Pooling pooling : {Pooling::mean, Pooling::token})
      list.push_back(XLoraOptions{.pooling = pooling, .top_k = 1, .renormalize = how});
  return list;
}

MoleLinear<double, Device> layer(const RouterOptions& router) {
  return {noise<double>({d, d}, 1), D(), experts(), router};
}

}  // namespace

TEST_CASE("With top-1 the largest gate has weight 1, and its gradient is that of the gate before") {
  for (const auto& router : routers()) {
    CAPTURE(message(router_name(router), to_string(placement_of(router).pooling)));
    auto made = layer(router);
    for (const auto& parameter : made.parameters())
      if (parameter.rank() > 0) parameter.assign(noise<double>(parameter.shape(), 7));
    const auto x = noise<double>({S, L, d}, 3);
    const auto out = made(x);
    const auto weights = doubles(out.gate.weights), dense = doubles(out.gate.dense);
    for (std::size_t row = 0; row < weights.size(); row += N)
      for (std::size_t j = row; j < row + N; ++j) {
        const bool largest = dense[j] == std::max({dense[row], dense[row + 1], dense[row + 2]});
        CHECK(weights[j] == doctest::Approx(largest ? 1 : 0).epsilon(1e-15));
      }
    const auto G = noise<double>(out.gate.weights.shape(), 4);
    const auto gradients = [&](const D& seen) {
      for (const auto& parameter : made.parameters()) parameter.zero_grad();
      backward(seen);
      std::vector<std::vector<double>> list;
      for (const auto& parameter : made.parameters()) list.push_back(doubles(parameter.grad()));
      return list;
    };
    const auto found = gradients(sum(made(x).gate.weights * G));
    const auto again = made(x).gate;
    const auto expected = gradients(sum(again.dense * again.weights.detach() * G));
    double size = 0;
    for (std::size_t i = 0; i < found.size(); ++i) {
      CHECK(worst_error(found[i], expected[i]) < 1e-12);
      for (const double g : found[i]) size += std::abs(g);
    }
    CHECK(size > 1e-3);
  }
}

TEST_CASE("A gate that keeps one expert learns which one is wanted") {
  for (const Pooling pooling : {Pooling::mean, Pooling::token}) {
    CAPTURE(to_string(pooling));
    auto made = layer(GateOptions{.pooling = pooling, .top_k = 1});
    const auto x = noise<double>({S, L, d}, 3) + 1.0;
    const auto target = linear(x, noise<double>({d, d}, 1) + D::from({d, d}, delta(experts()[2])));
    AdamW<double, Device> optimizer(made.parameters(), {.weight_decay = 0});
    for (int step = 0; step < 200; ++step) {
      optimizer.zero_grad();
      backward(mse(made(x).y, target));
      optimizer.step(0.05);
    }
    CHECK(mse(made(x).y, target).item() < 1e-20);
    for (const double weight : slice(made(x).gate.weights, -1, 2, 3).to_host()) CHECK(weight == 1);
  }
}

}  // namespace top_one
