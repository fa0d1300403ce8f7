#pragma once
// Four scalars side by side, read and written in one go.

namespace mole::detail {

inline constexpr int quad = 4;

template <class T>
struct alignas(quad * sizeof(T)) Quad {
  T values[quad];
};

}  // namespace mole::detail
