#pragma once
// A program that a launcher (mpirun, srun) starts as several processes, which work together as ranks.

#include <string>

#include <mole/dist/any_group.hpp>

namespace common {

/// The group of the processes that were started together, or of this one by itself; see
/// mole::dist::launch_environment(). A rank that waits for the others for longer than `timeout` seconds ends all.
/// Throws mole::ArgumentError where there are several and this build has no MPI, or where MPI knows nothing of the
/// others.
mole::dist::AnyGroup join_ranks(double timeout);

/// To be called at the end of a program that may have joined, with its exit status, which it returns. Where this
/// process failed and the others do not come to their end as well, it ends them: they would wait for ever.
int leave_ranks(int status);

/// Throws mole::ArgumentError where several processes were started together: `command` is for one.
void expect_one_process(const std::string& command);

}  // namespace common
