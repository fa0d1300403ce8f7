#include "common/image.hpp"

#include <mole/core/error.hpp>

namespace common {

namespace {

[[noreturn]] void refuse(const std::filesystem::path& path) {
  throw mole::Error(mole::message(path,
                                  "needs libpng, which this build does not have; install it (apt-get install "
                                  "libpng-dev) and configure again"));
}

}  // namespace

bool has_png() { return false; }

Image read_png(const std::filesystem::path& path, Index) { refuse(path); }

void write_png(const std::filesystem::path& path, const Image&) { refuse(path); }

}  // namespace common
