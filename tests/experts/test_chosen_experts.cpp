// Mixing the chosen experts alone against mixing all with the same weights.

#include <algorithm>
#include <set>
#include <utility>
#include <vector>

#include <doctest/doctest.h>
#include <experts/experts.hpp>
#include <testing.hpp>

using namespace mole;
using namespace mole::testing;
using D = Tensor<double, Device>;
using Row = std::vector<double>;

namespace {

constexpr Index sequences = 4, length = 3, width_in = 6, width_out = 5;

/// The experts of a layer, and the gate's, of which the layer may lack some.
struct LayerExperts {
  std::vector<Index> gate;
  std::vector<std::pair<Index, Index>> expert_and_rank;

  ExpertStack<double, Device> stack(std::uint64_t seed) const {
    std::vector<Index> experts;
    std::vector<LoraFactors> parts;
    for (const auto& [expert, rank] : expert_and_rank) {
      experts.push_back(expert);
      parts.push_back(random_factors(rank, width_in, width_out, 0.7, seed++));
    }
    return stack_experts<double, Device>(experts, parts, gate);
  }
};

const LayerExperts equal_ranks{{0, 1, 2, 3}, {{0, 2}, {1, 2}, {2, 2}, {3, 2}}},
    mixed_ranks{{0, 1, 2, 3}, {{0, 1}, {1, 4}, {2, 2}, {3, 3}}},
    absent_experts{{2, 4, 5, 7, 9}, {{4, 2}, {5, 1}, {9, 3}}};

D padded_tokens() { return D::from({sequences, length}, {1, 1, 1, 1, 1, 0, 0, 1, 0, 1, 1, 1}); }

struct Choice {
  Index k;
  Pooling pooling;
  bool padded, masked;
  bool entry;  ///< whether the gate reads the layer that it mixes, or one before it
};

/// y, the gradients of x, F and log_tau, and the columns chosen by any sequence, with a layer before the
/// mixed one where that is not the entry.
struct Step {
  std::vector<Row> results;
  std::set<Row> choices;
};
Step step(const LayerExperts& layer, const Choice& policy, bool alone) {
  const auto first = layer.stack(10), second = policy.entry ? first : layer.stack(20);
  const auto N = static_cast<Index>(layer.gate.size());
  auto gate = make_gate<double, Device>(first.rank() * (policy.pooling == Pooling::flatten ? length : 1),
                                        layer.gate, 0.8);
  gate.weight.assign(noise<double>(gate.weight.shape(), 3));
  Row mask_of_gate(static_cast<std::size_t>(N), 1);
  mask_of_gate[1] = 0;
  const D keep = policy.masked ? D::from({N}, mask_of_gate) : D();

  const auto x = noise<double>({sequences, length, width_in}, 1).set_requires_grad();
  const auto v =
      pool_tokens(linear(x, first.A), policy.padded ? padded_tokens() : D(), policy.pooling, length);
  const auto value = gate_weights(gate, v, keep, policy.k);
  const auto z = policy.entry ? x : tanh(linear(x, noise<double>({width_in, width_in}, 4)));
  const auto W = noise<double>({width_out, width_in}, 5), c = noise<double>({width_out}, 6);
  D y;
  std::set<Row> choices;
  if (alone) {
    const auto chosen = choose_experts(value.weights, policy.k);
    y = mix_chosen(z, W, c, make_blocks(second, N, policy.k), chosen);
    const auto columns = chosen.columns.to_host();
    for (auto at = columns.begin(); at != columns.end(); at += policy.k)
      choices.insert(Row(at, at + policy.k));
  } else {
    y = mixture(z, W, c, linear(z, second.A), value.weights, second.Q, second.column);
  }
  backward(y, noise<double>(y.shape(), 7));
  return {{doubles(y), doubles(x.grad()), doubles(gate.weight.grad()), doubles(gate.log_tau.grad())},
          choices};
}

/// y of a layer by its parts, with all experts.
D with_all(const MoleLinear<double, Device>& layer, const D& x, const D& W, const D& c, const D& g) {
  const auto& stack = layer.experts();
  return mixture(x, W, c, linear(x, stack.A), g, stack.Q, stack.column);
}

}  // namespace

TEST_CASE("Mixing the chosen experts alone gives the outputs and gradients of mixing all") {
  for (const auto& layer : {equal_ranks, mixed_ranks, absent_experts})
    for (const Index k : {Index{1}, Index{2}, static_cast<Index>(layer.gate.size()) - 1}) {
      std::size_t most_choices = 0;
      for (const Pooling pooling : {Pooling::mean, Pooling::flatten})
        for (const bool padded : {false, true})
          for (const bool masked : {false, true})
            for (const bool entry : {false, true}) {
              CAPTURE(layer.gate.size());
              CAPTURE(k);
              CAPTURE(std::string(to_string(pooling)));
              CAPTURE(padded);
              CAPTURE(masked);
              CAPTURE(entry);
              const Choice policy{k, pooling, padded, masked, entry};
              const auto [few, choices] = step(layer, policy, true);
              const auto all = step(layer, policy, false).results;
              most_choices = std::max(most_choices, choices.size());
              for (std::size_t i = 0; i < all.size(); ++i) CHECK(worst_error(few[i], all[i]) < 1e-12);
              // With k = 1 the one gate is 1 whatever the parameters.
              if (k > 1) CHECK(worst_error(all[2], Row(all[2].size())) > 1e-3);
            }
      CHECK(most_choices > 1);
    }
}

