// expect: a router needs weigh\(placed, v, keep\), a gate's weights from what it reads
// A router that lacks a part stops the compiler, which names the part.

#include <mole/backends/cpu.hpp>
#include <mole/experts/routers/registry.hpp>

template <class T, class B>
class UniformRouter;

struct UniformOptions {
  static constexpr const char* name = "uniform";
  static constexpr std::array names{"uniform"};
  template <class T, class B>
  using Router = UniformRouter<T, B>;

  static UniformOptions with(std::string_view, const mole::GatePlacement&, double) { return {}; }
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
  UniformOptions options() const { return {}; }
  std::vector<Tensor> tensors() const { return {}; }
#ifdef MOLE_COMPILE_FAIL_OK
  mole::GateValue<T, B> weigh(const mole::PlacedGate<T, B>& placed, const Tensor& v,
                              const Tensor& keep) const;
#endif
};

using Routers =
    mole::detail::RouterVariant<std::variant<mole::GateOptions, UniformOptions>, float, mole::Cpu>;

int main() { return static_cast<int>(std::variant_size_v<Routers::type>) - 2; }
