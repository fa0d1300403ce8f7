// Matrix products against three loops.

#include <doctest/doctest.h>

#include <mole/mole.hpp>

#include "testing.hpp"

using namespace mole;
using namespace mole::testing;

TEST_CASE_TEMPLATE("matmul with any transposes and batches equals three loops", T, float, double) {
  struct Batch {
    std::vector<Index> a, b;
  };
  for (const auto& [batch_a, batch_b] :
       {Batch{{}, {}}, {{3}, {3}}, {{2, 2}, {2, 2}}, {{4}, {}}, {{}, {4}}, {{1}, {1}}})
    for (const auto& [m, k, n] : {std::array<Index, 3>{5, 7, 3}, {1, 9, 1}, {17, 1, 2}, {3, 0, 4}})
      for (int flags = 0; flags < 4; ++flags) {
        const bool ta = flags & 1, tb = flags & 2;
        auto sa = batch_a, sb = batch_b;
        sa.insert(sa.end(), {ta ? k : m, ta ? m : k});
        sb.insert(sb.end(), {tb ? n : k, tb ? k : n});
        const auto a = noise<T>(Shape(sa), 1), b = noise<T>(Shape(sb), 2);
        CAPTURE(a.shape());
        CAPTURE(b.shape());
        CAPTURE(flags);
        const auto va = doubles(a), vb = doubles(b);
        auto leading = batch_a.size() > 0 ? batch_a : batch_b;
        const Index count = Shape(leading).size();
        std::vector<double> expected;
        for (Index s = 0; s < count; ++s)
          for (Index i = 0; i < m; ++i)
            for (Index j = 0; j < n; ++j) {
              double dot = 0;
              for (Index l = 0; l < k; ++l) {
                const Index at = (batch_a.empty() ? 0 : s * m * k) + (ta ? l * m + i : i * k + l);
                const Index bt = (batch_b.empty() ? 0 : s * k * n) + (tb ? j * k + l : l * n + j);
                dot += va[static_cast<std::size_t>(at)] * vb[static_cast<std::size_t>(bt)];
              }
              expected.push_back(dot);
            }
        leading.insert(leading.end(), {m, n});
        const auto y = matmul(a, b, Transpose(ta), Transpose(tb));
        CHECK(y.shape() == Shape(leading));
        CHECK(worst_error(y, expected) <= tight<T>);
      }
}

TEST_CASE_TEMPLATE("linear is x W^T + c for every row", T, float, double) {
  const auto x = noise<T>({2, 3, 4}, 1), W = noise<T>({5, 4}, 2), c = noise<T>({5}, 3);
  const auto vx = doubles(x), vW = doubles(W), vc = doubles(c);
  std::vector<double> plain, biased;
  for (std::size_t r = 0; r < 6; ++r)
    for (std::size_t o = 0; o < 5; ++o) {
      double dot = 0;
      for (std::size_t i = 0; i < 4; ++i) dot += vx[r * 4 + i] * vW[o * 4 + i];
      plain.push_back(dot);
      biased.push_back(dot + vc[o]);
    }
  CHECK(linear(x, W).shape() == Shape{2, 3, 5});
  CHECK(worst_error(linear(x, W), plain) <= tight<T>);
  CHECK(worst_error(linear(x, W, c), biased) <= tight<T>);
}

TEST_CASE("A frozen weight gets no gradient, and its product is never formed") {
  auto x = noise<float>({512, 8}, 1).set_requires_grad();
  const auto W = noise<float>({4096, 8}, 2);
  const auto y = linear(x, W);
  const auto G = Tensor<float, Device>::ones(y.shape());
  BufferPool<Device>::instance().reset_peak();
  const auto before = buffer_stats<Device>().in_use;
  backward(y, G);
  CHECK(buffer_stats<Device>().peak - before < 4096 * 8 * sizeof(float));
  CHECK_FALSE(W.grad().defined());
  CHECK(x.grad().shape() == x.shape());
}

TEST_CASE("Products of shapes that do not fit are refused by name") {
  using F = Tensor<float, Device>;
  const auto a = F::ones({2, 3}), b = F::ones({4, 5});
  CHECK(lacks<ShapeError>([&] { matmul(a, b); }, {"matmul", "[2, 3]", "[4, 5]", "inner"}) == "");
  CHECK(lacks<ShapeError>([&] { matmul(a, b, Transpose::yes); },
                          {"matmul", "[2, 3] (transposed)", "[4, 5]"}) == "");
  CHECK(lacks<ShapeError>([&] { matmul(a, F::ones({3})); }, {"matmul", "[2, 3]", "[3]"}) == "");
  CHECK(lacks<ShapeError>(
            [&] {
              matmul(F::ones({2, 2, 3}), F::ones({3, 3, 4}));
            },
            {"matmul", "batches", "[2, 2, 3]", "[3, 3, 4]"}) == "");
  CHECK(lacks<ShapeError>(
            [&] {
              matmul(F::ones({2, 1, 2, 3}), F::ones({2, 3, 4}));
            },
            {"matmul", "batches", "[2, 1, 2, 3]", "[2, 3, 4]"}) == "");
  CHECK(lacks<ShapeError>([&] { linear(a, b); }, {"linear", "[2, 3]", "[4, 5]"}) == "");
  CHECK(lacks<ShapeError>([&] { linear(F::ones({}), b); }, {"linear", "[]", "[4, 5]"}) == "");
  CHECK(lacks<ShapeError>([&] { linear(F::ones({5}), b, F::ones({5})); }, {"linear", "bias", "[4]", "[5]"}) ==
        "");
}
