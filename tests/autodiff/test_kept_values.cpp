// Which values the tape keeps: those that a pullback reads, and no others.

#include <doctest/doctest.h>

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include <mole/mole.hpp>

#include "autodiff/tape.hpp"
#include "testing.hpp"

using namespace mole;
using namespace mole::testing;

namespace {

using D = Tensor<double, Device>;
using KeptOp = std::function<D(const D&)>;

/// The sizes of the tests are powers of two, so that a pool's blocks are just as large as what they hold.
constexpr Index n_seqs = 4, n_tokens = 32, n_width = 64, n_ranks = 16, n_gates = 4,
                n_all = n_seqs * n_tokens * n_width;

/// Numbers that the tape keeps for op(x), once x, of this shape, and op's own value have gone.
Index kept_numbers(const KeptOp& op, const Shape& shape = {n_seqs, n_tokens, n_width}) {
  const auto x = leaf(shape, 1);
  const auto before = in_use();
  D end;
  {
    const D input = x + 0.0;
    end = op(input) * 1.0;
  }
  return static_cast<Index>((in_use() - before) / sizeof(double)) - end.size();
}

/// x^3, with a slope from both x and y. It does not say what it reads.
struct CubeOfBoth {
  MOLE_HD double operator()(double x) const { return x * x * x; }
  MOLE_HD double slope(double x, double y) const { return x == 0 ? 0 : 3 * y / x; }
};

/// What a layer with experts has.
struct KeptOperands {
  D W = noise<double>({n_width, n_width}, 11), c = noise<double>({n_width}, 12),
    A = noise<double>({n_ranks, n_width}, 13), Q = noise<double>({n_width, n_ranks}, 14),
    h = noise<double>({n_seqs, n_tokens, n_ranks}, 15), g = noise<double>({n_seqs, n_tokens, n_gates}, 16),
    F = noise<double>({n_ranks, n_gates}, 17), log_tau = D::zeros({});
  Tensor<Index, Device> expert =
      Tensor<Index, Device>::from({n_ranks}, {0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3});
};

}  // namespace

TEST_CASE("A chain of frozen layers and sums holds as many values as one of them, however long it is") {
  const auto W = noise<double>({n_width, n_width}, 2), c = noise<double>({n_width}, 3),
             K = noise<double>({n_width, n_width, 1, 1}, 4),
             V = noise<double>({n_seqs, n_tokens, n_tokens}, 5);
  const auto held = [&](int layers) {
    const auto x = leaf({n_seqs, n_tokens, n_width}, 1);
    const auto before = in_use();
    auto y = x + 0.0;
    for (int i = 0; i < layers; ++i) {
      y = linear(y, W, c) + y;
      y = reshape(conv2d(reshape(y, {n_seqs, 4, 8, n_width}), K, c), {n_seqs, n_tokens, n_width}) -
          dropout(y, 0.5, {1, 2});
      y = transpose(matmul(transpose(y), V)) * c;
    }
    return in_use() - before;
  };
  const auto one = held(1);
  CHECK(one >= n_all * sizeof(double));
  CHECK(held(40) == one);
}

