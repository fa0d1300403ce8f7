#pragma once
// Adds the CUDA backend: `using B = mole::Cuda;` and the same program runs on the GPU. For nvcc.

#include <mole/mole.hpp>

#include <mole/backends/cuda.cuh>
#include <mole/backends/detail/cuda_graph.cuh>
