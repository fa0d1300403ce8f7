// In the place of backend_cuda.cu in a build without CUDA.

#include <golden_check/backends.hpp>

const golden::Checks* golden::cuda_checks() { return nullptr; }
