// The rank-space mixture against eq. 8-13 written out at full width.

#include <doctest/doctest.h>

#include <mole/mole.hpp>

#include "testing.hpp"

using namespace mole;
using namespace mole::testing;

namespace {

/// Three experts of ranks 2, 1 and 3, the second gate column without any.
struct Layer {
  Index S = 2, L = 3, d_in = 4, d_out = 7, N = 4;
  std::vector<Index> expert{0, 0, 2, 3, 3, 3};
  std::size_t R = 6;
};

/// y = x W^T + c + sum over ranks of g[expert] h Q, by loops.
template <class T>
std::vector<double> reference(const Layer& layer, const Tensor<T, Device>& x, const Tensor<T, Device>& W,
                              const Tensor<T, Device>& c, const Tensor<T, Device>& h,
                              const Tensor<T, Device>& g, const Tensor<T, Device>& Q) {
  const auto vx = doubles(x), vW = doubles(W), vc = doubles(c), vh = doubles(h), vg = doubles(g),
             vQ = doubles(Q);
  const auto d_in = static_cast<std::size_t>(layer.d_in), d_out = static_cast<std::size_t>(layer.d_out);
  const auto tokens = static_cast<std::size_t>(layer.S * layer.L), N = static_cast<std::size_t>(layer.N);
  const std::size_t shared = g.rank() == 3 ? 1 : static_cast<std::size_t>(layer.L);
  std::vector<double> y;
  for (std::size_t t = 0; t < tokens; ++t)
    for (std::size_t o = 0; o < d_out; ++o) {
      double value = vc[o];
      for (std::size_t i = 0; i < d_in; ++i) value += vx[t * d_in + i] * vW[o * d_in + i];
      for (std::size_t r = 0; r < layer.R; ++r)
        value += vg[t / shared * N + static_cast<std::size_t>(layer.expert[r])] * vh[t * layer.R + r] *
                 vQ[o * layer.R + r];
      y.push_back(value);
    }
  return y;
}

}  // namespace

TEST_CASE_TEMPLATE("The mixture is the base plus each expert's output times its gate", T, float, double) {
  const Layer layer;
  const Index R = static_cast<Index>(layer.R);
  const auto x = noise<T>({2, 3, 4}, 1), W = noise<T>({7, 4}, 2), c = noise<T>({7}, 3),
             h = noise<T>({2, 3, R}, 4), Q = noise<T>({7, R}, 5);
  const auto of = Tensor<Index, Device>::from({R}, layer.expert);
  for (const Shape& shape : {Shape{2, 4}, Shape{2, 3, 4}}) {
    const auto g = noise<T>(shape, 6);
    CHECK(worst_error(mixture(x, W, c, h, g, Q, of), reference(layer, x, W, c, h, g, Q)) <= tight<T>);
    const auto none = Tensor<T, Device>::zeros({7});
    CHECK(worst_error(mixture(x, W, Tensor<T, Device>(), h, g, Q, of),
                      reference(layer, x, W, none, h, g, Q)) <= tight<T>);
  }
}

TEST_CASE("The mixture's gradients equal those of the composite ops") {
  using D = Tensor<double, Device>;
  const Layer layer;
  const auto W = noise<double>({7, 4}, 2), c = noise<double>({7}, 3), Q = noise<double>({7, 6}, 5);
  const auto of = Tensor<Index, Device>::from({6}, layer.expert);
  for (const Shape& shape : {Shape{2, 4}, Shape{2, 3, 4}}) {
    std::vector<D> leaves{noise<double>({2, 3, 4}, 1), noise<double>({2, 3, 6}, 4), noise<double>(shape, 6)};
    for (auto& leaf : leaves) leaf.set_requires_grad();
    const auto G = noise<double>({2, 3, 7}, 7);
    backward(mixture(leaves[0], W, c, leaves[1], leaves[2], Q, of), G);
    std::vector<std::vector<double>> fused;
    for (auto& leaf : leaves) {
      fused.push_back(doubles(leaf.grad()));
      leaf.zero_grad();
    }
    const auto by_rank = transpose(gather(transpose(reshape(leaves[2], {-1, 4})), of));
    const auto gate = shape.rank() == 3 ? reshape(by_rank, {2, 3, 6}) : reshape(by_rank, {2, 1, 6});
    backward(linear(leaves[0], W, c) + linear(leaves[1] * gate, Q), G);
    for (std::size_t i = 0; i < leaves.size(); ++i) CHECK(worst_error(leaves[i].grad(), fused[i]) <= 1e-13);
  }
}

