// Row functors, reductions, scatter_add and gemm of the CUDA backend against the processor's, at extents
// where the kernels change: lanes of a row, blocks of a grid, chunks of a long axis.

#include <doctest/doctest.h>
#include <cmath>

#include <mole/cuda.cuh>

#include "testing.hpp"

using namespace mole;
using namespace mole::testing;

namespace {

using Results = std::vector<std::vector<double>>;

/// Values and gradients of all ops that work by rows.
template <class B>
Results row_results(Index rows, Index n) {
  auto x = noise<double, B>({rows, n}, 1).set_requires_grad();
  const auto w = noise<double, B>({n}, 2), c = noise<double, B>({n}, 3), G = noise<double, B>({rows, n}, 4);
  Results results;
  for (const auto& y :
       {softmax(x), log_softmax(x), unit_rows(x), rms_norm(x, w), layer_norm(x, w, c), x + w}) {
    x.zero_grad();
    backward(y, G);
    results.push_back(doubles(y));
    results.push_back(doubles(x.grad()));
  }
  return results;
}

template <class T, class B>
std::vector<T> reduced(Reduction op, Index outer, Index n, Index inner, const std::vector<T>& x) {
  const auto from = Tensor<T, B>::from({outer, n, inner}, x);
  const auto y = Tensor<T, B>::full({outer, inner}, T(std::nan("")));
  B::reduce(op, outer, n, inner, from.data(), y.data());
  return y.to_host();
}

struct Extents {
  Index outer, n, inner;
};
const std::vector<Extents> extents{
    {1, 1, 1},     {3, 0, 2},       {0, 3, 2},      {3, 5, 0},       {7, 1000, 1},   {2, 65536, 1},
    {2, 65537, 1}, {1, 3000001, 1}, {5, 257, 33},   {1, 100003, 3},  {4097, 2, 5},   {1, 256, 1},
    {1, 257, 2},   {70000, 3, 1},   {3, 511, 1024}, {1, 600000, 31}, {2, 31, 100000}};

template <class T>
std::vector<T> scattered(Index n, Index width, const std::vector<Index>& index, std::uint64_t stream) {
  const auto x = noise<T>({static_cast<Index>(index.size()), width}, stream),
             y = noise<T>({n, width}, stream + 1);
  const auto at = Tensor<Index, Cuda>::from({static_cast<Index>(index.size())}, index);
  Cuda::scatter_add(static_cast<Index>(index.size()), n, width, at.data(), x.data(), y.data());
  return y.to_host();
}

template <class T, class B>
std::vector<double> product(const Gemm& g, Index a_size, Index b_size, Index c_size) {
  const auto a = noise<T, B>({a_size}, 1), b = noise<T, B>({b_size}, 2), c = noise<T, B>({c_size}, 3);
  B::gemm(g, a.data(), b.data(), c.data());
  return doubles(c);
}

struct Product {
  Gemm g;
  Index a_size, b_size, c_size;
};

/// All transposes at odd sizes, scaled and added; without an inner extent; and attention's batches.
std::vector<Product> products() {
  std::vector<Product> list;
  for (const auto& [m, n, k] :
       {std::array<Index, 3>{1, 1, 1}, {7, 5, 3}, {33, 65, 129}, {4, 3, 0}, {128, 1, 64}, {1, 96, 40}})
    for (int flags = 0; flags < 4; ++flags)
      for (const double beta : {0.0, 1.0, 0.5}) {
        Gemm g{.transpose_a = (flags & 1) != 0,
               .transpose_b = (flags & 2) != 0,
               .m = m,
               .n = n,
               .k = k,
               .alpha = 0.75,
               .beta = beta};
        g.lda = g.transpose_a ? m : k, g.ldb = g.transpose_b ? k : n, g.ldc = n;
        list.push_back({g, m * k, k * n, m * n});
      }
  const detail::HeadGemm head{3, 2, 5, 7, 4, 5};
  list.push_back({head.scores(1), 3 * 5 * 8, 3 * 7 * 8, 3 * 2 * 5 * 7});
  list.push_back({head.rows(0.5), 3 * 2 * 5 * 7, 3 * 7 * 8, 3 * 5 * 8});
  list.push_back({head.columns(0.5), 3 * 2 * 5 * 7, 3 * 5 * 8, 3 * 7 * 8});
  return list;
}

}  // namespace

TEST_CASE("Row ops equal the processor's at every width where the number of threads a row changes") {
  for (const Index n : {1, 7, 8, 9, 16, 17, 31, 32, 33, 255, 511, 512, 513, 1000, 1500, 4097})
    for (const Index rows : {1, 3, 17}) {
      CAPTURE(n);
      CAPTURE(rows);
      const auto found = row_results<Cuda>(rows, n), expected = row_results<Cpu>(rows, n);
      for (std::size_t i = 0; i < found.size(); ++i) {
        CAPTURE(i);
        CHECK(worst_error(found[i], expected[i]) <= (i == 9 && n == 1 ? 1e-9 : 1e-12));
      }
    }
}

