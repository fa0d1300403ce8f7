// How fast MoLE is, against its own frozen base layer, the method by the letter, and the bare BLAS.
//
//   gemm/<shape>                            the two products of a base step: x W^T and G W, by the backend
//   gemm_blas/<shape>                       the same by bare calls of cuBLAS, or of the BLAS of a build with
//                                           EIGEN_USE_BLAS
//   mole_linear/<way>/<shape>/<what>        way: base (the frozen layer), mole (rank space), literal (eq.
//   8-13)
//                                           what: step = forward + backward to x, F and log_tau; forward
//   t5_gate_step/<small|base>               one gate-training step of a FLAN-T5 of that size
//   t5_many_experts/<base|dense|top<k>>     the same of a small T5 with 128 experts: bare, with all of them
//                                           mixed, or with k a sequence
//   t5_gate_sets/<n>                        forward with 128 experts, top-2, and n sets of gates in one batch
//   t5_many_experts/1024/<resident|paged|paged90>  the same with 1024 experts and two of them a sequence: all in
//                                           memory, or paged in from files, of which all or nine in ten are in
//                                           memory
//   packed/<format|dense>/<tokens>          a frozen layer 4096 -> 4096 whose weight stays packed: forward, and
//                                           backward to x of 512 tokens or more
//   decode/<1b|7b>/<bare|mole>[/nf4]        a token of a Llama, its frozen weights packed or not
//   .../graph                               the same step captured in a CUDA graph and replayed
//
// Gates read the experts' outputs and are token gates (Pooling::token), whose width does not depend on L; the
// data is random. On a GPU, steps are queued back to back and timed by the batch.
// GFLOP/s counts useful flops: the base's products, and for mole and literal those of the rank-space experts,
// so that of two ways the faster one shows more. phi is their ratio to the base's, the floor of mole / base.
// peak_bytes is what a step holds at its peak beyond its inputs and outputs (y and the gradients);
// peak/H is that over the bytes of H [S, L, sum r].
//
// Times of one machine wander. To compare ways, interleave repetitions:
//   --benchmark_filter='(base|mole)/cpubig/step' --benchmark_repetitions=9
//   --benchmark_enable_random_interleaving=true --benchmark_report_aggregates_only=true

#include <cstdio>
#include <exception>
#include <string>
#include <string_view>
#include <vector>

#include <benchmark/benchmark.h>
#include <mole/core/error.hpp>

#include "options.hpp"

namespace {

constexpr const char* usage =
    "usage: bench_mole [--backend cpu|cuda] [--dtype f32|f64|bf16|half|tf32] [--benchmark_...]\n"
    "\n"
    "  --backend NAME   where the layers run: cpu (the default) or cuda\n"
    "  --dtype NAME     what their numbers are: f32 (the default), f64, bf16, half; on cuda also tf32, which "
    "is\n"
    "                   f32 whose products round their factors to TF32\n"
    "\n"
    "The rest are Google Benchmark's own options:\n"
    "\n";

/// The value of option `name` at argument `i`, given as `--name value` or `--name=value`; empty when it is
/// another option. Moves i past what it read.
std::string value_of(std::string_view name, const std::vector<std::string>& arguments, std::size_t& i) {
  const std::string_view argument = arguments[i];
  if (argument == name) {
    MOLE_CHECK_ARG(i + 1 < arguments.size(), name, "needs a value");
    return arguments[++i];
  }
  if (argument.starts_with(name) && argument.substr(name.size()).starts_with('='))
    return std::string(argument.substr(name.size() + 1));
  return "";
}

/// Takes our own options out of `arguments`; the filter is only looked at.
bench::Options take_options(std::vector<std::string>& arguments) {
  bench::Options options;
  std::vector<std::string> rest;
  for (std::size_t i = 0; i < arguments.size(); ++i) {
    if (const auto backend = value_of("--backend", arguments, i); !backend.empty()) {
      options.backend = backend;
    } else if (const auto dtype = value_of("--dtype", arguments, i); !dtype.empty()) {
      options.dtype = dtype;
    } else {
      if (arguments[i].starts_with("--benchmark_filter=")) options.filter = arguments[i];
      rest.push_back(arguments[i]);
    }
  }
  arguments = rest;
  return options;
}

}  // namespace

int main(int argc, char** argv) try {
  std::vector<std::string> arguments(argv, argv + argc);
  const auto options = take_options(arguments);
  std::vector<char*> pointers;
  for (auto& argument : arguments) {
    if (argument == "--help") std::fputs(usage, stdout);
    pointers.push_back(argument.data());
  }
  auto count = static_cast<int>(pointers.size());
  benchmark::Initialize(&count, pointers.data());
  if (benchmark::ReportUnrecognizedArguments(count, pointers.data())) return 1;

  bench::benchmarks_on(options.backend).add(options);
  benchmark::AddCustomContext("backend", options.backend);
  benchmark::AddCustomContext("dtype", options.dtype);
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
} catch (const std::exception& error) {
  std::fprintf(stderr, "bench_mole: %s\n", error.what());
  return 1;
}
