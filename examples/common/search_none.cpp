#include <mole/core/error.hpp>

#include "common/search.hpp"

void common::check_search() {
  throw mole::ArgumentError(
      "LoRAHub's search needs NLopt, which this program was built without; install it (apt-get install "
      "libnlopt-dev) or configure with -DMOLE_SEARCH=ON, and build again");
}

std::vector<double> common::search_weights(std::size_t, std::function<double(const std::vector<double>&)>,
                                           std::uint64_t) {
  check_search();
  return {};
}
