// The reverse sweep: accumulation, sharing, consumption, long chains, and memory that comes back.

#include <doctest/doctest.h>

#include <array>
#include <vector>

#include <mole/mole.hpp>

#include "autodiff/tape.hpp"
#include "poison.hpp"
#include "testing.hpp"

using namespace mole;
using namespace mole::testing;

namespace {

using D = Tensor<double, Device>;

/// A small network with every kind of sharing, and one step of training it.
struct Network {
  Tensor<float, Device> W1 = noise<float>({16, 8}, 1).set_requires_grad(),
                        W2 = noise<float>({8, 16}, 2).set_requires_grad();
  Tensor<float, Device> c = noise<float>({16}, 3).set_requires_grad(),
                        w = Tensor<float, Device>::ones({8}).set_requires_grad();
  Generator generator{1};

  float step() {
    const auto x = noise<float>({4, 6, 8}, 5);
    const auto hidden = gelu(linear(rms_norm(x, w), W1, c));
    const auto y = linear(dropout(hidden, 0.1, generator.next()), W2) + x;
    const auto z = attention(y, y, y, {.heads = 2, .causal = true}) + y;
    const auto loss = cross_entropy(z, Tensor<Index, Device>::from({4, 6}, std::vector<Index>(24, 3)));
    backward(loss);
    for (const auto& parameter : {W1, W2, c, w}) {
      const NoGrad off;
      parameter.assign(parameter - parameter.grad() * 0.01f);
      parameter.zero_grad();
    }
    return loss.item();
  }
};

}  // namespace

TEST_CASE("A value used along two paths gets the sum of both gradients") {
  auto x = leaf({3}, 1);
  const auto a = x * 2.0, b = x * 3.0;
  backward(sum(a * b));
  const auto v = x.to_host();
  CHECK(worst_error(x.grad(), {12 * v[0], 12 * v[1], 12 * v[2]}) <= 1e-15);
}

TEST_CASE("An op that gets the same tensor twice adds up both gradients") {
  auto x = D::full({2}, 3).set_requires_grad();
  const auto grad_of = [&](const D& y) {
    x.zero_grad();
    backward(y, D::ones(y.shape()));
    return x.grad().to_host();
  };
  CHECK(grad_of(x + x) == std::vector<double>{2, 2});
  CHECK(grad_of((x + x) + x) == std::vector<double>{3, 3});
  CHECK(grad_of((x + 0.0) + (x + 0.0)) == std::vector<double>{2, 2});
  CHECK(grad_of(x - x) == std::vector<double>{0, 0});
  CHECK(grad_of(x * x) == std::vector<double>{6, 6});
  CHECK(grad_of(x / x) == std::vector<double>{0, 0});
  auto y = x;
  for (int i = 0; i < 10; ++i) y = y + y;
  CHECK(grad_of(y) == std::vector<double>{1024, 1024});
}

TEST_CASE("A gradient that two inputs share is not changed through one of them") {
  auto a = leaf({4, 4}, 1), b = leaf({4, 4}, 2);
  const auto W = noise<double>({4, 4}, 3);
  const auto G = noise<double>({4, 4}, 4);
  const auto kept = G.to_host();
  const auto early = linear(a, W);
  const auto y = a + b;
  backward(early + y, G);
  CHECK(b.grad().to_host() == kept);
  CHECK(G.to_host() == kept);
  CHECK(worst_error(a.grad(), doubles(G + matmul(G, W))) <= 1e-14);
}

TEST_CASE("Two leaves never share a gradient: an optimiser may change one in place") {
  auto a = leaf({3}, 1), b = leaf({3}, 2), c = leaf({3}, 3);
  const auto seed = D::ones({3});
  backward(reshape(a, {1, 3}) + reshape(b + c, {1, 3}), reshape(seed, {1, 3}));
  a.grad().fill(7);
  CHECK(b.grad().to_host() == std::vector<double>{1, 1, 1});
  b.grad().fill(8);
  CHECK(c.grad().to_host() == std::vector<double>{1, 1, 1});
  CHECK(seed.to_host() == std::vector<double>{1, 1, 1});
  a.zero_grad();
  backward(a, seed);
  a.grad().fill(9);
  CHECK(seed.to_host() == std::vector<double>{1, 1, 1});
}

