#pragma once
// What bench_mole is asked to run, and the benchmarks of a backend, each compiled in a file of its own.

#include <string>

namespace bench {

/// The benchmarks to add.
struct Options {
  std::string backend = "cpu";  ///< cpu or cuda
  std::string dtype = "f32";    ///< f32, tf32, f64, bf16 or half
  std::string filter;           ///< --benchmark_filter, to tell what was asked for by name
};

/// What there is to measure on a backend.
struct Benchmarks {
  /// Adds what the options ask for. Throws mole::ArgumentError for a dtype that the backend does not have.
  void (*add)(const Options& options);
};

/// Those of the backend called "cpu" or "cuda". Throws mole::ArgumentError for any other name, and for a
/// backend that this build lacks, with what to do about it.
const Benchmarks& benchmarks_on(const std::string& backend);

}  // namespace bench
