#pragma once
// Whether ops record their pullbacks.

#include <utility>

namespace mole {

namespace detail {

inline bool& recording() {
  thread_local bool on = true;
  return on;
}

}  // namespace detail

/// While one is alive, ops on this thread record nothing.
class NoGrad {
 public:
  NoGrad() : before_(std::exchange(detail::recording(), false)) {}
  ~NoGrad() { detail::recording() = before_; }
  NoGrad(const NoGrad&) = delete;
  NoGrad& operator=(const NoGrad&) = delete;

 private:
  bool before_;
};

}  // namespace mole