TEST_CASE("Accumulation in place gives what fresh sums give, for every order of uses") {
  const auto W = noise<double>({4, 4}, 2), V = noise<double>({4, 4}, 3), G = noise<double>({3, 4}, 4);
  const auto expected = doubles(matmul(G, W) + matmul(G, V) + G);
  const std::vector<std::function<D(const D&)>> orders{
      [&](const D& x) { return linear(x, W) + linear(x, V) + x; },
      [&](const D& x) { return x + linear(x, W) + linear(x, V); },
      [&](const D& x) { return linear(x, W) + x + linear(x, V); },
      [&](const D& x) {
        return linear(x, W) + reshape(reshape(x, {12}), {3, 4}) + linear(x, V);
      }};
  for (const auto& f : orders)
    for (const bool result : {false, true}) {
      auto x = leaf({3, 4}, 1);
      backward(f(result ? x + 0.0 : x), G);
      CHECK(worst_error(x.grad(), expected) <= 1e-14);
    }
}

TEST_CASE("A gradient that the user holds does not change under further sweeps") {
  auto x = leaf({3, 4}, 1);
  const auto W = noise<double>({4, 4}, 2);
  backward(sum(linear(x, W)));
  const auto held = x.grad();
  const auto view = reshape(held, {12});
  const auto before = held.to_host();
  backward(sum(linear(x, W)));
  CHECK(held.to_host() == before);
  CHECK(view.to_host() == before);
  CHECK(worst_error(x.grad(), doubles(held * 2.0)) <= 1e-15);
}

TEST_CASE("Gradients add up over sweeps until they are zeroed") {
  auto x = leaf({2, 2}, 1);
  const auto W = D::ones({1, 2});
  for (const double sweep : {1.0, 2.0, 3.0}) {
    backward(sum(linear(x, W)));
    CHECK(x.grad().to_host() == std::vector<double>(4, sweep));
  }
  x.zero_grad();
  CHECK_FALSE(x.grad().defined());
  x.set_grad(D::full({2, 2}, 10));
  backward(sum(x));
  CHECK(x.grad().to_host() == std::vector<double>(4, 11.0));
}

TEST_CASE("One weight in many layers collects from all of them, and keeps no gradient on results") {
  auto W = leaf({4, 4}, 1);
  auto x = leaf({2, 4}, 2);
  auto y = x;
  std::vector<D> layers;
  for (int i = 0; i < 5; ++i) layers.push_back(y = tanh(linear(y, W)));
  backward(sum(y));
  for (const auto& layer : layers) CHECK_FALSE(layer.grad().defined());
  const auto f = [](const std::vector<D>& v) {
    auto z = v[1];
    for (int i = 0; i < 5; ++i) z = tanh(linear(z, v[0]));
    return z;
  };
  CHECK(grad_check<Device>(f, {W, x}).ok);
}

TEST_CASE("A graph is consumed by its sweep") {
  auto x = leaf({2}, 1);
  const auto shared = x * 2.0;
  const auto y = sum(shared), z = sum(shared * shared);
  backward(y);
  const auto before = x.grad().to_host();
  CHECK(lacks<ArgumentError>([&] { backward(y); }, {"backward", "consumed"}) == "");
  CHECK(lacks<ArgumentError>([&] { backward(z); }, {"backward", "consumed"}) == "");
  CHECK(x.grad().to_host() == before);
  CHECK_FALSE(y.grad().defined());
  CHECK_FALSE(shared.grad().defined());
}

TEST_CASE("backward says what it cannot start from") {
  auto x = leaf({2, 3}, 1);
  CHECK(lacks<ShapeError>([&] { backward(x * 2.0); }, {"backward", "[2, 3]"}) == "");
  CHECK(lacks<ShapeError>(
            [&] {
              backward(x * 2.0, D::ones({3, 2}));
            },
            {"backward", "[2, 3]", "[3, 2]"}) == "");
  CHECK(lacks<ArgumentError>([&] { backward(D::scalar(1)); }, {"backward", "requires a gradient"}) == "");
  CHECK(lacks<ArgumentError>([&] { backward(D()); }, {"backward"}) == "");
}

TEST_CASE("A pullback that returns the wrong number or shape of gradients is caught") {
  auto x = leaf({2}, 1);
  const auto three = record({x}, D::ones({2}), [](const D&, const D&) { return D::ones({3}); });
  CHECK(lacks<ShapeError>([&] { backward(three, D::ones({2})); }, {"backward", "[3]", "[2]"}) == "");
  const auto two = record({x}, D::ones({2}), [](const D&, const D& G) { return std::array{G, G}; });
  CHECK(lacks<ArgumentError>([&] { backward(two, D::ones({2})); }, {"backward", "2", "1"}) == "");
}

