// expert_shares and balance_loss: eq. 14-15 against the golden, closed forms and finite differences.

#include <cmath>
#include <set>

#include <doctest/doctest.h>
#include <loss/golden.hpp>
#include <mole/autodiff/backward.hpp>
#include <mole/autodiff/grad_check.hpp>
#include <mole/loss/balance.hpp>
#include <mole/ops/softmax.hpp>

using mole::Index;
using mole::testing::Device;

namespace {

template <class T>
using Sample = mole::GateSample<T, Device>;
using D = mole::Tensor<double, Device>;

D random(mole::Shape shape, std::uint64_t stream) { return D::randn(shape, {7, stream}); }

/// Ops on the tape behind y.
template <class T>
std::size_t tape_nodes(const mole::Tensor<T, Device>& y) {
  std::set<const void*> seen;
  std::vector<std::shared_ptr<mole::detail::Node<T, Device>>> pending{y.node_pointer()};
  while (!pending.empty()) {
    const auto node = pending.back();
    pending.pop_back();
    if (!node || !node->pullback || !seen.insert(node.get()).second) continue;
    for (const auto& input : node->inputs) pending.push_back(input);
  }
  return seen.size();
}

}  // namespace

TEST_CASE_TEMPLATE("The balance loss and its gradients equal the golden", T, float, double) {
  const Golden golden("balance_loss");
  const auto logits = golden.tensor<T>("logits").set_requires_grad(),
             tau = golden.tensor<T>("tau").set_requires_grad();
  const Index M = logits.size(0), N = logits.size(2);
  const auto gates = softmax(div(logits, reshape(tau, mole::Shape{M, 1, 1})));
  std::vector<Sample<T>> samples;
  for (Index i = 0; i < M; ++i)
    samples.push_back({reshape(slice(gates, 0, i, i + 1), mole::Shape{logits.size(1), N}), {}, {}});
  const auto loss = balance_loss(samples, N);
  CHECK(loss.rank() == 0);
  CHECK(golden.error(gates, "gate") <= golden_tolerance<T>);
  CHECK(golden.error(expert_shares(samples, N).q, "q") <= golden_tolerance<T>);
  CHECK(golden.error(loss, "loss") <= golden_tolerance<T>);
  backward(loss);
  CHECK(golden.error(logits.grad(), "dlogits") <= golden_tolerance<T>);
  CHECK(golden.error(tau.grad(), "dtau") <= golden_tolerance<T>);
}

TEST_CASE_TEMPLATE("Uniform gates over 128 experts give N log N, where the product would underflow", T, float,
                   double) {
  const Index n = 128;
  auto gate = mole::Tensor<T, Device>::full({3, 5, n}, T(1) / T(n)).set_requires_grad();
  const auto loss = balance_loss(std::vector<Sample<T>>{{gate, {}, {}}}, n);
  CHECK(static_cast<double>(loss.item()) == doctest::Approx(128 * std::log(128.0)).epsilon(1e-5));
  backward(loss);
  // -1/q_i / rows, with q_i = 1/128 and 15 rows
  for (const T g : gate.grad().to_host())
    CHECK(static_cast<double>(g) == doctest::Approx(-128.0 / 15).epsilon(1e-5));
}

TEST_CASE_TEMPLATE("Shares average counted rows first, then the gates that hold the expert", T, float,
                   double) {
  using Tensor = mole::Tensor<T, Device>;
  const std::vector<Sample<T>> samples{
      {Tensor::from({1, 3, 2}, {T(.5), T(.5), T(.25), T(.75), T(9), T(9)}),
       Tensor::from({1, 3}, {1, 1, 0}),
       {2, 0}},
      {Tensor::from({2, 2}, {T(.125), T(.875), T(.375), T(.625)}), {}, {0, 3}}};
  const auto shares = expert_shares(samples, 5);
  CHECK(shares.q.to_host() == std::vector<T>{T((.625 + .25) / 2), 0, T(.375), T(.75), 0});
  CHECK(shares.held.to_host() == std::vector<T>{1, 0, 1, 1, 0});
  CHECK(static_cast<double>(balance_loss(samples, 5).item()) ==
        doctest::Approx(-std::log(.4375) - std::log(.375) - std::log(.75)));
}

