// Lesson 9: your own backend: memory, and primitives on it. Every op, gradient and router then runs there. This
// one is as plain as can be; mole::Cpu and mole::Cuda are the same list, made fast.
#include <cstdio>
#include <mole/mole.hpp>
using mole::Index;

struct Row {  // walked by a single thread; f(j) is called for j in [0, n)
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
    decltype(f(n)) top = -INFINITY;
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
  static void gemm(const mole::Gemm& g, const auto* a, const auto* b, auto* c) {
    for (Index s = 0; s < g.batch[0] * g.batch[1]; ++s)
      for (Index i = 0; i < g.m; ++i)
        for (Index j = 0; j < g.n; ++j) {
          const auto at = [](bool flip, Index r, Index c, Index ld) {
            return flip ? c * ld + r : r * ld + c;
          };
          const auto skip = [&](auto& by) { return s / g.batch[1] * by[0] + s % g.batch[1] * by[1]; };
          const auto *A = a + skip(g.a_stride), *B = b + skip(g.b_stride);
          auto& to = c[skip(g.c_stride) + i * g.ldc + j];
          to = (g.beta == 0 ? 0 : g.beta * to) + g.alpha * Row{0}.sum(g.k, [&](Index k) {
            return A[at(g.transpose_a, i, k, g.lda)] * B[at(g.transpose_b, k, j, g.ldb)];
          });
        }
  }
  static void scatter_add(Index rows, Index, Index width, const Index* index, const auto* x, auto* y) {
    for (Index i = 0; i < rows * width; ++i) y[index[i / width] * width + i % width] += x[i];
  }
};

/// The gradient of a gate on a backend.
template <class B>
std::vector<double> gradient() {
  using D = mole::Tensor<double, B>;
  const auto draw = [](std::uint64_t n) { return D::randn({16}, {9, n}).to_host(); };
  const auto lora = [&](std::uint64_t n) { return mole::LoraFactors{2, 8, 8, 1, draw(n), draw(3 + n)}; };
  const mole::MoleLinear<double, B> layer(D::randn({8, 8}, {9, 6}), {}, {lora(0), lora(1), lora(2)});
  mole::backward(mole::mse(layer(D::randn({4, 5, 8}, {9, 7})).y, D::zeros({4, 5, 8})));
  return layer.parameters()[0].grad().to_host();
}

int main() {
  const auto ours = gradient<Plain>(), theirs = gradient<mole::Cpu>();
  const bool same =
      std::ranges::equal(ours, theirs, [](double a, double b) { return std::abs(a - b) < 1e-12; });
  std::printf("A gate's gradient on plain and on %s: %s\n", mole::Cpu::name, same ? "equal" : "different");
  return same ? 0 : 1;
}