TEST_CASE_TEMPLATE("The gate is the softmax of unit rows times F over tau, gradients too", T, float, double) {
  std::vector<Tensor<T, Device>> leaves{noise<T>({2, 3, 6}, 1), noise<T>({6, 4}, 2),
                                        Tensor<T, Device>::scalar(T(-0.7))};
  for (auto& leaf : leaves) leaf.set_requires_grad();
  const auto G = noise<T>({2, 3, 4}, 3);
  for (const auto& keep : {Tensor<T, Device>(), Tensor<T, Device>::from({4}, {1, 0, 1, 1})}) {
    const auto g = gate_softmax(leaves[0], leaves[1], leaves[2], keep);
    backward(g, G);
    std::vector<std::vector<double>> gradients;
    for (auto& leaf : leaves) {
      gradients.push_back(doubles(leaf.grad()));
      leaf.zero_grad();
    }
    const auto z = matmul(reshape(unit_rows(leaves[0]), {6, 6}), leaves[1]);
    const auto parts = softmax(z * exp(-leaves[2]), keep);
    CHECK(worst_error(g, doubles(parts)) <= tight<T>);
    backward(parts, reshape(G, {6, 4}));
    for (std::size_t i = 0; i < leaves.size(); ++i) {
      CHECK(worst_error(leaves[i].grad(), gradients[i]) <= 4 * tight<T>);
      leaves[i].zero_grad();
    }
  }
}

TEST_CASE_TEMPLATE("A gate with a scale is that of its scaled input, gradients too", T, float, double) {
  std::vector<Tensor<T, Device>> leaves{noise<T>({2, 3, 6}, 1), noise<T>({6, 4}, 2),
                                        Tensor<T, Device>::scalar(T(-0.7))};
  for (auto& leaf : leaves) leaf.set_requires_grad();
  const auto G = noise<T>({2, 3, 4}, 3), keep = Tensor<T, Device>::from({4}, {1, 0, 1, 1});
  for (const Index factors : {6, 1}) {
    const GateScale<T, Device> scale{noise<T>({6}, 4), square(noise<T>({factors}, 5))};
    const auto g = gate_softmax(leaves[0], leaves[1], leaves[2], keep, Compute<T>(1e-12), scale);
    backward(g, G);
    std::vector<std::vector<double>> gradients;
    for (auto& leaf : leaves) {
      gradients.push_back(doubles(leaf.grad()));
      leaf.zero_grad();
    }
    const auto u = reshape(unit_rows(leaves[0]), {6, 6});
    const auto parts = softmax(matmul((u - scale.mean) * scale.factor, leaves[1]) * exp(-leaves[2]), keep);
    CHECK(worst_error(g, doubles(parts)) <= 4 * tight<T>);
    backward(parts, reshape(G, {6, 4}));
    for (std::size_t i = 0; i < leaves.size(); ++i) {
      CHECK(worst_error(leaves[i].grad(), gradients[i]) <= 16 * tight<T>);
      leaves[i].zero_grad();
    }
  }
}

TEST_CASE_TEMPLATE("A gate that reads zeros is even, and its gradient is finite", T, float, double) {
  auto v = Tensor<T, Device>::zeros({2, 3}).set_requires_grad(), F = noise<T>({3, 4}).set_requires_grad();
  const auto g = gate_softmax(v, F, Tensor<T, Device>::scalar(T(0)));
  CHECK(g.to_host() == std::vector<T>(8, T(0.25)));
  backward(sum(g * noise<T>({4}, 1)));
  for (const T d : F.grad().to_host()) CHECK(d == T(0));
  for (const T d : v.grad().to_host()) CHECK(std::isfinite(d));
}

TEST_CASE("A gate whose experts are all masked gives no weight and no gradient") {
  auto v = noise<double>({2, 3}, 1).set_requires_grad(), F = noise<double>({3, 2}, 2).set_requires_grad();
  const auto g = gate_softmax(v, F, Tensor<double, Device>::scalar(0), Tensor<double, Device>::zeros({2}));
  CHECK(g.to_host() == std::vector<double>(4, 0.0));
  backward(sum(g));
  for (const double d : v.grad().to_host()) CHECK(d == 0);
  for (const double d : F.grad().to_host()) CHECK(d == 0);
}

