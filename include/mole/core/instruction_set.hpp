#pragma once
// Loops compiled for several processors, of which one is chosen where the program runs. Without this, a program that
// was not compiled with -march=native has vectors of 16 bytes.

#include <utility>

namespace mole::detail {

/// How wide vectors are.
enum class InstructionSet { plain, avx2, avx512 };

// Functions for several processors are GCC's and clang's; nvcc hands its host compiler another source.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__CUDACC__)

/// Of the processor that runs this. Every processor with AVX2 and FMA turns halves into floats as well (F16C), which not
/// all compilers can ask for.
inline InstructionSet instruction_set() {
  static const InstructionSet set = [] {
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
      return InstructionSet::avx512;
    return avx2 ? InstructionSet::avx2 : InstructionSet::plain;
  }();
  return set;
}

/// F::run<set>(args..) with the instructions of a set. F::run is always inlined, so that it is compiled for each.
template <class F, class... Args>
[[gnu::target("avx2,fma,f16c")]] void run_avx2(Args... args) {
  F::template run<InstructionSet::avx2>(args...);
}
template <class F, class... Args>
[[gnu::target("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")]] void run_avx512(Args... args) {
  F::template run<InstructionSet::avx512>(args...);
}

template <class F, class... Args>
void run_widest(Args... args) {
  switch (instruction_set()) {
    case InstructionSet::avx512:
      return run_avx512<F>(args...);
    case InstructionSet::avx2:
      return run_avx2<F>(args...);
    case InstructionSet::plain:
      return F::template run<InstructionSet::plain>(args...);
  }
}

#else

inline InstructionSet instruction_set() { return InstructionSet::plain; }

template <class F, class... Args>
void run_widest(Args... args) {
  F::template run<InstructionSet::plain>(args...);
}

#endif

}  // namespace mole::detail
