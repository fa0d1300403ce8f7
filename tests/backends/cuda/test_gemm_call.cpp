// The column-major calls that a Gemm becomes, run by a stand-in for cuBLAS that refuses what cuBLAS refuses
// and reads nothing outside the arrays; against Cpu::gemm.

#include <doctest/doctest.h>
#include <algorithm>
#include <random>

#include <mole/backends/cuda/gemm_call.hpp>
#include <mole/ops/attention.hpp>
#include <mole/ops/matmul.hpp>

#include "testing.hpp"

using namespace mole;
using namespace mole::testing;

namespace {

using Values = std::vector<double>;

/// A matrix of a batch in column-major order; refuses to be read or written outside its array.
template <class Array>
struct Matrix {
  Array& values;
  Index offset;
  long long stride;
  int ld;

  auto& at(int batch, int row, int column) const {
    const Index i = offset + batch * stride + static_cast<Index>(column) * ld + row;
    MOLE_CHECK_SHAPE(i >= 0 && i < static_cast<Index>(values.size()), "element", i, "of", values.size());
    return values[static_cast<std::size_t>(i)];
  }
};

/// cublasGemmStridedBatchedEx in four loops, with its rules on extents and leading dimensions.
void stand_in(const detail::GemmCall& c, double alpha, const Values& first, Index at_first,
              const Values& second, Index at_second, double beta, Values& result, Index at_result) {
  MOLE_CHECK_SHAPE(c.m >= 0 && c.n >= 0 && c.k >= 0 && c.batch >= 0, "a negative extent");
  MOLE_CHECK_SHAPE(c.ld_first >= std::max(1, c.transpose_first ? c.k : c.m), "lda", c.ld_first);
  MOLE_CHECK_SHAPE(c.ld_second >= std::max(1, c.transpose_second ? c.n : c.k), "ldb", c.ld_second);
  MOLE_CHECK_SHAPE(c.ld_result >= std::max(1, c.m), "ldc", c.ld_result);
  const Matrix<const Values> A{first, at_first, c.first_stride, c.ld_first},
      B{second, at_second, c.second_stride, c.ld_second};
  const Matrix<Values> C{result, at_result, c.result_stride, c.ld_result};
  for (int s = 0; s < c.batch; ++s)
    for (int j = 0; j < c.n; ++j)
      for (int i = 0; i < c.m; ++i) {
        double dot = 0;
        for (int l = 0; l < c.k; ++l)
          dot += (c.transpose_first ? A.at(s, l, i) : A.at(s, i, l)) *
                 (c.transpose_second ? B.at(s, j, l) : B.at(s, l, j));
        double& to = C.at(s, i, j);
        to = beta == 0 ? alpha * dot : alpha * dot + beta * to;
      }
}

/// Elements of an array that holds `rows` rows of `columns` of every matrix of the batch.
std::size_t extent(const Gemm& g, Index rows, Index columns, Index ld, const Index (&stride)[2]) {
  if (rows == 0 || columns == 0 || g.batch[0] == 0 || g.batch[1] == 0) return 0;
  return static_cast<std::size_t>((g.batch[0] - 1) * stride[0] + (g.batch[1] - 1) * stride[1] +
                                  (rows - 1) * ld + columns);
}

Values random_values(std::size_t n, std::uint64_t stream) {
  return noise<double, Cpu>({static_cast<Index>(n)}, stream).to_host();
}

/// Compares both ways to compute g on arrays that are just large enough; the number of calls.
int calls_of(const Gemm& g) {
  const auto a = random_values(
                 extent(g, g.transpose_a ? g.k : g.m, g.transpose_a ? g.m : g.k, g.lda, g.a_stride), 1),
             b = random_values(
                 extent(g, g.transpose_b ? g.n : g.k, g.transpose_b ? g.k : g.n, g.ldb, g.b_stride), 2);
  // What beta = 0 must not read, and what lies between the rows, is NaN.
  const std::size_t size = extent(g, g.m, g.n, g.ldc, g.c_stride);
  auto expected = g.beta == 0 ? Values(size, std::nan("")) : random_values(size, 3);
  auto found = expected;
  Cpu::gemm(g, a.data(), b.data(), expected.data());
  int calls = 0;
  detail::for_each_gemm_call(g, [&](const detail::GemmCall& call, Index at_a, Index at_b, Index at_c) {
    ++calls;
    stand_in(call, g.alpha, b, at_b, a, at_a, g.beta, found, at_c);
  });
  CHECK(worst_error(found, expected) <= 1e-14);
  return calls;
}

}  // namespace

