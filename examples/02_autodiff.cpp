// Lesson 2: gradients by running backwards.
//
//   y       the value of f, a function of tensors
//   G       the gradient of the loss with respect to y
//   dx      the gradient of the loss with respect to an input x: G times the Jacobian of f
//
// Every op knows its value and its pullback, the map from G to dx. Calling ops writes them on a tape;
// backward() walks the tape from the loss to the leaves and calls the pullbacks. No Jacobian is ever stored.

#include <cmath>
#include <cstdio>

#include <mole/mole.hpp>

using B = mole::Cpu;
using Tensor = mole::Tensor<double, B>;

bool all_hold = true;

void check(bool holds, const char* what) {
  std::printf("  %s %s\n", holds ? "yes:" : "NO: ", what);
  all_hold = all_hold && holds;
}

int main() {
  std::puts("The loss is sum(tanh(x)), so dx = 1 - tanh(x)^2");
  auto x = Tensor::from({4}, {-2, -0.5, 0.5, 2}).set_requires_grad();  // a leaf: it gets a grad()
  mole::backward(mole::sum(mole::tanh(x)));
  const auto values = x.to_host(), slopes = x.grad().to_host();
  double worst = 0;
  std::printf("  %8s %12s %18s\n", "x", "x.grad()", "1 - tanh(x)^2");
  for (std::size_t i = 0; i < values.size(); ++i) {
    const double by_hand = 1 - std::tanh(values[i]) * std::tanh(values[i]);
    std::printf("  %8.1f %12.8f %18.8f\n", values[i], slopes[i], by_hand);
    worst = std::max(worst, std::abs(slopes[i] - by_hand));
  }
  check(worst < 1e-15, "the tape and the formula agree");

  std::puts("\nGradients add up, over the uses of a tensor and over calls of backward()");
  x.zero_grad();
  mole::backward(mole::sum(x * x + 3.0 * x));  // three uses: 2 x + 3
  mole::backward(mole::sum(x));                // and 1 more
  check(x.grad().to_host() == std::vector<double>{0, 3, 5, 8}, "2 x + 3 + 1 = [0 3 5 8]");

  std::puts("\nWhat needs no gradient costs nothing: it never enters the tape");
  auto gate = Tensor::from({4}, {0.1, 0.2, 0.3, 0.4}).set_requires_grad();
  const auto frozen = Tensor::from({4}, {1, 2, 3, 4});  // as MoLE's base model and its experts are
  mole::backward(mole::sum(gate * frozen));
  check(gate.grad().to_host() == frozen.to_host() && !frozen.grad().defined(),
        "only the gate has a gradient");
  {
    const mole::NoGrad off;  // for inference
    check(!(gate * frozen).requires_grad(), "under NoGrad nothing is recorded");
  }

  std::puts("\nA seed G makes backward() a pullback: of y [3], one row of the Jacobian a call");
  std::puts("  softmax at [0 1 2], dy_i/dz_j = y_i (1[i = j] - y_j):");
  auto z = Tensor::from({3}, {0, 1, 2}).set_requires_grad();
  double apart = 0;
  for (std::size_t i = 0; i < 3; ++i) {
    std::vector<double> G(3);
    G[i] = 1;
    z.zero_grad();
    const auto y = mole::softmax(z);
    mole::backward(y, Tensor::from({3}, G));
    const auto p = y.to_host(), row = z.grad().to_host();
    std::printf("  %10.6f %10.6f %10.6f\n", row[0], row[1], row[2]);
    for (std::size_t j = 0; j < 3; ++j) apart = std::max(apart, std::abs(row[j] - p[i] * (G[j] - p[j])));
  }
  check(apart < 1e-15, "softmax's pullback is its Jacobian");

  std::puts("\ngrad_check compares a whole Jacobian with central differences: trust, but verify");
  const auto result = mole::grad_check<B>(
      [](const std::vector<Tensor>& in) { return mole::gate_softmax(in[0], in[1], in[2]); },
      {Tensor::randn({2, 5}, {1, 0}), Tensor::randn({5, 3}, {1, 1}), Tensor::scalar(0.3)});
  std::printf("  the gate of MoLE: %lld entries compared, largest error %.1e\n",
              static_cast<long long>(result.compared), result.worst);
  check(result.ok, "the gate's pullbacks are right");
  return all_hold ? 0 : 1;
}
