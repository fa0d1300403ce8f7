#pragma once
// Where a backend's captured steps are found.

#include <type_traits>

namespace mole {

/// What captures a step on backend B and repeats it: made from the step, a function, with replay(). Void
/// where B has nothing to gain from that.
template <class B>
struct GraphOf {
  using type = void;
};

/// Whether B has something to gain.
template <class B>
inline constexpr bool has_graphs = !std::is_void_v<typename GraphOf<B>::type>;

namespace detail {

/// Whether work is recorded for a graph: host values do not enter it then.
template <class B>
bool is_capturing() {
  if constexpr (requires { B::capturing(); })
    return B::capturing();
  else
    return false;
}

}  // namespace detail

}  // namespace mole
