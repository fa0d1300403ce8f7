#include "numbers/commands.hpp"

#include <mole/core/error.hpp>

namespace numbers {

const Commands& commands_on(const std::string& backend) {
  if (backend == "cpu") return *cpu_commands();
  MOLE_CHECK_ARG(backend == "cuda", "--backend", backend + ": choose cpu or cuda");
  const Commands* commands = cuda_commands();
  MOLE_CHECK_ARG(commands,
                 "--backend cuda: this program was built without CUDA; configure the build with "
                 "-DMOLE_CUDA=ON (or cmake --preset cuda) and build it again");
  return *commands;
}

}  // namespace numbers
