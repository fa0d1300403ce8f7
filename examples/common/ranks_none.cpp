// Without MPI: a program is one process, or several of torchrun.

#include "common/ranks.hpp"

namespace common {

mole::dist::AnyGroup join_by_mpi(const mole::dist::LaunchEnvironment& place, double) {
  throw mole::ArgumentError(mole::message(
      place.launcher, "started", place.size,
      "processes, and this build has no MPI by which they could work together: configure it with "
      "-DMOLE_MPI=ON (apt-get install libopenmpi-dev), start them by torchrun, or start one process"));
}

int leave_ranks(int status) { return status; }

}  // namespace common