TEST_CASE("Linear maps with frozen weights keep neither their input nor their value") {
  const KeptOperands o;
  const auto other = noise<double>({n_seqs, n_tokens, n_width}, 20),
             right = noise<double>({n_seqs, n_width, n_width}, 21);
  const auto kernel = noise<double>({n_width, n_width, 2, 2}, 22);
  const auto index = Tensor<Index, Device>::from({2}, {3, 1});
  const std::vector<std::pair<const char*, KeptOp>> ops{
      {"add", [&](const D& x) { return x + other; }},
      {"sub", [&](const D& x) { return other - x; }},
      {"mul", [&](const D& x) { return x * other; }},
      {"div", [&](const D& x) { return x / other; }},
      {"scale", [](const D& x) { return x * 3.0; }},
      {"shift", [](const D& x) { return x + 3.0; }},
      {"reshape",
       [](const D& x) {
         return reshape(x, {n_seqs * n_tokens, n_width});
       }},
      {"permute",
       [](const D& x) {
         return permute(x, {2, 0, 1});
       }},
      {"slice", [](const D& x) { return slice(x, 1, 0, n_tokens / 2); }},
      {"concat",
       [&](const D& x) {
         return concat<double, Device>({x, other}, 2);
       }},
      {"sum", [](const D& x) { return sum(x, {1}); }},
      {"mean", [](const D& x) { return mean(x, {1}); }},
      {"dropout",
       [](const D& x) {
         return dropout(x, 0.5, {1, 2});
       }},
      {"matmul", [&](const D& x) { return matmul(x, right); }},
      {"linear", [&](const D& x) { return linear(x, o.W, o.c); }},
      {"frozen_linear", [&](const D& x) { return frozen_linear(x, o.W, o.c); }},
      {"resize",
       [](const D& x) {
         return resize_nearest(reshape(x, {n_seqs, 4, 8, n_width}), 8, 8);
       }},
      {"repeat_heads", [](const D& x) { return repeat_heads(x, n_width / 2, 2); }},
      {"conv2d",
       [&](const D& x) {
         return conv2d(reshape(x, {n_seqs, 4, 8, n_width}), kernel, o.c, {.stride = 2});
       }},
      {"mixture", [&](const D& x) { return mixture(x, o.W, o.c, o.h, o.g, o.Q, o.expert); }}};
  for (const auto& [named, op] : ops) {
    const std::string name = named;
    CAPTURE(name);
    CHECK(kept_numbers(op) == 0);
  }
  CHECK(kept_numbers([&](const D& x) { return gather(x, index); }, {n_tokens, n_width}) == 0);
}

TEST_CASE("Of its input and its value an op keeps those that its pullback reads") {
  const auto w = noise<double>({n_width}, 2), c = noise<double>({n_width}, 3);
  const std::vector<std::pair<const char*, std::pair<KeptOp, Index>>> ops{
      {"relu", {[](const D& x) { return relu(x); }, n_all}},
      {"gelu", {[](const D& x) { return gelu(x); }, n_all}},
      {"silu", {[](const D& x) { return silu(x); }, n_all}},
      {"tanh", {[](const D& x) { return tanh(x); }, n_all}},
      {"square", {[](const D& x) { return square(x); }, n_all}},
      {"clamp", {[](const D& x) { return clamp(x, -1, 1); }, n_all}},
      {"glu", {[](const D& x) { return glu(x * 1.0, x * 2.0, functor::Gelu{}); }, 2 * n_all}},
      {"geglu", {[](const D& x) { return geglu(x); }, n_all}},
      {"softmax", {[](const D& x) { return softmax(x); }, n_all}},
      {"log_softmax", {[](const D& x) { return log_softmax(x); }, n_all}},
      {"unit_rows", {[](const D& x) { return unit_rows(x); }, n_all + n_seqs * n_tokens}},
      {"rms_norm", {[&](const D& x) { return rms_norm(x, w); }, n_all + n_seqs * n_tokens}},
      {"layer_norm", {[&](const D& x) { return layer_norm(x, w, c); }, n_all + n_seqs * n_tokens}},
      {"group_norm", {[&](const D& x) { return group_norm(x, 8, w, c); }, n_all + 2 * n_seqs * 8}},
      {"mul of both", {[](const D& x) { return (x * 1.0) * (x * 2.0); }, 2 * n_all}},
      {"div of both", {[](const D& x) { return (x * 1.0) / (x * 2.0); }, 2 * n_all}}};
  for (const auto& [named, op] : ops) {
    const std::string name = named;
    CAPTURE(name);
    CHECK(kept_numbers(op.first) == op.second);
  }
}

