// The gates of many experts: what 128 weights sum to.

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <variant>
#include <vector>

#include <experts/experts.hpp>
#include <testing.hpp>

using namespace mole;
using namespace mole::testing;

namespace {

constexpr Index batch = 3, tokens = 5, inputs = 12, outputs = 10, crowd = 128;

/// Ranks 1 to 3, with scales that differ.
const std::vector<LoraFactors>& many_experts() {
  static const std::vector<LoraFactors> experts = [] {
    std::vector<LoraFactors> list;
    for (Index i = 0; i < crowd; ++i)
      list.push_back(random_factors(1 + i % 3, inputs, outputs, 0.5 + 0.01 * static_cast<double>(i),
                                    static_cast<std::uint64_t>(i)));
    return list;
  }();
  return experts;
}

template <class T>
MoleLinear<T, Device> layer_of(const RouterOptions& router) {
  MoleLinear<T, Device> layer(noise<T>({outputs, inputs}, 1), noise<T>({outputs}, 2), many_experts(), router);
  if (std::holds_alternative<GateOptions>(router))
    layer.gate().weight.assign(noise<T>(layer.gate().weight.shape(), 5));
  return layer;
}

/// Every router and pooling, with gates from nearly even to nearly one-hot.
std::vector<RouterOptions> all_routers(Index top_k) {
  std::vector<RouterOptions> list;
  for (const double temperature : {3.0, 0.5, 0.05}) {
    for (const auto input : {GateInput::experts, GateInput::hidden})
      for (const auto pooling : {Pooling::token, Pooling::mean})
        list.push_back(
            GateOptions{.input = input, .pooling = pooling, .top_k = top_k, .temperature = temperature});
    list.push_back(ArrowOptions{.top_k = top_k, .temperature = temperature});
    for (const auto pooling : {Pooling::token, Pooling::mean})
      for (const auto how : {Renormalize::sum, Renormalize::softmax})
        list.push_back(
            XLoraOptions{.pooling = pooling, .temperature = temperature, .top_k = top_k, .renormalize = how});
  }
  return list;
}

}  // namespace

// A weight is an exponential over the sum of all N in T. Backends add N terms in at least 16 partial sums,
// so each term is rounded N / 16 + 4 times at most, by half an epsilon; the division and what top-k divides
// by double that at most: N / 16 + 6 epsilons, and N / 8 is more. That the weights are summed up here adds
// nothing, as it is done in double.
TEST_CASE_TEMPLATE("128 gates sum to 1 to the order of the last bit, with masks and with top-k", T, float,
                   double) {
  const auto x = noise<T>({batch, tokens, inputs});
  std::vector<T> padding(batch * tokens, T(1)), keep(crowd, T(1));
  for (const std::size_t padded : {3U, 4U, 14U}) padding[padded] = 0;
  for (std::size_t i = 0; i < keep.size(); i += 3) keep[i] = 0;
  const auto mask = Tensor<T, Device>::from({batch, tokens}, padding),
             kept = Tensor<T, Device>::from({crowd}, keep);
  for (const Index top_k : {Index{0}, Index{2}, Index{50}})
    for (const auto& router : all_routers(top_k)) {
      CAPTURE(std::string(router_name(router)));
      CAPTURE(top_k);
      const auto layer = layer_of<T>(router);
      const std::vector<Tensor<T, Device>> keeps{{}, kept};
      for (const auto& only : keeps) {
        const auto gate = layer(x, mask, only).gate;
        const std::vector<Tensor<T, Device>> values{gate.weights, gate.dense};
        for (const auto& value : values) {
          const auto g = doubles(value);
          double worst = 0, masked = 0;
          std::size_t most = 0;
          for (std::size_t row = 0; row < g.size(); row += crowd) {
            double sum = 0;
            std::size_t used = 0;
            for (std::size_t i = 0; i < crowd; ++i) {
              sum += g[row + i];
              used += g[row + i] != 0;
              if (only.defined() && keep[i] == 0) masked += std::abs(g[row + i]);
            }
            worst = std::max(worst, std::abs(sum - 1));
            most = std::max(most, used);
          }
          CHECK(masked == 0);
          if (top_k > 0 && &value == &values.front()) CHECK(most <= static_cast<std::size_t>(top_k));
          CHECK(worst <= crowd / 8 * static_cast<double>(std::numeric_limits<T>::epsilon()));
        }
      }
    }
}
