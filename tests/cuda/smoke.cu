// Compiles and links what a user's training program needs, for every architecture it is built for, and runs
// it where there is a GPU: some steps of a MoLE layer and of a T5's gates, in float and bf16. Without a GPU
// only `smoke --compile-only` exits with 0. `smoke FOLDER` reads a model.

#include <cmath>
#include <cstdio>
#include <cstring>

#include <mole/cuda.cuh>
#include <mole/models/causal/load.hpp>
#include <mole/models/t5/checkpoint.hpp>

#include "models/t5/tiny_t5.hpp"

namespace {

using mole::Cuda;
using mole::testing::noise;

bool failed = false;

/// A loss has to fall from one step to a later one.
void report(const char* what, double before, double after) {
  const bool good = std::isfinite(after) && after < before;
  std::printf("%s: loss %.4f -> %.4f%s\n", what, before, after, good ? "" : "  FAILED");
  failed = failed || !good;
}

template <class T>
void train_layer(const char* what) {
  const mole::MoleLinear<T, Cuda> layer(
      noise<T>({7, 12}, 1), noise<T>({7}, 2),
      {mole::testing::random_factors(3, 12, 7, 0.5, 3), mole::testing::random_factors(2, 12, 7, 1, 4)},
      {.pooling = mole::Pooling::token});
  const auto x = noise<T>({2, 5, 12}, 5), target = noise<T>({2, 5, 7}, 6);
  mole::AdamW<T, Cuda> adamw(layer.parameters());
  double first = 0, last = 0;
  for (int t = 0; t < 30; ++t) {
    adamw.zero_grad();
    const auto loss = mse(layer(x).y, target);
    backward(loss);
    adamw.step(0.05);
    last = static_cast<double>(loss.item());
    if (t == 0) first = last;
  }
  report(what, first, last);
}

template <class T>
void train_t5(const char* what) {
  auto model = mole::testing::tiny_t5<T>();
  model.attach(mole::testing::tiny_adapters(model), {.pooling = mole::Pooling::token});
  mole::AdamW<T, Cuda> adamw(model.mixer().parameters());
  const auto batch = mole::testing::tiny_batch<T>();
  double first = 0, last = 0;
  for (int t = 0; t < 30; ++t) {
    adamw.zero_grad();
    mole::MolePass<T, Cuda> pass;
    const auto domain = model.loss(batch, pass);
    const auto loss = total_loss(domain, model.balance(pass), 0.01);
    backward(loss);
    adamw.step(0.05);
    last = static_cast<double>(loss.item());
    if (t == 0) first = last;
  }
  report(what, first, last);
}

}  // namespace

int main(int argc, char** argv) {
  const bool compile_only = argc > 1 && std::strcmp(argv[1], "--compile-only") == 0;
  int devices = 0;
  if (const cudaError_t status = cudaGetDeviceCount(&devices); status != cudaSuccess || devices == 0) {
    std::printf("smoke: no GPU (%s); compiled and linked, nothing was run\n", cudaGetErrorString(status));
    return compile_only ? 0 : 1;
  }
  if (compile_only) return 0;
  if (argc > 1) {
    // Readers of models are templates as well: nvcc has to take them.
    std::printf("smoke: reading %s\n", argv[1]);
    if (mole::read_model_type(argv[1]) == "t5")
      mole::load_t5<float, Cuda>(argv[1]);
    else
      mole::load_causal<float, Cuda>(argv[1]);
    return 0;
  }
  try {
    train_layer<float>("MoleLinear float");
    train_layer<mole::bf16>("MoleLinear bf16");
    train_t5<float>("T5 gates float");
    train_t5<mole::bf16>("T5 gates bf16");
  } catch (const mole::Error& error) {
    std::printf("smoke: %s\n", error.what());
    return 1;
  }
  return failed ? 1 : 0;
}