TEST_CASE_TEMPLATE("A gate without a counted row changes nothing", T, float, double) {
  using Tensor = mole::Tensor<T, Device>;
  auto idle = Tensor::from({2, 2}, {T(.5), T(.5), T(.5), T(.5)}).set_requires_grad();
  const Sample<T> one{Tensor::from({1, 2}, {T(.25), T(.75)}), {}, {}}, none{idle, Tensor::zeros({2}), {}};
  const auto loss = balance_loss(std::vector{one, none}, 2);
  CHECK(loss.item() == balance_loss(std::vector{one}, 2).item());
  backward(loss);
  CHECK(idle.grad().to_host() == std::vector<T>(4, T(0)));
  CHECK(balance_loss(std::vector{none}, 2).item() == T(0));
}

TEST_CASE("The gradients of shares and loss equal finite differences, with masks and missing experts") {
  const auto mask = D::from({2, 3}, {1, 1, 0, 1, 0, 0});
  auto samples = [&](const std::vector<D>& x) {
    return std::vector<Sample<double>>{{softmax(x[0]), mask, {1, 4, 2}}, {softmax(x[1]), {}, {4, 0}}};
  };
  const std::vector<D> inputs{random({2, 3, 3}, 0), random({2, 2}, 1)};
  const auto q =
      mole::grad_check<Device>([&](const auto& x) { return expert_shares(samples(x), 6).q; }, inputs);
  CHECK_MESSAGE(q.ok, q.where);
  const auto loss =
      mole::grad_check<Device>([&](const auto& x) { return balance_loss(samples(x), 6); }, inputs);
  CHECK_MESSAGE(loss.ok, loss.where);
}

TEST_CASE("Only gates that ask for a gradient get one") {
  auto free = softmax(random({2, 3}, 2)), frozen = softmax(random({2, 3}, 3));
  free.set_requires_grad();
  backward(balance_loss(std::vector<Sample<double>>{{frozen, {}, {}}, {free, {}, {}}}, 3));
  CHECK(free.grad().defined());
  CHECK_FALSE(frozen.grad().defined());
}

TEST_CASE("A hundred gates put no more nodes on the tape than one") {
  auto nodes = [](std::uint64_t count) {
    std::vector<Sample<double>> samples;
    for (std::uint64_t i = 0; i < count; ++i)
      samples.push_back({softmax(random({2, 3}, i)).set_requires_grad(), {}, {}});
    return tape_nodes(balance_loss(samples, 3));
  };
  CHECK(nodes(1) >= 1);
  CHECK(nodes(100) == nodes(1));
  CHECK(nodes(100) <= 8);
}

TEST_CASE("Samples that do not fit are refused with the gate named") {
  using S = std::vector<Sample<double>>;
  const auto gate = D::full({2, 3}, 1. / 3);
  CHECK_THROWS_AS(balance_loss(S{}, 3), mole::ArgumentError);
  CHECK_THROWS_AS(balance_loss(S{{gate, {}, {}}}, 0), mole::ArgumentError);
  CHECK_THROWS_WITH_AS(balance_loss(S{{gate, {}, {}}}, 2),
                       doctest::Contains("gate 0 column 2 is expert 2 of 2"), mole::ArgumentError);
  CHECK_THROWS_WITH_AS(balance_loss(S{{gate, {}, {}}, {gate, {}, {0, -1, 2}}}, 3),
                       doctest::Contains("gate 1 column 1 is expert -1"), mole::ArgumentError);
  CHECK_THROWS_WITH_AS(balance_loss(S{{gate, {}, {0, 1, 0}}}, 3), doctest::Contains("names expert 0 twice"),
                       mole::ArgumentError);
  CHECK_THROWS_WITH_AS(balance_loss(S{{gate, {}, {0, 1}}}, 3), doctest::Contains("3 columns but 2 experts"),
                       mole::ShapeError);
  CHECK_THROWS_WITH_AS(balance_loss(S{{gate, D::ones({3}), {}}}, 3),
                       doctest::Contains("row mask of shape [2]"), mole::ShapeError);
  CHECK_THROWS_AS(balance_loss(S{{D::ones({3}), {}, {}}}, 3), mole::ShapeError);
  CHECK_THROWS_AS(balance_loss(S{{D::ones({0, 3}), {}, {}}}, 3), mole::ShapeError);
  CHECK_THROWS_AS(balance_loss(S{{D{}, {}, {}}}, 3), mole::ShapeError);
}
