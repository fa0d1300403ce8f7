// expect: a pullback takes the gradient G of the op's value y
// A pullback that forgets the gradient is told what it gets, not shown the inside of a call.

#include <mole/autodiff/record.hpp>
#include <mole/backends/cpu.hpp>

int main() {
  const auto x = mole::Tensor<float>::ones({2});
#ifdef MOLE_COMPILE_FAIL_OK
  const auto y = mole::record({x}, x.clone(), [](const auto& G) { return G; });
#else
  const auto y = mole::record({x}, x.clone(), [x] { return x; });
#endif
  return y.defined();
}
