#include "common/ranks.hpp"

#include <mole/dist/launch.hpp>

namespace common {

void expect_one_process(const std::string& command) {
  const auto place = mole::dist::launch_environment();
  MOLE_CHECK_ARG(place.size == 1, command, "is work for one process, and", place.launcher, "started",
                 place.size, "; start it without", place.launcher);
}

}  // namespace common
