#pragma once
// Adds the CUDA backend: `using B = mole::Cuda;` and the same program runs on the GPU. For nvcc.

#include <mole/mole.hpp>

#include <mole/backends/cuda/backend.cuh>
#include <mole/backends/cuda/graph.cuh>
