#pragma once
// Whether the BLAS is made for this processor.

#include <algorithm>
#include <array>
#include <string_view>

#if defined(EIGEN_USE_BLAS) && defined(__x86_64__) && defined(__ELF__)
/// OpenBLAS's; null where another BLAS is linked.
extern "C" [[gnu::weak]] char* openblas_get_corename();
#endif

namespace mole::detail {

/// Whether this program is built for AVX2 or more, while OpenBLAS multiplies by kernels of a processor without. It
/// falls back to SSE3 on processors that came after it: 0.3.21 does so on Intel's Emerald Rapids, at a fifth of the
/// speed. OPENBLAS_CORETYPE=SkylakeX in the environment makes it use the right ones.
inline bool blas_lags() {
#if defined(EIGEN_USE_BLAS) && defined(__x86_64__) && defined(__ELF__) && defined(__AVX2__)
  static const bool lags = [] {
    constexpr std::array<std::string_view, 5> old{"Prescott", "Core2", "Nehalem", "Sandybridge", "Barcelona"};
    return openblas_get_corename != nullptr &&
           std::find(old.begin(), old.end(), openblas_get_corename()) != old.end();
  }();
  return lags;
#else
  return false;
#endif
}

}  // namespace mole::detail
