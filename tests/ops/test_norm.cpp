// Norms of rows against their formulas in double.

#include <doctest/doctest.h>

#include <mole/mole.hpp>

#include "testing.hpp"

using namespace mole;
using namespace mole::testing;

namespace {

struct Moments {
  double mean = 0, variance = 0, squares = 0;

  Moments(const std::vector<double>& x, std::size_t from, std::size_t n) {
    const auto count = static_cast<double>(n);
    for (std::size_t j = from; j < from + n; ++j) mean += x[j] / count, squares += x[j] * x[j];
    for (std::size_t j = from; j < from + n; ++j) variance += (x[j] - mean) * (x[j] - mean) / count;
  }
};

}  // namespace

TEST_CASE_TEMPLATE("Norms equal their formulas row by row", T, float, double) {
  for (const Index width : {1, 3, 16, 65}) {
    const auto n = static_cast<std::size_t>(width);
    const auto x = noise<T>({2, 5, width}, 1), w = noise<T>({width}, 2), c = noise<T>({width}, 3);
    const auto vx = doubles(x), vw = doubles(w), vc = doubles(c);
    std::vector<double> unit, rms, layer, cosine;
    for (std::size_t r = 0; r < 10; ++r) {
      const Moments row(vx, r * n, n), other(vw, 0, n);
      double dot = 0;
      for (std::size_t j = 0; j < n; ++j) {
        const double v = vx[r * n + j];
        dot += v * vw[j];
        unit.push_back(v / std::sqrt(row.squares));
        rms.push_back(vw[j] * v / std::sqrt(row.squares / static_cast<double>(n) + 1e-6));
        layer.push_back(vw[j] * (v - row.mean) / std::sqrt(row.variance + 1e-5) + vc[j]);
      }
      cosine.push_back(dot / std::sqrt(row.squares * other.squares));
    }
    CHECK(worst_error(unit_rows(x), unit) <= tight<T>);
    CHECK(worst_error(rms_norm(x, w), rms) <= tight<T>);
    CHECK(worst_error(layer_norm(x, w, c), layer) <= 2 * tight<T>);
    CHECK(worst_error(cosine_similarity(x, w), cosine) <= tight<T>);
    CHECK(cosine_similarity(x, w).shape() == Shape{2, 5});
  }
}

TEST_CASE_TEMPLATE("A sum and its norm in one are those of add and rms_norm to the bit, on the tape and off",
                   T, float, double) {
  for (const Index width : {1, 3, 16, 64, 1028}) {
    CAPTURE(width);
    const auto x = noise<T>({2, 5, width}, 1), d = noise<T>({2, 5, width}, 2), w = noise<T>({width}, 3);
    const auto sum = add(x, d), y = rms_norm(sum, w);
    const auto off = add_rms_norm(x, d, w);
    auto leaf = noise<T>({2, 5, width}, 1).set_requires_grad();
    const auto on = add_rms_norm(leaf, d, w);
    CHECK_FALSE(off[1].requires_grad());
    CHECK(on[0].requires_grad());
    for (const auto& found : {off, on}) {
      CHECK(found[0].to_host() == sum.to_host());
      CHECK(found[1].to_host() == y.to_host());
    }
  }
}

TEST_CASE_TEMPLATE("Rows of zeros stay finite, forward and back", T, float, double) {
  auto x = Tensor<T, Device>::zeros({2, 3}).set_requires_grad();
  const auto w = Tensor<T, Device>::ones({3});
  for (const auto& y : {unit_rows(x), rms_norm(x, w), layer_norm(x, w, w), cosine_similarity(x, x)}) {
    for (const T v : y.to_host()) CHECK(std::isfinite(v));
    x.zero_grad();
    backward(y, Tensor<T, Device>::ones(y.shape()));
    for (const T v : x.grad().to_host()) CHECK(std::isfinite(v));
  }
  CHECK(unit_rows(x).to_host() == std::vector<T>(6, T(0)));
  CHECK(layer_norm(x, w, w).to_host() == std::vector<T>(6, T(1)));
}

TEST_CASE_TEMPLATE("A row too long for its scalar to square has no length, and is no zero", T, float,
                   double) {
  const T large = std::same_as<T, float> ? T(3e25) : T(3e200);
  for (const T y : unit_rows(Tensor<T, Device>::full({1, 3}, large)).to_host()) CHECK(mole::is_nan(y));
}

TEST_CASE("layer_norm keeps its digits for rows far from zero") {
  const auto x = noise<double>({4, 64});
  const auto w = Tensor<double, Device>::ones({64}), c = Tensor<double, Device>::zeros({64});
  CHECK(worst_error(layer_norm(x + 1e6, w, c), doubles(layer_norm(x, w, c))) <= 1e-8);
}

TEST_CASE("Norms of shapes that do not fit are refused by name") {
  using F = Tensor<float, Device>;
  const auto x = F::ones({2, 3}), w = F::ones({4});
  CHECK(lacks<ShapeError>([&] { unit_rows(F::scalar(1)); }, {"unit_rows", "[]"}) == "");
  CHECK(lacks<ShapeError>([&] { rms_norm(x, w); }, {"rms_norm", "[2, 3]", "[4]"}) == "");
  CHECK(lacks<ShapeError>([&] { rms_norm(F::scalar(1), w); }, {"rms_norm", "[]", "[4]"}) == "");
  CHECK(lacks<ShapeError>([&] { add_rms_norm(x, x, w); }, {"add_rms_norm", "[2, 3]", "[4]"}) == "");
  CHECK(lacks<ShapeError>([&] { add_rms_norm(x, F::ones({3}), F::ones({3})); }, {"add_rms_norm", "[3]"}) ==
        "");
  CHECK(lacks<ShapeError>([&] { layer_norm(x, w, w); }, {"layer_norm", "[2, 3]", "[4]"}) == "");
  CHECK(lacks<ShapeError>([&] { layer_norm(x, F::ones({3}), w); }, {"layer_norm", "[3]", "[4]"}) == "");
  CHECK(lacks<ShapeError>([&] { cosine_similarity(x, w); }, {"[2, 3]", "[4]"}) == "");
}
