// record: ops with one output and with several, on the tape and off it.

#include <doctest/doctest.h>

#include <array>
#include <functional>
#include <memory>
#include <vector>

#include <mole/mole.hpp>

#include "autodiff/tape.hpp"
#include "testing.hpp"

using namespace mole;
using namespace mole::testing;

namespace {

using D = Tensor<double, Device>;

/// What the pullback of several() was called with.
struct Calls {
  int number = 0;
  std::vector<std::vector<bool>> defined;  ///< which gradients had come, call by call
  std::vector<bool> last;
};

/// p = a b, q = a + b and r = tanh a, of one op with one pullback.
std::array<D, 3> several(const D& a, const D& b, const std::shared_ptr<Calls>& calls = nullptr) {
  const D p = a.detach() * b.detach(), q = a.detach() + b.detach(), r = tanh(a.detach());
  return record({a, b}, std::array{p, q, r},
                [a = a.detach(), b = b.detach(), r = r.detach(), calls](const auto& G, bool last) {
                  if (calls) {
                    ++calls->number;
                    calls->defined.push_back({G[0].defined(), G[1].defined(), G[2].defined()});
                    calls->last.push_back(last);
                  }
                  auto da = D::zeros(a.shape()), db = D::zeros(b.shape());
                  if (G[0].defined()) da = da + G[0] * b, db = db + G[0] * a;
                  if (G[1].defined()) da = da + G[1], db = db + G[1];
                  if (G[2].defined()) da = da + G[2] * ((r * r) * -1.0 + 1.0);
                  return std::array{da, db};
                });
}

/// The same by three ops.
std::array<D, 3> apart(const D& a, const D& b) { return {a * b, a + b, tanh(a)}; }

using Outputs = std::array<D, 3>;
using Reading = std::function<D(const Outputs&)>;

/// Readings of some outputs, in different orders, once or more often.
std::vector<Reading> readings() {
  const auto u = noise<double>({3}, 71), v = noise<double>({3}, 72), w = noise<double>({3}, 73);
  return {[=](const Outputs& y) { return sum(y[0] * u) + sum(y[1] * v) + sum(y[2] * w); },
          [=](const Outputs& y) { return sum(y[2] * w) + sum(y[0] * u); },
          [=](const Outputs& y) { return sum(y[1] * v); },
          [=](const Outputs& y) { return sum(y[2]); },
          [=](const Outputs& y) { return sum(y[0] * y[1] * y[2]); },
          [=](const Outputs& y) { return sum(y[1] * y[1]) + sum(y[1] * u) + sum(tanh(y[0])) * sum(y[0]); },
          [=](const Outputs& y) { return sum(tanh(y[0]) * y[2]) + sum(y[2] * v); }};
}

}  // namespace

TEST_CASE("The pullback of several outputs is right, whichever are read, in whatever order and how often") {
  for (const auto& reading : readings()) {
    const auto result = grad_check<Device>([&](const auto& in) { return reading(several(in[0], in[1])); },
                                           {noise<double>({3}, 1), noise<double>({3}, 2)});
    CAPTURE(result.where);
    CHECK(result.ok);
    CHECK(result.compared == 6);
  }
}

TEST_CASE("One op with several outputs gives what several ops give, under further ops on both sides") {
  for (const auto& reading : readings()) {
    const auto gradients = [&](auto op) {
      auto a = leaf({3}, 1), b = leaf({3}, 2);
      const auto h = tanh(a * b);
      backward(reading(op(h, b)) + sum(h) + sum(b * a));
      return std::vector{doubles(a.grad()), doubles(b.grad())};
    };
    const auto found = gradients([](const D& a, const D& b) { return several(a, b); });
    const auto expected = gradients([](const D& a, const D& b) { return apart(a, b); });
    CHECK(worst_error(found[0], expected[0]) <= 1e-14);
    CHECK(worst_error(found[1], expected[1]) <= 1e-14);
  }
}

TEST_CASE("The pullback runs once, when all gradients have come, and is told which have not") {
  auto a = leaf({3}, 1), b = leaf({3}, 2);
  const auto calls = std::make_shared<Calls>();
  {
    auto [p, q, r] = several(a, b, calls);
    // The first reading is much younger than the second: the op waits for both.
    const auto early = sum(q);
    auto late = p;
    for (int i = 0; i < 5; ++i) late = tanh(late);
    const auto y = sum(late) + early;
    p = q = r = late = D();
    backward(y);
  }
  CHECK(calls->number == 1);
  CHECK(calls->defined == std::vector<std::vector<bool>>{{true, true, false}});
  CHECK(calls->last == std::vector<bool>{true});
}

TEST_CASE("An output that was read often has one gradient, the sum") {
  auto a = leaf({3}, 1), b = leaf({3}, 2);
  std::vector<double> sent;
  const auto [y, z] = record({a, b}, std::array{D::ones({3}), D::ones({3})}, [&sent](const auto& G, bool) {
    sent = G[0].to_host();
    return std::array{G[0], D()};
  });
  backward(sum(y + y) + sum(y * 3.0));
  CHECK(sent == std::vector<double>(3, 5.0));
  CHECK(a.grad().to_host() == sent);
  CHECK_FALSE(b.grad().defined());
  CHECK_FALSE(y.grad().defined());
}