TEST_CASE_TEMPLATE("A gated mixture of many tokens equals its parts, gradients too, however g is read", T,
                   float, double) {
  // On the CPU 600 tokens are four chunks and a part of one.
  const auto W = noise<T>({7, 4}, 2), c = noise<T>({7}, 3), A = noise<T>({6, 4}, 4), Q = noise<T>({7, 6}, 5);
  const auto of = Tensor<Index, Device>::from({6}, {0, 0, 1, 2, 2, 2});
  const auto keep = Tensor<T, Device>::from({4}, {1, 1, 1, 0});
  const auto G = noise<T>({3, 200, 7}, 6), towards = noise<T>({3, 200, 4}, 7);
  for (const bool whole : {true, false})
    for (const bool scaled : {false, true}) {
      const GateScale<T, Device> scale =
          scaled ? GateScale<T, Device>{noise<T>({6}, 10), square(noise<T>({6}, 11))}
                 : GateScale<T, Device>{};
      std::vector<Tensor<T, Device>> leaves{noise<T>({3, 200, 4}, 8), noise<T>({6, 4}, 9),
                                            Tensor<T, Device>::scalar(T(0.4))};
      for (auto& leaf : leaves) leaf.set_requires_grad();
      auto run = [&](bool as_one) {
        Tensor<T, Device> y, g;
        if (as_one) {
          const auto one = gated_mixture(
              leaves[0], {W, whole ? c : Tensor<T, Device>(), A, Q, of, leaves[1], leaves[2], keep, scale});
          y = one.y;
          g = one.g;
        } else {
          const auto h = linear(leaves[0], A);
          g = gate_softmax(h, leaves[1], leaves[2], keep, Compute<T>(1e-12), scale);
          y = mixture(leaves[0], W, whole ? c : Tensor<T, Device>(), h, g, Q, of);
        }
        // `whole`: g is read beside y; else it is all that is read.
        backward(whole ? sum(y * G) + sum(g * towards) : sum(g * towards));
        std::vector<std::vector<double>> found{doubles(y), doubles(g)};
        for (auto& leaf : leaves) {
          found.push_back(doubles(leaf.grad()));
          leaf.zero_grad();
        }
        return found;
      };
      const auto one = run(true), parts = run(false);
      for (std::size_t i = 0; i < parts.size(); ++i) {
        CAPTURE(i);
        // Of F and tau the gradients sum over 600 tokens.
        CHECK(worst_error(one[i], parts[i]) <= (i < 2 ? 1 : 40) * tight<T>);
      }
    }
}

TEST_CASE_TEMPLATE("Layers that read the same input give together what each gives alone, gradients too", T,
                   float, double) {
  constexpr std::size_t n = 3;
  const auto of = Tensor<Index, Device>::from({6}, {0, 0, 1, 2, 2, 2});
  std::vector<Tensor<T, Device>> A, Q;
  for (std::size_t i = 0; i < n; ++i) {
    A.push_back(noise<T>({6, 4}, 10 + i));
    Q.push_back(noise<T>({7, 6}, 20 + i));
  }
  A = copy_adjacent(A);
  Q = copy_adjacent(Q);
  const auto x = noise<T>({3, 30, 4}, 1).set_requires_grad();
  std::vector<GatedLayer<T, Device>> layers;
  for (std::size_t i = 0; i < n; ++i)
    layers.push_back({noise<T>({7, 4}, 30 + i), noise<T>({7}, 40 + i), A[i], Q[i], of,
                      noise<T>({6, 4}, 50 + i).set_requires_grad(),
                      Tensor<T, Device>::scalar(T(0.1) * T(i)).set_requires_grad(),
                      i == 1 ? Tensor<T, Device>::from({4}, {1, 1, 1, 0}) : Tensor<T, Device>()});
  // What is read of the layers: all y and g; not every y; a gate alone, which no y comes before on the way
  // back.
  for (const auto& read : {std::vector<int>{1, 1, 1, 1, 1, 1},
                           {0, 1, 0, 1, 0, 0},
                           {1, 0, 1, 0, 1, 0},
                           {0, 0, 0, 0, 1, 0},
                           {1, 1, 0, 0, 0, 0}}) {
    const auto run = [&](bool together) {
      std::vector<GatedMixture<T, Device>> made;
      if (together)
        made = gated_mixtures(x, layers);
      else
        for (const auto& layer : layers) made.push_back(gated_mixture(x, layer));
      auto seen = Tensor<T, Device>::scalar(T(0));
      std::vector<std::vector<double>> found;
      for (std::size_t i = 0; i < made.size(); ++i) {
        if (read[i]) seen = seen + sum(made[i].y * noise<T>({3, 30, 7}, 60 + i));
        if (read[i + n]) seen = seen + sum(made[i].g * noise<T>({3, 30, 4}, 70 + i));
        found.push_back(doubles(made[i].y));
        found.push_back(doubles(made[i].g));
      }
      backward(seen);
      const auto take = [&](const Tensor<T, Device>& leaf) {
        found.push_back(leaf.grad().defined() ? doubles(leaf.grad())
                                              : std::vector<double>(static_cast<std::size_t>(leaf.size())));
        leaf.zero_grad();
      };
      take(x);
      for (const auto& layer : layers) {
        take(layer.F);
        take(layer.log_tau);
      }
      return found;
    };
    const auto one = run(true), each = run(false);
    REQUIRE(one.size() == each.size());
    for (std::size_t i = 0; i < each.size(); ++i) {
      CAPTURE(i);
      CHECK(worst_error(one[i], each[i]) <= 20 * tight<T>);
    }
  }
}

