#pragma once
// Where the numbers of packed weights go, a vector at a time: to memory, or into products with x.

#include <cstring>

#include <mole/core/shape.hpp>
#include <mole/core/vectors.hpp>

namespace mole::detail {

/// Where numbers go, a vector of them at a time: to memory. `at` is their place in the block.
struct NumbersToMemory {
  float* y;

  template <class Vector>
  [[gnu::always_inline]] void put(int at, const Vector& numbers) const {
    std::memcpy(y + at, &numbers, sizeof numbers);
  }
};

/// Sixteen lanes of a sum.
template <InstructionSet set>
struct SumOfLanes {
  Floats<set> part[16 / vector_lanes<set>];

  [[gnu::always_inline]] float total() const {
    float lanes[16];
    std::memcpy(lanes, &part, sizeof lanes);
    return sum_of_lanes(lanes);
  }
};

/// Where numbers of W go to be multiplied: sums[t] += numbers x[t][first + at, ..), for some rows t of x.
template <InstructionSet set, int tokens>
struct NumbersToSums {
  const float* const* x;
  Index first;
  SumOfLanes<set>* sums;

  [[gnu::always_inline]] void put(int at, const Floats<set>& numbers) const {
    for (int t = 0; t < tokens; ++t) {
      Floats<set> in;
      std::memcpy(&in, x[t] + first + at, sizeof in);
      sums[t].part[at % 16 / vector_lanes<set>] += numbers * in;
    }
  }
};

}  // namespace mole::detail
