// The cache of keys and values: what append() puts together, by one launch and by two ops.

#include <vector>

#include <doctest/doctest.h>
#include <mole/autodiff/backward.hpp>
#include <mole/nn/kv_cache.hpp>
#include <mole/ops/reduce.hpp>
#include <testing.hpp>

using namespace mole;
using namespace mole::testing;

namespace {

/// The processor, as a backend whose launches take longer than short copies.
struct Launches : Cpu {
  static constexpr const char* name = "cpu with launches";
  static inline int calls = 0;

  template <class F>
  static void for_each(Index n, const F& f) {
    ++calls;
    Cpu::for_each(n, f);
  }
};

}  // namespace

template <>
struct mole::GraphOf<Launches> {
  using type = int;
};

TEST_CASE_TEMPLATE("Where launches take long, keys and values are appended by one, with the same result", T,
                   float, double, mole::bf16) {
  for (const Index width : {3, 8}) {  // copied one by one, and together
    CAPTURE(width);
    BlockCache<T, Launches> one;
    BlockCache<T, Cpu> two;
    for (const Index tokens : {3, 1, 2}) {
      const Shape shape{2, tokens, width};
      const auto seed = static_cast<std::uint64_t>(tokens);
      auto k = noise<T, Cpu>(shape, seed), v = noise<T, Cpu>(shape, 10 + seed);
      auto k1 = Tensor<T, Launches>::from(shape, k.to_host()),
           v1 = Tensor<T, Launches>::from(shape, v.to_host());
      Launches::calls = 0;
      one.append(k1, v1);
      CHECK(Launches::calls == (tokens == 3 ? 0 : 1));
      two.append(k, v);
      CHECK(doubles(k1) == doubles(k));
      CHECK(doubles(v1) == doubles(v));
    }
  }
}

TEST_CASE_TEMPLATE("Keys and values of new tokens come behind those of their own sequence", T, float,
                   double) {
  for (const Index width : {3, 4}) {  // copied one by one, and together
    CAPTURE(width);
    BlockCache<T, Device> cache;
    std::vector<Tensor<T, Device>> all_keys, all_values;
    for (const Index tokens : {3, 1, 2}) {
      auto k = noise<T>({2, tokens, width}, 10 + static_cast<std::uint64_t>(tokens)),
           v = noise<T>({2, tokens, width}, 20 + static_cast<std::uint64_t>(tokens));
      all_keys.push_back(k);
      all_values.push_back(v);
      cache.append(k, v);
      CHECK(doubles(k) == doubles(concat<T, Device>(all_keys, 1)));
      CHECK(doubles(v) == doubles(concat<T, Device>(all_values, 1)));
      CHECK(doubles(cache.key) == doubles(k));
      CHECK(doubles(cache.value) == doubles(v));
    }
    CHECK(cache.length() == 6);
  }
}

TEST_CASE("Keys that the tape knows reach their gradients through the cache") {
  BlockCache<double, Device> cache;
  auto first = noise<double>({2, 3, 4}, 1), value = noise<double>({2, 3, 4}, 2);
  first.set_requires_grad();
  const auto leaf = first;
  cache.append(first, value);
  auto k = noise<double>({2, 1, 4}, 3), v = noise<double>({2, 1, 4}, 4);
  cache.append(k, v);
  const auto G = noise<double>({2, 4, 4}, 5);
  backward(sum(k * G));
  CHECK(doubles(leaf.grad()) == doubles(slice(G, 1, 0, 3)));
}

TEST_CASE("Keys of another width, or of other sequences, are not appended") {
  BlockCache<double, Device> cache;
  auto k = noise<double>({2, 3, 4}, 1), v = noise<double>({2, 3, 4}, 2);
  cache.append(k, v);
  for (const Shape& shape : {Shape{2, 1, 5}, Shape{1, 1, 4}}) {
    auto other = noise<double>(shape, 3), other_value = noise<double>(shape, 4);
    CHECK_THROWS_AS(cache.append(other, other_value), ShapeError);
    CHECK(cache.length() == 3);
  }
}
