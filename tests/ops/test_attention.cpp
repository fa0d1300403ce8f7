// Attention against the same made of matmul and softmax, one head at a time.

#include <doctest/doctest.h>

#include <mole/mole.hpp>

#include "testing.hpp"

using namespace mole;
using namespace mole::testing;

namespace {

template <class T>
Tensor<T, Device> composite(const Tensor<T, Device>& q, const Tensor<T, Device>& k,
                            const Tensor<T, Device>& v, const AttentionOptions<T, Device>& o) {
  const Index S = q.size(0), Lq = q.size(1), Lk = k.size(1), H = o.heads, d = q.size(2) / H;
  auto split = [&](const Tensor<T, Device>& x) {
    return permute(reshape(x, {S, x.size(1), H, d}), {0, 2, 1, 3});
  };
  auto scores = matmul(split(q), split(k), Transpose::no, Transpose::yes) * o.scale;
  if (o.bias.defined()) scores = scores + o.bias;
  auto mask = Tensor<T, Device>::ones({S, 1, Lq, Lk});
  if (o.key_mask.defined()) mask = mask * reshape(o.key_mask, {S, 1, 1, Lk});
  if (o.causal) {
    std::vector<T> see;
    for (Index i = 0; i < Lq; ++i)
      for (Index j = 0; j < Lk; ++j) see.push_back(j <= i + Lk - Lq ? T(1) : T(0));
    mask = mask * Tensor<T, Device>::from({Lq, Lk}, see);
  }
  return reshape(permute(matmul(softmax(scores, mask), split(v)), {0, 2, 1, 3}), {S, Lq, H * d});
}

}  // namespace

TEST_CASE_TEMPLATE("Attention and its gradients equal the composite ops", T, float, double) {
  struct Sizes {
    Index S, Lq, Lk, H, d;
  };
  for (const auto& [S, Lq, Lk, H, d] : {Sizes{2, 3, 3, 2, 4}, Sizes{3, 2, 7, 1, 5}, Sizes{1, 5, 5, 4, 1},
                                        Sizes{2, 1, 9, 3, 2}, Sizes{2, 33, 40, 2, 8}})
    for (const bool causal : {false, true})
      for (const bool with_bias : {false, true})
        for (const bool with_mask : {false, true}) {
          AttentionOptions<T, Device> options{.heads = H, .scale = T(0.6), .causal = causal};
          std::vector<Tensor<T, Device>> leaves{noise<T>({S, Lq, H * d}, 1), noise<T>({S, Lk, H * d}, 2),
                                                noise<T>({S, Lk, H * d}, 3), noise<T>({H, Lq, Lk}, 4)};
          for (auto& leaf : leaves) leaf.set_requires_grad();
          if (with_bias) options.bias = leaves[3];
          if (with_mask) {
            std::vector<T> keep;
            for (Index i = 0; i < S * Lk; ++i) keep.push_back(i % 4 == 2 ? T(0) : T(1));
            options.key_mask = Tensor<T, Device>::from({S, Lk}, keep);
          }
          const auto G = noise<T>({S, Lq, H * d}, 5);
          std::vector<std::vector<double>> results[2];
          for (const int way : {0, 1}) {
            for (auto& leaf : leaves) leaf.zero_grad();
            const auto y = way == 0 ? attention(leaves[0], leaves[1], leaves[2], options)
                                    : composite(leaves[0], leaves[1], leaves[2], options);
            backward(y, G);
            results[way].push_back(doubles(y));
            for (std::size_t i = 0; i < (with_bias ? 4 : 3); ++i)
              results[way].push_back(doubles(leaves[i].grad()));
          }
          for (std::size_t i = 0; i < results[0].size(); ++i)
            CHECK(worst_error(results[0][i], results[1][i]) <= 2 * tight<T>);
        }
}

TEST_CASE_TEMPLATE("A query that sees no key gets 0 and gives no gradient", T, float, double) {
  std::vector<Tensor<T, Device>> leaves{noise<T>({2, 3, 4}, 1), noise<T>({2, 3, 4}, 2),
                                        noise<T>({2, 3, 4}, 3)};
  for (auto& leaf : leaves) leaf.set_requires_grad();
  const auto mask = Tensor<T, Device>::from({2, 3}, {1, 1, 1, 0, 0, 0});
  const auto y = attention(leaves[0], leaves[1], leaves[2], {.heads = 2, .key_mask = mask});
  CHECK(slice(y, 0, 1, 2).to_host() == std::vector<T>(12, T(0)));
  backward(y, noise<T>(y.shape(), 4));
  for (const auto& leaf : leaves) {
    CHECK(slice(leaf.grad(), 0, 1, 2).to_host() == std::vector<T>(12, T(0)));
    for (const T v : leaf.grad().to_host()) CHECK(std::isfinite(v));
  }
}