TEST_CASE("A vector of outputs has as many as there are") {
  auto x = leaf({4, 2}, 1);
  std::vector<D> rows;
  for (Index i = 0; i < 4; ++i) rows.push_back(slice(x.detach(), 0, i, i + 1));
  rows = record({x}, rows, [](const auto& G, bool) {
    std::vector<D> parts;
    for (const auto& g : G) parts.push_back(g.defined() ? g : D::zeros({1, 2}));
    return concat(parts, 0);
  });
  REQUIRE(rows.size() == 4);
  backward(sum(rows[3] * 3.0) + sum(rows[1] * 2.0));
  CHECK(x.grad().to_host() == std::vector<double>{0, 0, 2, 2, 0, 0, 3, 3});
}

TEST_CASE("Outputs of one op can be read back by one backward() after another, each of them once") {
  auto a = leaf({3}, 1), b = leaf({3}, 2);
  const auto calls = std::make_shared<Calls>();
  const auto y = several(a, b, calls);
  backward(sum(y[1]));
  CHECK(a.grad().to_host() == std::vector<double>(3, 1.0));
  CHECK(lacks<ArgumentError>([&] { backward(sum(y[1])); }, {"backward", "consumed"}) == "");
  CHECK(lacks<ArgumentError>([&] { backward(y[1], D::ones({3})); }, {"backward", "consumed"}) == "");
  backward(sum(y[0]) + sum(y[2]));
  CHECK(calls->defined == std::vector<std::vector<bool>>{{false, true, false}, {true, false, true}});
  CHECK(calls->last == std::vector<bool>{false, true});

  auto a2 = leaf({3}, 1), b2 = leaf({3}, 2);
  const auto all = apart(a2, b2);
  backward(sum(all[0]) + sum(all[1]) + sum(all[2]));
  CHECK(worst_error(a.grad(), doubles(a2.grad())) <= 1e-15);
  CHECK(worst_error(b.grad(), doubles(b2.grad())) <= 1e-15);
  for (const auto& output : y)
    CHECK(lacks<ArgumentError>([&] { backward(output, D::ones({3})); }, {"backward", "consumed"}) == "");
}

TEST_CASE("What lies behind an op is consumed by the first sweep through it") {
  auto a = leaf({3}, 1), b = leaf({3}, 2);
  const auto y = several(tanh(a), b);
  backward(sum(y[0]));
  const auto before = a.grad().to_host();
  CHECK(lacks<ArgumentError>([&] { backward(sum(y[1])); }, {"backward", "consumed"}) == "");
  CHECK(a.grad().to_host() == before);
}

TEST_CASE("backward starts from one output of several") {
  auto a = leaf({3}, 1), b = leaf({3}, 2);
  const auto y = several(a, b);
  backward(y[0], D::full({3}, 2));
  CHECK(worst_error(a.grad(), doubles(b * 2.0)) <= 1e-15);
  CHECK(worst_error(b.grad(), doubles(a * 2.0)) <= 1e-15);
}

TEST_CASE("An op with several outputs adds to a gradient in place where nobody else holds it") {
  const auto W = noise<double>({4, 4}, 3), V = noise<double>({4, 4}, 4), G = noise<double>({2, 4}, 5);
  const void* target = nullptr;
  const auto both = [&](const D& x) {
    return record({x}, std::array{linear(x.detach(), W), linear(x.detach(), V)},
                  [&, x](const auto& sent, bool) {
                    const GradTarget to(x);
                    target = to.beta ? to.tensor.data() : nullptr;
                    const auto dx = matmul(sent[0], W) + matmul(sent[1], V);
                    transform<Device>(dx.size(), functor::Add{}, to.tensor.data(),
                                      to.beta ? to.tensor.data() : D::zeros(dx.shape()).data(), dx.data());
                    return to.tensor;
                  });
  };
  for (const bool earlier : {false, true}) {
    auto x = leaf({2, 4}, 1);
    if (earlier) backward(sum(linear(x, W)));
    const auto before = earlier ? doubles(x.grad()) : std::vector<double>(8);
    const void* const held = earlier ? x.grad().data() : nullptr;
    const auto [y, z] = both(x);
    backward(y + z, G);
    CHECK(target == held);
    auto expected = doubles(matmul(G, W) + matmul(G, V));
    for (std::size_t i = 0; i < expected.size(); ++i) expected[i] += before[i];
    CHECK(worst_error(x.grad(), expected) <= 1e-14);
  }
}

TEST_CASE("A pullback of several outputs that returns the same gradient for two inputs keeps them apart") {
  auto a = leaf({3}, 1), b = leaf({3}, 2);
  const auto [y, z] = record({a, b}, std::array{D::ones({3}), D::ones({3})}, [](const auto& G, bool) {
    return std::array{G[0], G[0]};
  });
  backward(sum(y));
  a.grad().fill(7);
  CHECK(b.grad().to_host() == std::vector<double>(3, 1.0));
}

