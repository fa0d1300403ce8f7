// Ranks through MPI.

#include <chrono>
#include <memory>

#include <mole/dist/mpi.hpp>

#include "common/ranks.hpp"

namespace common {

namespace {

std::unique_ptr<mole::dist::MpiSession> session;

}  // namespace

mole::dist::AnyGroup join_by_mpi(const mole::dist::LaunchEnvironment& place, double timeout) {
  if (!session) session = std::make_unique<mole::dist::MpiSession>();
  const mole::dist::MpiGroup group(seconds(timeout));
  MOLE_CHECK_ARG(
      group.size() == place.size && group.rank() == place.rank, "the environment of", place.launcher,
      "says rank", place.rank, "of", place.size, ", and MPI says rank", group.rank(), "of", group.size(),
      "; start the program by the mpirun of the MPI that it was built with, or by srun --mpi=pmix");
  return group;
}

int leave_ranks(int status) {
  if (!session) return status;
  // 130: all were stopped, and rank 0 may be the last to leave.
  const bool failed = status != 0 && status != 130;
  if (failed && !session->all_leave(std::chrono::seconds(2))) mole::dist::MpiSession::abort(status);
  session.reset();
  return status;
}

}  // namespace common