TEST_CASE("Sums and maxima over the middle of odd and big extents equal the processor's") {
  for (const auto& [outer, n, inner] : extents) {
    CAPTURE(message(outer, n, inner));
    const auto x = noise<double, Cpu>({outer, n, inner}).to_host();
    const auto sums = reduced<double, Cuda>(Reduction::sum, outer, n, inner, x);
    CHECK(worst_error(sums, reduced<double, Cpu>(Reduction::sum, outer, n, inner, x)) <= 1e-10);
    CHECK(reduced<double, Cuda>(Reduction::max, outer, n, inner, x) ==
          reduced<double, Cpu>(Reduction::max, outer, n, inner, x));
    CHECK(reduced<double, Cuda>(Reduction::sum, outer, n, inner, x) == sums);
    const std::vector<float> narrow(x.begin(), x.end());
    const auto exact = reduced<double, Cpu>(Reduction::sum, outer, n, inner, {narrow.begin(), narrow.end()});
    // Errors are measured by the size of the terms that were added up.
    const double size = std::sqrt(static_cast<double>(std::max<Index>(n, 1)));
    CHECK(worst_error(doubles(reduced<float, Cuda>(Reduction::sum, outer, n, inner, narrow)), exact) <=
          tight<float> * size);
  }
}

TEST_CASE("NaN wins a maximum wherever it stands") {
  for (const Index n : {1, 2, 255, 256, 257, 70000}) {
    for (const Index at : {Index{0}, n / 2, n - 1}) {
      std::vector<float> x(static_cast<std::size_t>(n), 1);
      x[static_cast<std::size_t>(at)] = std::nanf("");
      CAPTURE(n);
      CAPTURE(at);
      CHECK(std::isnan(reduced<float, Cuda>(Reduction::max, 1, n, 1, x)[0]));
    }
  }
}

TEST_CASE_TEMPLATE("Sums of bf16 and half are those of float, rounded once", T, mole::bf16, mole::half) {
  for (const auto& [outer, n, inner] : extents) {
    if (outer * n * inner > 1000000) continue;
    CAPTURE(message(outer, n, inner));
    const auto x = noise<T, Cpu>({outer, n, inner}).to_host();
    const auto wide = reduced<float, Cuda>(Reduction::sum, outer, n, inner, {x.begin(), x.end()});
    const auto found = reduced<T, Cuda>(Reduction::sum, outer, n, inner, x);
    REQUIRE(found.size() == wide.size());
    for (std::size_t i = 0; i < found.size(); ++i) CHECK(found[i].bits == T(wide[i]).bits);
  }
}

TEST_CASE_TEMPLATE("scatter_add with repeated indices gives the processor's bits, every time", T, float,
                   double) {
  for (const Index rows : {0, 1, 33, 5000})
    for (const Index n : {1, 7, 300})
      for (const Index width : {1, 5, 64}) {
        std::vector<Index> index;
        for (Index r = 0; r < rows; ++r) index.push_back(r * r * 7 % n * (r % 3 != 0));
        const auto found = scattered<T>(n, width, index, 1);
        CHECK(scattered<T>(n, width, index, 1) == found);
        const auto x = noise<T, Cpu>({rows, width}, 1).to_host();
        auto y = noise<T, Cpu>({n, width}, 2).to_host();
        Cpu::scatter_add(rows, n, width, index.data(), x.data(), y.data());
        CHECK(found == y);
      }
}

TEST_CASE("Products equal the processor's for all transposes, factors and batches") {
  for (const auto& [g, a, b, c] : products()) {
    CAPTURE(message(g.m, g.n, g.k, g.transpose_a, g.transpose_b, g.beta));
    const auto expected = product<double, Cpu>(g, a, b, c);
    CHECK(worst_error(product<double, Cuda>(g, a, b, c), expected) <= 1e-13);
    CHECK(worst_error(product<float, Cuda>(g, a, b, c), expected) <= 10 * tight<float>);
    CHECK(worst_error(product<mole::half, Cuda>(g, a, b, c), expected) <= 0.02);
    CHECK(worst_error(product<mole::bf16, Cuda>(g, a, b, c), expected) <= 0.16);
  }
}

TEST_CASE("TF32 is off until it is asked for, and rounds factors to ten bits then") {
  Gemm g{.m = 512, .n = 512, .k = 512, .lda = 512, .ldb = 512, .ldc = 512};
  const Index size = 512 * 512;
  const auto exact = product<double, Cuda>(g, size, size, size);
  // Sums of 512 products of normal numbers are of size 23.
  CHECK(worst_error(product<float, Cuda>(g, size, size, size), exact) <= 1e-4);
  Cuda::allow_tf32(true);
  const double error = worst_error(product<float, Cuda>(g, size, size, size), exact);
  Cuda::allow_tf32(false);
  CHECK(error > 1e-3);
  CHECK(error < 0.2);
  CHECK(worst_error(product<float, Cuda>(g, size, size, size), exact) <= 1e-4);
}
