// Without MPI: a program is one process.

#include <mole/dist/launch.hpp>

#include "common/ranks.hpp"

namespace common {

mole::dist::AnyGroup join_ranks(double) {
  const auto place = mole::dist::launch_environment();
  MOLE_CHECK_ARG(place.size == 1, place.launcher, "started", place.size,
                 "processes, and this build has no MPI by which they could work together: configure it with "
                 "-DMOLE_MPI=ON (apt-get install libopenmpi-dev), or start one process");
  return {};
}

int leave_ranks(int status) { return status; }

}  // namespace common