TEST_CASE("A sweep that a pullback broke off leaves no gradient behind on what it had not reached") {
  auto x = leaf({2}, 1);
  const auto a = x * 2.0;
  const auto pair = record({x}, std::array{x.detach() + 1.0, x.detach() + 2.0},
                           [](const auto& G, bool) { return G[0].defined() ? G[0] : G[1]; });
  const auto broken =
      record({a}, D::ones({2}), [](const D&, const D&) -> D { throw ArgumentError("broken"); });
  // These are younger than `broken`: their gradients have come when it throws.
  const auto sent = sum(a * 3.0) + sum(pair[0] * 7.0);
  CHECK(lacks<ArgumentError>([&] { backward(sent + sum(broken)); }, {"broken"}) == "");
  CHECK_FALSE(a.grad().defined());
  backward(sum(a * 5.0));
  CHECK(x.grad().to_host() == std::vector<double>{10, 10});
  x.zero_grad();
  backward(sum(pair[1]));
  CHECK(x.grad().to_host() == std::vector<double>{1, 1});
}

TEST_CASE("Nothing is recorded under NoGrad, through detach, or from frozen tensors") {
  auto x = leaf({2}, 1);
  {
    const NoGrad off;
    CHECK_FALSE((x * 2.0).requires_grad());
    { const NoGrad nested; }
    CHECK_FALSE((x * 2.0).requires_grad());
  }
  CHECK((x * 2.0).requires_grad());
  CHECK_FALSE((x.detach() * 2.0).requires_grad());
  CHECK_FALSE((D::ones({2}) * 2.0).requires_grad());
  backward(sum(x * x.detach()));
  CHECK(x.grad().to_host() == x.to_host());
}

TEST_CASE("A very long chain of nodes is swept and destroyed without recursion") {
  auto x = D::scalar(1).set_requires_grad();
  const auto before = in_use();
  {
    auto y = x;
    for (int i = 0; i < links; ++i) y = y + 1.0;
    CHECK(y.item() == links + 1);
    backward(y);
    CHECK(x.grad().item() == 1);
  }
  x.zero_grad();
  CHECK(in_use() == before);
  {
    auto y = x;
    for (int i = 0; i < links; ++i) y = mul(y, y);
  }
  CHECK(in_use() == before);
  BufferPool<Device>::instance().release_cached();
}

TEST_CASE("A long chain with side branches that get no gradient is freed without recursion") {
  auto x = D::scalar(1).set_requires_grad();
  const auto before = in_use();
  {
    auto side = x;
    for (int i = 0; i < links / 5; ++i) side = side + 1.0;
    const auto y = record({x, side}, D::scalar(0), [side](const D&, const D& G) {
      return std::array{G, D()};
    });
    side = D();
    backward(y);
    CHECK(x.grad().item() == 1);
  }
  x.zero_grad();
  CHECK(in_use() == before);
}

TEST_CASE("A step leaves no memory behind: neither swept graphs nor dropped ones hold themselves") {
  Network network;
  network.step();
  const auto before = in_use();
  network.step();
  CHECK(in_use() == before);
  {
    const auto h = linear(noise<float>({4, 6, 8}, 1), network.W1);
    const auto y = softmax(h) * max(h, {2}, true) + layer_norm(h, network.c, network.c) / exp(h);
    CHECK(in_use() > before);
  }
  CHECK(in_use() == before);
}

TEST_CASE("A sweep frees what each node saved as it passes") {
  auto x = Tensor<float, Device>::ones({1 << 16}).set_requires_grad();
  auto y = x;
  for (int i = 0; i < 20; ++i) y = tanh(y);
  const auto held = in_use();
  BufferPool<Device>::instance().reset_peak();
  const auto root = sum(y);
  y = {};
  backward(root);
  CHECK(buffer_stats<Device>().peak - held < 5 * sizeof(float) << 16);
  CHECK(in_use() < held - 18 * sizeof(float) * (1 << 16));
}

TEST_CASE("A steady training loop allocates nothing, and learns") {
  const ReusesBlocks<Device> reuses;
  Network network;
  float first = network.step();
  for (int warm = 1; warm < 3; ++warm) network.step();
  const auto before = buffer_stats<Device>().allocations;
  float last = 0;
  for (int i = 0; i < 20; ++i) last = network.step();
  CHECK(buffer_stats<Device>().allocations == before);
  CHECK(last < first);
}