TEST_CASE("A scale that does not fit the gate is refused") {
  using F = Tensor<float, Device>;
  const auto x = F::ones({2, 4}), weight = F::ones({4, 2});
  for (const GateScale<float, Device>& scale : {GateScale<float, Device>{F::ones({3}), F::ones({3})},
                                                {F::ones({4}), F::ones({2})},
                                                {F::ones({4}), {}}})
    CHECK(lacks<ShapeError>([&] { gate_softmax(x, weight, F::scalar(0), {}, 1e-12f, scale); },
                            {"gate_softmax", "scale", "[4]"}) == "");
}

TEST_CASE("Mixtures of shapes that do not fit are refused") {
  using F = Tensor<float, Device>;
  const auto x = F::ones({2, 3, 4}), W = F::ones({7, 4}), h = F::ones({2, 3, 6}), g = F::ones({2, 5}),
             Q = F::ones({7, 6});
  const auto of = Tensor<Index, Device>::from({6}, {0, 0, 1, 2, 3, 4});
  CHECK(lacks<ShapeError>(
            [&] {
              mixture(F::ones({3, 4}), W, {}, h, g, Q, of);
            },
            {"mixture", "[3, 4]", "[7, 4]"}) == "");
  CHECK(lacks<ShapeError>(
            [&] {
              mixture(x, F::ones({7, 5}), {}, h, g, Q, of);
            },
            {"mixture", "[2, 3, 4]", "[7, 5]"}) == "");
  CHECK(lacks<ShapeError>([&] { mixture(x, W, F::ones({4}), h, g, Q, of); }, {"mixture", "bias", "[7]"}) ==
        "");
  CHECK(lacks<ShapeError>(
            [&] {
              mixture(x, W, {}, F::ones({2, 3, 5}), g, Q, of);
            },
            {"mixture", "[2, 3, 5]"}) == "");
  CHECK(lacks<ShapeError>(
            [&] {
              mixture(x, W, {}, h, F::ones({3, 5}), Q, of);
            },
            {"mixture", "gate", "[3, 5]"}) == "");
  CHECK(lacks<ShapeError>(
            [&] {
              mixture(x, W, {}, h, F::ones({2, 1, 5}), Q, of);
            },
            {"gate", "[2, 1, 5]"}) == "");
  CHECK(lacks<ShapeError>(
            [&] {
              mixture(x, W, {}, h, g, F::ones({6, 6}), of);
            },
            {"mixture", "[6, 6]"}) == "");
  CHECK(lacks<ShapeError>(
            [&] {
              gate_softmax(x, F::ones({5, 2}), F::scalar(0));
            },
            {"gate_softmax", "[2, 3, 4]", "[5, 2]"}) == "");
  CHECK(lacks<ShapeError>(
            [&] {
              gate_softmax(x, F::ones({4, 2}), F::ones({2}));
            },
            {"gate_softmax", "log_tau", "[2]"}) == "");
  CHECK(lacks<ShapeError>(
            [&] {
              gate_softmax(x, F::ones({4, 2}), F::scalar(0), F::ones({3}));
            },
            {"gate_softmax", "mask", "[2]", "[3]"}) == "");
  CHECK(lacks<ShapeError>(
            [&] {
              mixture(x, W, {}, h, g, Q, Tensor<Index, Device>::from({6}, {0, 0, 1, 2, 3, 5}));
            },
            {"mixture", "index 5", "[0, 5)"}) == "");
}
