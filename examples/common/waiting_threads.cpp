#include "common/waiting_threads.hpp"

#include <climits>
#include <cstdlib>
#include <initializer_list>

#include <sys/auxv.h>
#include <unistd.h>

namespace common {

void let_waiting_threads_sleep(char** argv) {
  for (const char* chosen : {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "LD_PRELOAD"})
    if (std::getenv(chosen) != nullptr) return;
  // Where the loader was started by hand, with the program as its argument, /proc/self/exe is the loader.
  if (::getauxval(AT_BASE) == 0) return;
  // By its path, so that the process keeps the program's name.
  char path[PATH_MAX];
  const auto length = ::readlink("/proc/self/exe", path, sizeof path);
  if (length <= 0 || length == static_cast<ssize_t>(sizeof path)) return;
  path[length] = 0;
  // A tenth of a millisecond or so: an idle machine runs as fast as with the default.
  ::setenv("GOMP_SPINCOUNT", "3000", 1);
  ::setenv("KMP_BLOCKTIME", "1", 1);
  ::execv(path, argv);
}

}  // namespace common
