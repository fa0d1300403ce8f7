// expect: a pullback takes the op's value y and its gradient G
// A pullback that forgets the value is told what it gets, not shown the inside of std::function.

#include <mole/autodiff/record.hpp>
#include <mole/backends/cpu.hpp>

int main() {
  const auto x = mole::Tensor<float>::ones({2});
#ifdef MOLE_COMPILE_FAIL_OK
  const auto y = mole::record({x}, x.clone(), [](const auto&, const auto& G) { return G; });
#else
  const auto y = mole::record({x}, x.clone(), [](const auto& G) { return G; });
#endif
  return y.defined();
}
