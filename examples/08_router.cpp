// Lesson 8: your own router. It takes the place of MoLE's gates and needs no change to the library.
//
//   b [N]   one number an expert, learned; it does not look at the input at all
//   g       softmax(b), the same for every sequence
// experts/routers/router.hpp lists the parts; the compiler names one that is missing.

#include <cstdio>

#include <mole/mole.hpp>

template <class T, class B>
class FixedRouter;
/// What a user chooses, where the gates stand, and what a file of gates keeps.
struct FixedOptions {
  mole::Scope scope = mole::Scope::block;

  static constexpr const char* name = "fixed";
  template <class T, class B>
  using Router = FixedRouter<T, B>;
  mole::GatePlacement placement() const { return {.scope = scope}; }  // one gate a sequence
  void check() const {}
  template <class Self, class F>
  static void fields(Self& self, F f) {
    f("scope", self.scope);
  }
};

/// What is made for a model's gates, and the weights they give.
template <class T, class B>
class FixedRouter {
 public:
  using Tensor = mole::Tensor<T, B>;
  using Site = mole::RouterSite<T, B>;
  FixedRouter(const FixedOptions& options, const Site& site) {
    for (const auto& [name, shape] : shapes(options, site))
      b_.push_back(Tensor::zeros(shape).set_requires_grad());
    for (std::size_t i = 0; i < b_.size(); ++i) site.gates[i].gate.weight = b_[i];
  }
  static std::vector<mole::NamedShape> shapes(const FixedOptions&, const Site& site) {
    std::vector<mole::NamedShape> list;
    for (const auto& placed : site.gates) list.push_back({placed.name + ".b", {placed.gate.n_experts()}});
    return list;
  }
  std::vector<Tensor> tensors() const { return b_; }

  /// v [S, features] is what a gate of MoLE would read; keep [N] masks experts.
  mole::GateValue<T, B> weigh(const mole::PlacedGate<T, B>& placed, const Tensor& v,
                              const Tensor& keep) const {
    const auto& b = placed.gate.weight;
    const auto g = mole::softmax(Tensor::zeros({v.size(0), b.size(0)}) + b, keep);
    return {g, g};
  }

 private:
  std::vector<Tensor> b_;
};

int main() {
  using D = mole::Tensor<double, mole::Cpu>;
  mole::Generator random{8};
  const auto draw = [&](mole::Shape shape) { return D::randn(shape, random.next()); };
  std::vector<mole::LoraFactors> experts;
  for (int i = 0; i < 3; ++i)
    experts.push_back({2, 12, 12, 1, draw({2, 12}).to_host(), draw({12, 2}).to_host()});
  const auto W = draw({12, 12}), x = draw({8, 6, 12});
  const auto target = linear(x, W + D::from({12, 12}, mole::delta(experts[1])));  // expert 1 alone

  const mole::MoleLinear<double, mole::Cpu> layer(W, {}, experts, FixedOptions());
  mole::Sgd<double, mole::Cpu> optimizer(layer.parameters(), {.momentum = 0.9});
  std::vector<double> g;
  for (int step = 0; step <= 50; ++step) {
    const auto [y, gate] = layer(x);
    g = mole::mean(gate.weights, {0}).to_host();
    if (step % 10 == 0) std::printf("step %2d  gate %.3f %.3f %.3f\n", step, g[0], g[1], g[2]);
    optimizer.zero_grad();
    mole::backward(mole::mse(y, target));
    optimizer.step(0.1);
  }
  return g[1] > 0.9 ? 0 : 1;
}
