// The subcommands on an NVIDIA GPU.

#include <mole/cuda.cuh>

#include "numbers/commands_of.hpp"

const numbers::Commands* numbers::cuda_commands() { return commands_of<mole::Cuda>(); }
