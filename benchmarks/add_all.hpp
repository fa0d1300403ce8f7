#pragma once
// All benchmarks of scalar T on backend B, for the one translation unit of each backend.

#include <iostream>
#include <string>
#include <type_traits>

#include <mole/core/error.hpp>
#include <mole/core/scalar.hpp>

#include "bare_blas.hpp"
#include "decode.hpp"
#include "layer.hpp"
#include "long_sequence.hpp"
#include "options.hpp"
#include "packed.hpp"
#include "products.hpp"
#include "t5_gate_sets.hpp"
#include "t5_many_experts.hpp"
#include "t5_paged_experts.hpp"

namespace bench {

/// Adds them. What takes a CPU seconds a step is left out there, with a note, unless the filter names it.
template <class T, class B>
void add_all(const Options& options) {
  std::string left_out;
  const auto wanted = [&](const std::string& name, bool large) {
    if (!std::is_same_v<B, mole::Cpu> || !large || options.filter.find(name) != std::string::npos)
      return true;
    left_out += " " + name;
    return false;
  };
  for (const auto& s : layer_shapes)
    if (wanted(s.name, s.large())) {
      add_gemm<T, B>(s);
      add_layer<T, B>(s);
      add_products<T, B>(s);
    }
  for (const auto& size : t5_sizes)
    if (wanted(std::string("t5_gate_step/") + size.name, size.large)) add_gate_step<T, B>(size);
  for (const auto& size : llama_sizes)
    if (wanted(std::string("decode/") + size.name, true)) add_decode<T, B>(size);
  add_long_sequence<T, B>(small_llama, {256});
  if (wanted("long_sequence/7b", true)) add_long_sequence<T, B>(llama_sizes[1], {8192, 32768});
  add_many_experts<T, B>();
  add_gate_sets<T, B>();
  if (wanted("t5_many_experts/1024", true)) add_paged_experts<T, B>();
  add_packed<T, B>();
  if (!left_out.empty())
    std::cerr << "bench_mole: left out on a CPU unless --benchmark_filter names them:" << left_out << "\n";
}

/// Those of the scalar that the options name.
template <class B>
void add_by_dtype(const Options& options) {
  constexpr bool has_tf32 = requires { B::allow_tf32(true); };
  const auto& dtype = options.dtype;
  if constexpr (has_tf32) B::allow_tf32(dtype == "tf32");
  if (dtype == "f32" || (has_tf32 && dtype == "tf32")) return add_all<float, B>(options);
  if (dtype == "f64") return add_all<double, B>(options);
  if (dtype == "bf16") return add_all<mole::bf16, B>(options);
  if (dtype == "half") return add_all<mole::half, B>(options);
  throw mole::ArgumentError("--dtype " + dtype + ": on " + B::name + " choose f32, " +
                            (has_tf32 ? "tf32, " : "") + "f64, bf16 or half");
}

/// The benchmarks of backend B.
template <class B>
const Benchmarks* benchmarks_of() {
  static constexpr Benchmarks benchmarks{add_by_dtype<B>};
  return &benchmarks;
}

}  // namespace bench
