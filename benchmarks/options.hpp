#pragma once
// What bench_mole is asked to run, and the plain functions that add the benchmarks of each backend: each
// backend's are compiled in a file of their own.

#include <functional>
#include <string>

namespace bench {

/// The benchmarks to add.
struct Options {
  std::string backend = "cpu";  ///< cpu or cuda
  std::string dtype = "f32";    ///< f32, tf32, f64, bf16 or half
  std::string filter;           ///< --benchmark_filter, to tell what was asked for by name
};

/// Adds the benchmarks of a backend. Throws mole::ArgumentError for a dtype that it does not have.
void add_cpu(const Options& options);
/// Throws mole::ArgumentError too in a build without CUDA.
void add_cuda(const Options& options);

}  // namespace bench
