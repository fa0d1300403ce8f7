// Lesson 1: tensors. A tensor is a shape, and numbers in row-major order on a backend.
//
//   x [S, L, n]   S sequences (a batch) of L tokens of n features: the shape that all lessons speak of
//
// Which numbers (float, double) and which backend (the CPU, a GPU) are types; the shape is a value.

#include <cstdio>

#include <mole/mole.hpp>

using B = mole::Cpu;
using Tensor = mole::Tensor<double, B>;
using mole::Shape;

bool all_hold = true;

void check(bool holds, const char* what) {
  std::printf("  %s %s\n", holds ? "yes:" : "NO: ", what);
  all_hold = all_hold && holds;
}

/// One line for each row, that is for each run of the last axis.
void print(const char* name, const Tensor& x) {
  std::printf("%s %s\n", name, mole::message(x.shape()).c_str());
  const auto values = x.to_host();
  const auto n = static_cast<std::size_t>(x.size(-1));
  for (std::size_t i = 0; i < values.size(); ++i)
    std::printf("%9.3f%s", values[i], (i + 1) % n == 0 ? "\n" : "");
}

int main() {
  std::puts("Making tensors");
  const auto x = Tensor::from({2, 3}, {1, 2, 3, 4, 5, 6});
  print("x", x);
  // A random tensor is a pure function of (seed, stream): the same on any backend and any number of threads.
  const auto noise = Tensor::randn({2, 3}, {.seed = 1, .stream = 0});
  print("noise", noise);
  check(noise.to_host() == Tensor::randn({2, 3}, {.seed = 1, .stream = 0}).to_host(), "a seed repeats");

  std::puts("\nArithmetic: shapes are compared from the right, and an extent of 1 is repeated");
  const auto row = Tensor::from({3}, {10, 20, 30});
  const auto column = Tensor::from({2, 1}, {100, 200});
  print("x + row + column", x + row + column);
  check((x + row + column).to_host() == std::vector<double>{111, 122, 133, 214, 225, 236},
        "each element is the sum of its row's, its column's and its own number");

  std::puts("\nReductions name their axes, negative ones count from the end");
  print("sum over tokens", mole::sum(x, {0}));
  print("mean of each row", mole::mean(x, {-1}, /*keep=*/true));

  std::puts("\nA linear layer: y = x W^T + c, whatever stands before the last axis");
  const auto W = Tensor::from({2, 3}, {1, 0, -1, 0.5, 0.5, 0.5});
  const auto y = mole::linear(mole::reshape(x, {1, 2, 3}), W, Tensor::from({2}, {0, 1}));
  print("y [S, L, d_out]", y);
  check(y.shape() == Shape({1, 2, 2}) && y.to_host() == std::vector<double>{-2, 4, -2, 8.5},
        "by hand the same");

  std::puts("\nA handle is cheap: copies and reshapes share the numbers, clone() does not");
  const auto original = Tensor::zeros({2, 2});
  const auto view = mole::reshape(original, {4}), copy = original.clone();
  original.fill(5);
  check(view.to_host()[3] == 5, "the view sees the change");
  check(copy.to_host()[3] == 0, "the clone does not");

  std::puts("\nMistakes are exceptions that name the op and both shapes");
  try {
    mole::linear(x, Tensor::ones({2, 4}));
    check(false, "a wrong shape throws");
  } catch (const mole::ShapeError& error) {
    std::printf("  \"%s\"\n", error.what());
    check(true, "a wrong shape throws");
  }
  return all_hold ? 0 : 1;
}
