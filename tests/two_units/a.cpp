// With b.cpp: a header that defines a function which is not inline fails to link here.

#include <mole/mole.hpp>

mole::Tensor<double> make_in_b(mole::Index rows, mole::Index columns);

int main() {
  const mole::Tensor<double> here = mole::Tensor<double>::ones({2, 3});
  const mole::Tensor<double> there = make_in_b(2, 3);
  return here.shape() == there.shape() && here.to_host() == there.to_host() ? 0 : 1;
}