TEST_CASE_TEMPLATE("Blocks of queries give the outputs and gradients of all of them", T, float, double) {
  for (const Index block : {1, 3, 7, 9})
    for (const Index window : {0, 4})
      for (const bool with_mask : {false, true}) {
        AttentionOptions<T, Device> options{
            .heads = 2, .scale = T(0.6), .causal = window > 0, .window = window};
        options.bias = noise<T>({2, 7, 8}, 4);
        if (with_mask)
          options.key_mask =
              Tensor<T, Device>::from({2, 8}, {1, 1, 0, 1, 1, 1, 0, 1, 1, 0, 1, 1, 1, 1, 1, 1});
        std::vector<Tensor<T, Device>> leaves{noise<T>({2, 7, 6}, 1), noise<T>({2, 8, 6}, 2),
                                              noise<T>({2, 8, 6}, 3)};
        for (auto& leaf : leaves) leaf.set_requires_grad();
        const auto G = noise<T>({2, 7, 6}, 5);
        const auto y = attention(leaves[0], leaves[1], leaves[2], options);
        backward(y, G);
        const detail::BlockedAttention<T, Device> blocks(leaves[0], leaves[1], leaves[2], options, window,
                                                         block);
        CHECK(worst_error(doubles(blocks.forward()), doubles(y)) <= tight<T>);
        const auto gradients = blocks.pullback(G, true, true, true);
        for (std::size_t i = 0; i < leaves.size(); ++i)
          CHECK(worst_error(doubles(gradients[i]), doubles(leaves[i].grad())) <= 2 * tight<T>);
        CHECK(!blocks.pullback(G, false, true, false)[0].defined());
      }
}

TEST_CASE("Attention of very many scores keeps none of them, and is the same") {
  // Each half is below the number from which attention goes by blocks, the whole is above.
  const Index L = 2900, half = L / 2;
  std::vector<Tensor<float, Device>> leaves{noise<float>({1, L, 8}, 1), noise<float>({1, L, 8}, 2),
                                            noise<float>({1, L, 8}, 3)};
  for (auto& leaf : leaves) leaf.set_requires_grad();
  const AttentionOptions<float, Device> options{.heads = 2, .scale = 0.5f};
  REQUIRE(2 * L * L >= detail::most_scores);
  REQUIRE(2 * half * L < detail::most_scores);
  const auto G = noise<float>({1, L, 8}, 4);
  std::vector<std::vector<double>> results[2];
  for (const int way : {0, 1}) {
    for (auto& leaf : leaves) leaf.zero_grad();
    const auto part = [&](Index first, Index last) {
      return attention(slice(leaves[0], 1, first, last), leaves[1], leaves[2], options);
    };
    const auto y = way == 0 ? part(0, L) : concat<float, Device>({part(0, half), part(half, L)}, 1);
    backward(y, G);
    results[way] = {doubles(y), doubles(leaves[0].grad()), doubles(leaves[1].grad()),
                    doubles(leaves[2].grad())};
  }
  for (std::size_t i = 0; i < results[0].size(); ++i)
    CHECK(worst_error(results[0][i], results[1][i]) <= 4 * tight<float>);
}

TEST_CASE("A causal query does not change when later keys do") {
  const auto q = noise<double>({1, 4, 6}, 1), k = noise<double>({1, 4, 6}, 2),
             v = noise<double>({1, 4, 6}, 3);
  const auto spoilt =
      concat<double, Device>({slice(k, 1, 0, 3), Tensor<double, Device>::full({1, 1, 6}, 50)}, 1);
  const AttentionOptions<double, Device> options{.heads = 3, .causal = true};
  const auto y = attention(q, k, v, options), z = attention(q, spoilt, v, options);
  CHECK(slice(y, 1, 0, 3).to_host() == slice(z, 1, 0, 3).to_host());
  CHECK(slice(y, 1, 3, 4).to_host() != slice(z, 1, 3, 4).to_host());
}

TEST_CASE("Attention to shapes that do not fit is refused") {
  using F = Tensor<float, Device>;
  const auto q = F::ones({2, 3, 4}), k = F::ones({2, 5, 4});
  const auto attend = [](const F& a, const F& b, const F& c, AttentionOptions<float, Device> options) {
    return [=] { attention(a, b, c, options); };
  };
  CHECK(lacks<ShapeError>(attend(q, F::ones({2, 5, 6}), k, {}), {"attention", "[2, 3, 4]", "[2, 5, 6]"}) ==
        "");
  CHECK(lacks<ShapeError>(attend(q, k, F::ones({2, 4, 4}), {}), {"attention", "[2, 5, 4]", "[2, 4, 4]"}) ==
        "");
  CHECK(lacks<ShapeError>(attend(q, F::ones({1, 5, 4}), F::ones({1, 5, 4}), {}),
                          {"attention", "[1, 5, 4]"}) == "");
  CHECK(lacks<ShapeError>(attend(q, k, k, {.heads = 3}), {"attention", "H = 3", "[2, 3, 4]"}) == "");
  CHECK(lacks<ShapeError>(attend(q, k, k, {.heads = 0}), {"attention", "H = 0"}) == "");
  CHECK(lacks<ShapeError>(attend(q, k, k, {.heads = 2, .bias = F::ones({2, 5, 3})}),
                          {"attention", "bias", "[2, 3, 5]", "[2, 5, 3]"}) == "");
  CHECK(lacks<ShapeError>(attend(q, k, k, {.key_mask = F::ones({2, 3})}),
                          {"attention", "key mask", "[2, 5]"}) == "");
  CHECK(lacks<ShapeError>(attend(k, q, q, {.causal = true}), {"attention", "causal", "3", "5"}) == "");
}
