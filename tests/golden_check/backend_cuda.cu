// golden_check on an NVIDIA GPU.

#include <mole/cuda.cuh>

#include <golden_check/check.hpp>

const golden::Checks* golden::cuda_checks() { return checks_of<mole::Cuda>(); }
