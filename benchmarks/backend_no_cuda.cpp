// In the place of backend_cuda.cu in a build without CUDA.

#include <mole/core/error.hpp>

#include "options.hpp"

void bench::add_cuda(const Options&) {
  throw mole::ArgumentError(
      "--backend cuda: this program was built without CUDA; configure the build with -DMOLE_CUDA=ON (or "
      "cmake "
      "--preset cuda) and build it again");
}
