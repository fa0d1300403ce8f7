// Tensors that share one piece of memory.

#include <doctest/doctest.h>

#include <mole/autodiff/adjacent.hpp>
#include <mole/autodiff/backward.hpp>
#include <mole/autodiff/record.hpp>
#include <mole/ops/arithmetic.hpp>
#include <mole/ops/reduce.hpp>

#include "testing.hpp"

using namespace mole;
using namespace mole::testing;

TEST_CASE_TEMPLATE("Adjacent tensors follow each other in memory, and are written apart", T, float, double) {
  const auto parts = empty_adjacent<T, Device>({{2, 3}, {4}, {}});
  REQUIRE(parts.size() == 3);
  CHECK(parts[0].shape() == Shape{2, 3});
  CHECK(parts[1].data() == parts[0].data() + 6);
  CHECK(parts[2].data() == parts[1].data() + 4);
  CHECK(are_adjacent(parts));
  for (std::size_t i = 0; i < parts.size(); ++i) parts[i].fill(T(i));
  CHECK(parts[0].to_host() == std::vector<T>(6, T(0)));
  CHECK(parts[1].to_host() == std::vector<T>(4, T(1)));
  CHECK(parts[2].item() == T(2));
  CHECK_FALSE(are_adjacent<T, Device>({parts[0], parts[2]}));
  CHECK_FALSE(are_adjacent<T, Device>({parts[1], parts[0]}));
}

TEST_CASE("Copies that are adjacent have the values of what they copy, off the tape") {
  const auto a = noise<double>({2, 3}, 1).set_requires_grad(), b = noise<double>({5}, 2);
  const auto copies = copy_adjacent<double, Device>({a, b});
  CHECK(are_adjacent(copies));
  CHECK(copies[0].to_host() == a.to_host());
  CHECK(copies[1].to_host() == b.to_host());
  CHECK_FALSE(copies[0].requires_grad());
}

TEST_CASE("The memory of adjacent tensors is kept until the last of them is gone") {
  const auto before = buffer_stats<Device>().in_use;
  auto parts = empty_adjacent<double, Device>({{100}, {100}});
  const auto both = buffer_stats<Device>().in_use;
  CHECK(both >= before + 1600);
  parts[1].fill(3);
  parts.erase(parts.begin());
  CHECK(buffer_stats<Device>().in_use == both);
  CHECK(parts[0].to_host() == std::vector<double>(100, 3.0));
  parts.clear();
  CHECK(buffer_stats<Device>().in_use == before);
}

TEST_CASE("A gradient that is adjacent to another is added to without touching it") {
  auto x = noise<double>({4}, 1).set_requires_grad(), y = noise<double>({4}, 2).set_requires_grad();
  const auto pair = record({x, y}, Tensor<double, Device>::zeros({4}), [](const auto&, const auto& G) {
    auto gradients = copy_adjacent<double, Device>({G, G});
    return std::array{gradients[0], gradients[1]};
  });
  backward(sum(pair) + sum(x) + sum(y * 2.0));
  CHECK(x.grad().to_host() == std::vector<double>(4, 2.0));
  CHECK(y.grad().to_host() == std::vector<double>(4, 3.0));
}

TEST_CASE("A part that its buffer does not hold is an error") {
  const auto whole = std::make_shared<const Buffer<float, Device>>(10);
  CHECK(lacks<ShapeError>([&] { Buffer<float, Device>(whole, 8, 3); }, {"8", "11", "10"}) == "");
  CHECK(lacks<ShapeError>([&] { Buffer<float, Device>(whole, -1, 3); }, {"-1"}) == "");
}
