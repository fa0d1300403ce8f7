// Lesson 9: your own backend: memory, and primitives on it. Every op, gradient and router then runs there. This
// one is as plain as can be; mole::Cpu and mole::Cuda are the same list, made fast.

#include <cmath>
#include <cstdio>

#include <mole/mole.hpp>

using mole::Index;

/// One row, walked by a single thread. f(j) is called for j in [0, n).
struct Row {
  Index number;
  Index index() const { return number; }
  void each(Index n, auto f) const {
    for (Index j = 0; j < n; ++j) f(j);
  }
  auto sum(Index n, auto f) const {
    decltype(f(n)) total = 0;
    for (Index j = 0; j < n; ++j) total += f(j);
    return total;
  }
  auto max(Index n, auto f) const {
    auto top = -std::numeric_limits<decltype(f(n))>::infinity();
    for (Index j = 0; j < n; ++j) top = std::max(top, f(j));
    return top;
  }
};

struct Plain {
  static constexpr const char* name = "plain";
  static void* allocate(std::size_t bytes) { return ::operator new(bytes); }
  static void deallocate(void* p, std::size_t) noexcept { ::operator delete(p); }
  static void synchronize() {}
  static void copy(auto* to, const auto* from, Index n) { std::copy(from, from + n, to); }
  static void upload(auto* device, const auto* host, Index n) { copy(device, host, n); }
  static void download(auto* host, const auto* device, Index n) { copy(host, device, n); }
  static void for_each(Index n, auto f) { Row{0}.each(n, f); }
  static void for_rows(Index rows, Index, auto f) {
    Row{0}.each(rows, [&](Index r) { f(Row{r}); });
  }
  static void reduce(mole::Reduction op, Index outer, Index n, Index inner, const auto* x, auto* y) {
    for (Index k = 0; k < outer * inner; ++k) {
      const auto at = [&](Index j) { return x[(k / inner * n + j) * inner + k % inner]; };
      y[k] = op == mole::Reduction::sum ? Row{0}.sum(n, at) : Row{0}.max(n, at);
    }
  }
  template <class T>
  static void gemm(const mole::Gemm& g, const T* a, const T* b, T* c) {
    for (Index s = 0; s < g.batch[0] * g.batch[1]; ++s) {
      const auto skip = [&](const Index* by) { return s / g.batch[1] * by[0] + s % g.batch[1] * by[1]; };
      const auto A = [&](Index i, Index j) { return a[skip(g.a_stride) + i * g.lda + j]; };
      const auto B = [&](Index i, Index j) { return b[skip(g.b_stride) + i * g.ldb + j]; };
      for (Index i = 0; i < g.m; ++i)
        for (Index j = 0; j < g.n; ++j) {
          const T sum = Row{0}.sum(g.k, [&](Index k) {
            return (g.transpose_a ? A(k, i) : A(i, k)) * (g.transpose_b ? B(j, k) : B(k, j));
          });
          T& to = c[skip(g.c_stride) + i * g.ldc + j];
          to = static_cast<T>(g.alpha) * sum + (g.beta == 0 ? T(0) : static_cast<T>(g.beta) * to);
        }
    }
  }
  static void scatter_add(Index rows, Index, Index width, const Index* index, const auto* x, auto* y) {
    for (Index i = 0; i < rows * width; ++i) y[index[i / width] * width + i % width] += x[i];
  }
};
static_assert(mole::Backend<Plain, double>);

/// The gradient of a gate on a backend.
template <class B>
std::vector<double> gradient() {
  using D = mole::Tensor<double, B>;
  const auto draw = [](mole::Shape shape, std::uint64_t n) { return D::randn(shape, {9, n}); };
  std::vector<mole::LoraFactors> experts;
  for (std::uint64_t i = 0; i < 3; ++i)
    experts.push_back({2, 8, 8, 1, draw({2, 8}, i).to_host(), draw({8, 2}, 3 + i).to_host()});
  const mole::MoleLinear<double, B> layer(draw({8, 8}, 6), {}, experts);
  mole::backward(mole::mse(layer(draw({4, 5, 8}, 7)).y, D::zeros({4, 5, 8})));
  return layer.parameters()[0].grad().to_host();
}

int main() {
  const auto ours = gradient<Plain>(), theirs = gradient<mole::Cpu>();
  double worst = 0;
  for (std::size_t i = 0; i < ours.size(); ++i) worst = std::max(worst, std::abs(ours[i] - theirs[i]));
  std::printf("A gate's gradient on %s and on %s differs by %.1e at most\n", Plain::name, mole::Cpu::name,
              worst);
  return worst < 1e-12 ? 0 : 1;
}
