// Uses an installed mole: a tensor, and a gradient through the tape.

#include <iostream>

#include <mole/mole.hpp>

int main() {
  mole::Tensor<double> x = mole::Tensor<double>::from({2, 2}, {1, 2, 3, 4});
  x.set_requires_grad();
  mole::backward(mole::sum(x * x));
  const std::vector<double> expected{2, 4, 6, 8};
  std::cout << "mole: d(sum x^2)/dx of shape " << x.grad().shape() << '\n';
  return x.grad().to_host() == expected ? 0 : 1;
}
