#include "common/waiting_threads.hpp"

#include <cstdlib>
#include <initializer_list>

#include <unistd.h>

namespace common {

void let_waiting_threads_sleep(char** argv) {
  for (const char* chosen : {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"})
    if (std::getenv(chosen) != nullptr) return;
  // A tenth of a millisecond or so: an idle machine runs as fast as with the default.
  ::setenv("GOMP_SPINCOUNT", "3000", 1);
  ::setenv("KMP_BLOCKTIME", "1", 1);
  ::execv("/proc/self/exe", argv);
}

}  // namespace common