TEST_CASE("Any Gemm becomes calls that a column-major BLAS accepts, with the results of Cpu::gemm") {
  std::mt19937 random{11};
  auto pick = [&](Index most) { return static_cast<Index>(random() % static_cast<unsigned>(most + 1)); };
  for (int trial = 0; trial < 4000; ++trial) {
    Gemm g{
        .transpose_a = pick(1) == 1, .transpose_b = pick(1) == 1, .m = pick(5), .n = pick(5), .k = pick(5)};
    g.alpha = pick(2) == 0 ? 1 : 0.5;
    g.beta = static_cast<double>(pick(2)) / 2;
    const Index pad = pick(2);
    g.lda = (g.transpose_a ? g.m : g.k) + pad;
    g.ldb = (g.transpose_b ? g.k : g.n) + pick(2);
    g.ldc = g.n + pick(2);
    g.batch[0] = pick(3), g.batch[1] = pick(3);
    // A level of the batch lies within a row of the other, follows it, or shares one operand.
    const bool within = pick(1) == 1;
    auto lay = [&](Index rows, Index& ld, Index(&stride)[2], bool may_share) {
      const Index columns = ld;
      if (within) ld *= std::max<Index>(g.batch[1], 1);
      stride[1] = within ? columns : rows * columns + pick(1);
      stride[0] = within ? rows * ld : g.batch[1] * stride[1] + pick(1);
      if (may_share && pick(3) == 0) stride[pick(1)] = 0;
    };
    lay(g.transpose_a ? g.k : g.m, g.lda, g.a_stride, true);
    lay(g.transpose_b ? g.n : g.k, g.ldb, g.b_stride, true);
    lay(g.m, g.ldc, g.c_stride, false);
    CAPTURE(trial);
    const int calls = calls_of(g);
    CHECK(calls <= std::min(g.batch[0], g.batch[1]));
  }
}

TEST_CASE("The products of linear, its gradients, and of a batch that lies in one piece take one call") {
  for (const double beta : {0.0, 1.0}) {
    CHECK(calls_of(detail::gemm_nt(5, 3, 4, beta)) == 1);
    CHECK(calls_of(detail::gemm_nn(5, 3, 4, beta)) == 1);
    CHECK(calls_of(detail::gemm_tn(5, 3, 4, beta)) == 1);
  }
  Gemm g{.m = 2, .n = 3, .k = 4, .lda = 4, .ldb = 3, .ldc = 3};
  g.batch[0] = 3, g.batch[1] = 5;
  g.a_stride[0] = 40, g.a_stride[1] = 8;
  g.b_stride[0] = 60, g.b_stride[1] = 12;
  g.c_stride[0] = 30, g.c_stride[1] = 6;
  CHECK(calls_of(g) == 1);
  g.b_stride[0] = g.b_stride[1] = 0;
  CHECK(calls_of(g) == 1);
}

TEST_CASE(
    "The products of attention take no more calls than there are heads or sequences, whichever is less") {
  for (const Index S : {1, 2, 5})
    for (const Index H : {1, 3})
      for (const auto& [Lq, Lk, d] :
           {std::array<Index, 3>{1, 4, 3}, {3, 3, 1}, {4, 2, 5}, {2, 0, 3}, {0, 2, 3}}) {
        const detail::HeadGemm head{S, H, Lq, Lk, d, Lq};
        for (const Gemm& g : {head.scores(1), head.rows(0.7), head.columns(0.7)})
          CHECK(calls_of(g) <= std::min(S, H));
      }
}

TEST_CASE("An extent beyond what a BLAS counts with is refused") {
  const Index wide = Index{1} << 31;
  const auto none = [](const detail::GemmCall&, Index, Index, Index) {};
  for (const Gemm& g :
       {detail::gemm_nt(wide, 2, 2), detail::gemm_nt(2, wide, 2), detail::gemm_nt(2, 2, wide)})
    CHECK(lacks<ShapeError>([&] { detail::for_each_gemm_call(g, none); }, {"gemm", "2147483648"}) == "");
  Gemm g = detail::gemm_nt(2, 2, 2);
  g.lda = wide;
  CHECK(lacks<ShapeError>([&] { detail::for_each_gemm_call(g, none); }, {"gemm", "2147483648"}) == "");
  g.lda = 2;
  g.batch[0] = g.batch[1] = Index{1} << 16;
  g.a_stride[1] = g.b_stride[1] = g.c_stride[1] = 4;
  g.a_stride[0] = g.b_stride[0] = g.c_stride[0] = 4 * g.batch[1];
  CHECK(lacks<ShapeError>([&] { detail::for_each_gemm_call(g, none); }, {"gemm", "4294967296"}) == "");
}
