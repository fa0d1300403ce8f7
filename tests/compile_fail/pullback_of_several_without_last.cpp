// expect: a pullback of several outputs takes the vector G of their gradients
// The same where the op has several outputs.

#include <mole/autodiff/record.hpp>
#include <mole/backends/cpu.hpp>

int main() {
  const auto x = mole::Tensor<float>::ones({2});
#ifdef MOLE_COMPILE_FAIL_OK
  const auto [y, z] =
      mole::record({x}, std::array{x.clone(), x.clone()}, [](const auto& G, bool) { return G[0]; });
#else
  const auto [y, z] = mole::record({x}, std::array{x.clone(), x.clone()}, [](const auto& G) { return G[0]; });
#endif
  return y.defined() && z.defined();
}