TEST_CASE("Blocks hold each expert at its gate's column, with zeros up to the largest rank") {
  const auto stack = absent_experts.stack(1);
  const auto blocks = make_blocks(stack, 5, 2);
  const auto A = doubles(stack.A), Q = doubles(stack.Q), A_blocks = doubles(blocks.A),
             Q_blocks = doubles(blocks.Q);
  REQUIRE(blocks.A.shape() == Shape{5, 3 * width_in});
  REQUIRE(blocks.Q.shape() == Shape{5, 3 * width_out});
  CHECK(blocks.place.to_host() == std::vector<Index>{0, 0, 0, 1, 1, 1});
  // By column of the gate and rank in it: the rank in the stack, or none.
  const int of[5][3] = {{-1, -1, -1}, {0, 1, -1}, {2, -1, -1}, {-1, -1, -1}, {3, 4, 5}};
  for (std::size_t i = 0; i < 5; ++i)
    for (std::size_t r = 0; r < 3; ++r) {
      const auto at = static_cast<std::size_t>(of[i][r]);
      for (std::size_t j = 0; j < width_in; ++j)
        CHECK(A_blocks[(i * 3 + r) * width_in + j] == (of[i][r] < 0 ? 0 : A[at * width_in + j]));
      for (std::size_t o = 0; o < width_out; ++o)
        CHECK(Q_blocks[(i * 3 + r) * width_out + o] == (of[i][r] < 0 ? 0 : Q[o * 6 + at]));
    }
  const auto even = equal_ranks.stack(1);
  CHECK(make_blocks(even, 4, 1).A.data() == even.A.data());
}

TEST_CASE("Experts are computed alone where they are at most half, and few or read by many tokens") {
  CHECK(leaves_few(equal_ranks.stack(1), 2));
  CHECK_FALSE(leaves_few(equal_ranks.stack(1), 3));
  CHECK_FALSE(leaves_few(equal_ranks.stack(1), 0));
  CHECK(leaves_few(mixed_ranks.stack(1), 1));
  CHECK_FALSE(leaves_few(mixed_ranks.stack(1), 2));
  // 4 of 8 ranks a sequence.
  const auto blocks = make_blocks(equal_ranks.stack(1), 4, 2);
  CHECK(blocks.pay(2, 1));
  CHECK_FALSE(blocks.pay(3, 1));
  CHECK_FALSE(blocks.pay(3, 31));
  CHECK(blocks.pay(3, 32));
  CHECK(make_blocks(equal_ranks.stack(1), 4, 1).pay(100, 1));
  CHECK_FALSE(ExpertBlocks<double, Device>().pay(1, 32));
}

TEST_CASE("A layer with top-k equals all its experts mixed with the weights it reports") {
  constexpr Index many = 40;  // enough to mix the chosen alone
  std::vector<LoraFactors> experts;
  for (std::uint64_t i = 0; i < 6; ++i) experts.push_back(random_factors(1, width_in, width_out, 1, 30 + i));
  const auto W = noise<double>({width_out, width_in}, 1), c = noise<double>({width_out}, 2),
             x = noise<double>({sequences, many, width_in}, 3);
  Row real(static_cast<std::size_t>(sequences * many), 1);
  std::fill(real.end() - 25, real.end(), 0);
  const auto mask = D::from({sequences, many}, real);
  const std::vector<RouterOptions> routers{
      GateOptions{.pooling = Pooling::mean, .top_k = 2},
      GateOptions{.pooling = Pooling::flatten, .length = many, .top_k = 3},
      GateOptions{.input = GateInput::hidden, .pooling = Pooling::mean, .top_k = 1},
      GateOptions{.pooling = Pooling::token, .top_k = 2},
      XLoraOptions{.pooling = Pooling::mean, .softmax = false, .top_k = 2, .weight = 1.5, .first_pass = 0.3},
      XLoraOptions{.pooling = Pooling::mean, .top_k = 2, .renormalize = Renormalize::softmax}};
  for (const auto& router : routers) {
    CAPTURE(std::string(router_name(router)));
    MoleLinear<double, Device> layer(W, c, experts, router);
    if (std::holds_alternative<GateOptions>(router))
      layer.gate().weight.assign(noise<double>(layer.gate().weight.shape(), 4));
    const auto out = layer(x, mask);
    CHECK(worst_error(out.y, doubles(with_all(layer, x, W, c, out.gate.weights))) < 1e-12);
    CHECK(worst_error(out.y, doubles(linear(x, W, c))) > 0.1);
  }
  // A start at e = 0: all gates are equal, and the first k are chosen as the weights say.
  MoleLinear<double, Device> fresh(W, c, experts, GateOptions{.top_k = 2});
  const auto out = fresh(x);
  CHECK(doubles(slice(out.gate.weights, 0, 1, 2)) == Row{.5, .5, 0, 0, 0, 0});
  CHECK(worst_error(out.y, doubles(with_all(fresh, x, W, c, out.gate.weights))) < 1e-12);
}

TEST_CASE_TEMPLATE("A negative scaling is chosen before those that are left out", T, float, double) {
  const auto g = Tensor<T, Device>::from({2, 4}, {0, -3, 0, 1, 2, 0, 0, -1});
  const auto chosen = choose_experts(g, 2);
  CHECK(chosen.size() == 2);
  CHECK(chosen.columns.to_host() == std::vector<Index>{1, 3, 0, 3});
  CHECK(doubles(chosen.weights) == Row{-3, 1, 2, -1});
}
