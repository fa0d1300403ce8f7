// expect: T is no scalar; use float, double, mole::bf16, mole::half, or mole::Index for indices
// A tensor of what is no scalar is refused where it is named, in words, and the ops on it add nothing to that.

#include <mole/mole.hpp>

int main() {
#ifdef MOLE_COMPILE_FAIL_OK
  using T = float;
#else
  using T = int;
#endif
  const auto x = mole::Tensor<T>::ones({2, 3});
  return mean(mul(softmax(x), linear(x, x))).rank();
}