TEST_CASE("A functor that does not say what its slope reads gets both its input and its value") {
  CHECK(kept_numbers([](const D& x) { return map(x, CubeOfBoth{}); }) == 2 * n_all);
  CHECK(grad_check<Device>([](const auto& in) { return map(in[0], CubeOfBoth{}); }, {noise<double>({5}, 1)})
            .ok);
}

TEST_CASE("A layer whose weight trains keeps its input") {
  auto W = leaf({n_width, n_width}, 2), K = leaf({n_width, n_width, 2, 2}, 3);
  CHECK(kept_numbers([&](const D& x) { return linear(x, W); }) == n_all);
  CHECK(kept_numbers([&](const D& x) { return matmul(x, W); }) == n_all);
  CHECK(kept_numbers([&](const D& x) {
          return conv2d(reshape(x, {n_seqs, 4, 8, n_width}), K, {}, {.stride = 2});
        }) == n_all);
}

TEST_CASE("A mixture keeps the experts' outputs in rank space where its gate trains, and nothing for x") {
  const KeptOperands o;
  const auto layer = [&](const D& x, const D& g) {
    return mixture(x, o.W, o.c, frozen_linear(x, o.A), g, o.Q, o.expert);
  };
  CHECK(kept_numbers([&](const D& x) { return layer(x, o.g); }) == 0);
  auto g = o.g.detach();
  g.set_requires_grad();
  CHECK(kept_numbers([&](const D& x) { return layer(x, g); }) == n_seqs * n_tokens * n_ranks);
  auto F = o.F.detach();
  F.set_requires_grad();
  CHECK(kept_numbers([&](const D& x) {
          return gated_mixture(x, {o.W, o.c, o.A, o.Q, o.expert, F, o.log_tau, {}}).y;
        }) == n_seqs * n_tokens * (n_ranks + n_gates + 1));
}

TEST_CASE("Attention keeps q, k, v and what its softmax is made of again") {
  const Index heads = 2;
  const Index own = detail::has_attention_kernels<double, Device> ? n_all + n_seqs * heads * n_tokens
                                                                  : n_seqs * heads * n_tokens * n_tokens;
  CHECK(kept_numbers([&](const D& x) { return attention(x * 1.0, x * 2.0, x * 3.0, {.heads = heads}); }) ==
        3 * n_all + own);
}

TEST_CASE(
    "A value that somebody holds outlives the tape, and one that nobody holds does not change a gradient") {
  const auto W = noise<double>({8, 8}, 2), V = noise<double>({8, 8}, 3);
  std::vector<double> values, gradients;
  for (const bool held : {true, false}) {
    auto x = leaf({4, 8}, 1);
    D a = linear(x, W), b = tanh(a), c = linear(b, V), y = sum(b * c);
    const auto before = doubles(a);
    if (!held) a = b = c = D();
    backward(y);
    if (held) {
      CHECK(doubles(a) == before);
      values = doubles(b);
      CHECK(doubles(tanh(a.detach())) == values);
      gradients = doubles(x.grad());
    } else {
      CHECK(doubles(x.grad()) == gradients);
    }
  }
}

TEST_CASE("The place of a tensor has its shape and its gradient's target, and no value") {
  auto x = leaf({2, 3}, 1);
  const auto place = (x + 0.0).place();
  CHECK(place.defined());
  CHECK(place.shape() == Shape{2, 3});
  CHECK(place.requires_grad());
  CHECK(GradTarget(place).tensor.shape() == place.shape());
  CHECK(lacks<ArgumentError>([&] { place.data(); }, {"no value", "place()"}) == "");
  CHECK_FALSE(D().place().defined());
}

TEST_CASE("A pullback may take the gradient alone or the op's value too") {
  auto x = leaf({3}, 1);
  const auto value = exp(x.detach());
  backward(sum(record({x}, value.clone(), [](const auto& y, const auto& G) { return y * G; })));
  const auto with_y = doubles(x.grad());
  x.zero_grad();
  backward(sum(record({x}, value.clone(), [y = value](const auto& G) { return y * G; })));
  CHECK(doubles(x.grad()) == with_y);
}
