// expect: no match for.*operator|invalid operands to binary expression
// lines: 30
// Two scalar types do not mix: a silent conversion would lose digits.

#include <mole/mole.hpp>

int main() {
  const auto a = mole::Tensor<float>::ones({2});
#ifdef MOLE_COMPILE_FAIL_OK
  const auto b = mole::Tensor<float>::ones({2});
#else
  const auto b = mole::Tensor<double>::ones({2});
#endif
  return (a + b).defined();
}
