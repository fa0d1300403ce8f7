// Lesson 6: your own op, the way the library's are made: value and pullback stand in one function.
//
//   y = a p,   p = 1 / (1 + e^-b)          b decides how much of a passes
//   da = G p,  db = G a p (1 - p)
//
// The formulas are functors, marked MOLE_HD so that a device compiler can build them too: an op made of them
// runs on every backend and touches none.

#include <cstdio>

#include <mole/mole.hpp>

using B = mole::Cpu;
using D = mole::Tensor<double, B>;

struct Pass {
  template <class T>
  MOLE_HD T operator()(T a, T b) const {
    return a * mole::sigmoid(b);
  }
};
struct PassSlope {
  template <class T>
  MOLE_HD T operator()(T g, T a, T b) const {
    return g * a * mole::sigmoid(b) * mole::sigmoid(-b);  // 1 - p is the sigmoid of -b
  }
};

/// y = a sigmoid(b) elementwise.  a, b, y of one shape.
/// Pullback of G: da = G p, db = G a p (1 - p), p = sigmoid(b).    Throws ShapeError when the shapes differ.
template <class T, class B>
mole::Tensor<T, B> pass(const mole::Tensor<T, B>& a, const mole::Tensor<T, B>& b) {
  MOLE_CHECK_SHAPE(a.shape() == b.shape(), "pass: expected one shape, got", a.shape(), "and", b.shape());
  const auto y = mole::Tensor<T, B>::empty(a.shape());
  mole::transform<B>(y.size(), Pass{}, y.data(), a.data(), b.data());
  // The tape keeps the values that a pullback captures, and no others: capture what it reads. Never capture y, which
  // holds the pullback: that would be a cycle. A pullback that reads y takes it as its first argument, as in wrong_pass.
  // Real ops also ask a.requires_grad() and return an undefined tensor where it is false. Of a value that only this
  // gradient reads they then capture the place(), so that the value itself is free to go.
  return mole::record({a, b}, y, [a, b](const auto& G) {
    const auto da = mole::Tensor<T, B>::empty(a.shape()), db = mole::Tensor<T, B>::empty(b.shape());
    mole::transform<B>(da.size(), Pass{}, da.data(), G.data(), b.data());
    mole::transform<B>(db.size(), PassSlope{}, db.data(), G.data(), a.data(), b.data());
    return std::array{da, db};
  });
}

/// The same with a mistake in it: db lacks its factor 1 - p.
D wrong_pass(const D& a, const D& b) {
  return mole::record({a, b}, pass(a.detach(), b.detach()), [b = b.detach()](const auto& y, const auto& G) {
    return std::array{G * mole::sigmoid(b), G * y};
  });
}

int main() {
  const std::vector<D> inputs = {D::randn({2, 3}, {6, 0}), D::randn({2, 3}, {6, 1})};
  auto try_out = [&](const char* name, auto op) {
    const auto result =
        mole::grad_check<B>([&](const std::vector<D>& in) { return op(in[0], in[1]); }, inputs);
    std::printf("  %-10s largest error %.1e: %s\n", name, result.worst, result.ok ? "right" : "wrong");
    if (!result.ok) std::printf("  %-10s %s\n", "", result.where.c_str());
    return result.ok;
  };
  std::puts("Every entry of the Jacobian against central differences");
  const bool right = try_out("pass", pass<double, B>), caught = !try_out("wrong_pass", wrong_pass);

  std::puts("\nIt works with all other ops and in floats: the slope of sum(pass(x, x)), known as SiLU");
  auto x = mole::Tensor<float, B>::from({3}, {-1, 0, 1}), z = x.clone();
  mole::backward(mole::sum(pass(x.set_requires_grad(), x)));
  mole::backward(mole::sum(mole::silu(z.set_requires_grad())));
  const auto ours = x.grad().to_host(), theirs = z.grad().to_host();
  bool same = true;
  for (std::size_t i = 0; i < 3; ++i) {
    std::printf("  pass %9.6f   silu %9.6f\n", static_cast<double>(ours[i]), static_cast<double>(theirs[i]));
    same = same && std::abs(ours[i] - theirs[i]) < 1e-6f;
  }
  return right && caught && same ? 0 : 1;
}
