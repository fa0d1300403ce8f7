#pragma once
// How long OpenMP's threads spin where they wait for work.

namespace common {

/// Begins the program anew, as the same process, with OpenMP's threads set to sleep soon where they wait. Otherwise
/// they spin for milliseconds: on a processor that other programs used as well, numbers took 2.7 times as long. How
/// long is read from the environment before main() begins, hence the new beginning. The program goes on as it is where
/// the user has set OMP_WAIT_POLICY, GOMP_SPINCOUNT (g++) or KMP_BLOCKTIME (clang), where LD_PRELOAD says that a tool
/// such as valgrind watches it, and where the system cannot begin it anew.
/// The first line of main(), with its argv.
void let_waiting_threads_sleep(char** argv);

}  // namespace common