TEST_CASE("What an op with several outputs has kept is freed with its last sweep or its last output") {
  auto a = leaf({1000}, 1), b = leaf({1000}, 2);
  const auto before = in_use();
  {
    const auto y = several(a, b);
    CHECK(in_use() > before);
  }
  CHECK(in_use() == before);
  {
    auto y = several(a, b);
    const auto held = in_use();
    y[2] = D();
    y[1] = D();
    CHECK(in_use() < held);
    backward(sum(y[0]));
  }
  a.zero_grad();
  b.zero_grad();
  CHECK(in_use() == before);

  const auto kept = std::make_shared<int>(0);
  const auto record_with = [&] {
    return record({a}, std::array{D::ones({1}), D::ones({1})}, [kept](const auto&, bool) { return D(); });
  };
  auto y = record_with();
  CHECK(kept.use_count() == 2);
  backward(y[0]);
  CHECK(kept.use_count() == 2);
  backward(y[1]);
  CHECK(kept.use_count() == 1);
  y = record_with();
  backward(y[0]);
  y[1] = D();
  CHECK(kept.use_count() == 1);
}

TEST_CASE("A very long chain of ops with two outputs is swept and destroyed without recursion") {
  auto x = D::scalar(1).set_requires_grad();
  const auto before = in_use();
  const auto link = [](const D& a, const D& b) {
    return record({a, b}, std::array{a.detach() + 1.0, b.detach()}, [](const auto& G, bool) {
      return std::array{G[0], G[1]};
    });
  };
  {
    std::array y{x + 0.0, x + 0.0};
    for (int i = 0; i < links / 2; ++i) y = link(y[0], y[1]);
    CHECK(y[0].item() == links / 2 + 1);
    backward(y[0] + y[1]);
    CHECK(x.grad().item() == 2);
  }
  x.zero_grad();
  CHECK(in_use() == before);
  {
    std::array y{x + 0.0, x + 0.0};
    for (int i = 0; i < links / 2; ++i) y = link(y[0], y[1]);
  }
  CHECK(in_use() == before);
  {
    // One output of each is read and the other dies at once.
    auto y = x + 0.0;
    for (int i = 0; i < links / 2; ++i) y = link(y, x)[0];
    backward(y);
    CHECK(x.grad().item() == 1);
  }
  x.zero_grad();
  CHECK(in_use() == before);
  BufferPool<Device>::instance().release_cached();
}

TEST_CASE("Several outputs are off the tape under NoGrad and of frozen inputs") {
  auto a = leaf({3}, 1);
  const auto frozen = several(a.detach(), a.detach());
  const NoGrad off;
  const auto unrecorded = several(a, a);
  for (const auto& y : {frozen[0], frozen[2], unrecorded[0], unrecorded[1]}) CHECK_FALSE(y.requires_grad());
}

TEST_CASE("An output of several is a result: it cannot be marked as a leaf") {
  auto a = leaf({3}, 1);
  auto y = several(a, a)[0];
  CHECK(y.requires_grad());
  CHECK(lacks<ArgumentError>([&] { y.set_requires_grad(false); }, {"leaf"}) == "");
}

TEST_CASE("record refuses an output that is undefined, on the tape, or there twice, and no output at all") {
  auto a = leaf({3}, 1);
  const auto one = [](const D&, const D& G) { return G; };
  const auto two = [](const auto& G, bool) { return G[0]; };
  CHECK(lacks<ArgumentError>([&] { record({a}, D(), one); }, {"record", "undefined"}) == "");
  CHECK(lacks<ArgumentError>([&] { record({a}, a, one); }, {"record", "detach()"}) == "");
  CHECK(lacks<ArgumentError>([&] { record({a}, a * 2.0, one); }, {"record", "detach()"}) == "");
  CHECK(lacks<ArgumentError>(
            [&] {
              record({a}, std::array{D::ones({3}), D()}, two);
            },
            {"record", "undefined"}) == "");
  CHECK(lacks<ArgumentError>(
            [&] {
              record({a}, std::array{D::ones({3}), a}, two);
            },
            {"record", "detach()"}) == "");
  const auto y = D::ones({3});
  CHECK(lacks<ArgumentError>([&] { record({a}, std::array{y, y}, two); }, {"record", "new tensor"}) == "");
  CHECK(lacks<ArgumentError>([&] { record({a}, std::vector<D>(), two); }, {"record", "output"}) == "");
}

TEST_CASE("A pullback of several outputs that returns the wrong number or shape of gradients is caught") {
  auto a = leaf({2}, 1);
  const auto outputs = [] { return std::array{D::ones({2}), D::ones({2})}; };
  const auto three = record({a}, outputs(), [](const auto&, bool) { return D::ones({3}); });
  CHECK(lacks<ShapeError>([&] { backward(sum(three[0])); }, {"backward", "[3]", "[2]"}) == "");
  const auto pair = record({a}, outputs(), [](const auto& G, bool) { return std::array{G[0], G[1]}; });
  CHECK(lacks<ArgumentError>([&] { backward(sum(pair[0])); }, {"backward", "2", "1"}) == "");
}
