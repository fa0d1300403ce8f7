// expect: a router needs weigh\(placed, v, keep\), a gate's weights from what it reads
// A router that lacks a part stops the compiler, which names the part.

#include <mole/backends/cpu.hpp>
#include <mole/experts/mixer.hpp>

template <class T, class B>
class UniformRouter;

struct UniformOptions {
  static constexpr const char* name = "uniform";
  template <class T, class B>
  using Router = UniformRouter<T, B>;

  mole::GatePlacement placement() const { return {}; }
  void check() const {}
  template <class Self, class F>
  static void fields(Self&, F) {}
};

template <class T, class B>
class UniformRouter {
 public:
  using Tensor = mole::Tensor<T, B>;
  UniformRouter(const UniformOptions&, const mole::RouterSite<T, B>&) {}
  static std::vector<mole::NamedShape> shapes(const UniformOptions&, const mole::RouterSite<T, B>&) {
    return {};
  }
  std::vector<Tensor> tensors() const { return {}; }
#ifdef MOLE_COMPILE_FAIL_OK
  mole::GateValue<T, B> weigh(const mole::PlacedGate<T, B>& placed, const Tensor& v,
                              const Tensor& keep) const;
#endif
};

int main() {
  const mole::SlotTable<float, mole::Cpu> table;
  const mole::Mixer<float, mole::Cpu> mixer(table, {}, UniformOptions());
  return mixer.two_passes();
}
