#pragma once
// A clean stop on Ctrl-C. Nothing here touches the process's signals until a CatchInterrupt is made.

#include <array>
#include <atomic>
#include <csignal>
#include <cstddef>
#include <mutex>

#include <signal.h>

#include <mole/core/error.hpp>

namespace mole {

/// A run that was asked to stop, and has: what it had done is in its checkpoint, if it keeps one.
struct Interrupted : Error {
  using Error::Error;
};

namespace detail {

inline std::atomic<bool> interrupt_requested{false};
/// How many catch it, and what the process did before the first of them.
struct InterruptState {
  static constexpr std::array<int, 2> signals{SIGINT, SIGTERM};
  std::mutex mutex;
  int catching = 0;
  std::array<struct sigaction, 2> before{};
};
inline InterruptState interrupt_state;
static_assert(std::atomic<bool>::is_always_lock_free, "a signal handler may set it");

}  // namespace detail

/// While one is alive, the first Ctrl-C (or SIGTERM) asks for a stop and a second one ends the program. Then
/// the process's own handlers are back. The request is the process's: threads that work together have one each at the
/// same time, and all of them see it.
///     const mole::CatchInterrupt interrupt;
///     hooks.stop = [&] { return interrupt.requested(); };
class CatchInterrupt {
 public:
  CatchInterrupt() {
    auto& state = detail::interrupt_state;
    const std::lock_guard lock(state.mutex);
    if (state.catching++ > 0) return;
    detail::interrupt_requested = false;
    struct sigaction catching {};
    catching.sa_handler = [](int) { detail::interrupt_requested = true; };
    // Reset after the first: the second signal does what it would have done by default.
    catching.sa_flags = static_cast<int>(SA_RESETHAND | SA_RESTART);
    sigemptyset(&catching.sa_mask);
    for (std::size_t i = 0; i < state.signals.size(); ++i)
      sigaction(state.signals[i], &catching, &state.before[i]);
  }
  ~CatchInterrupt() {
    auto& state = detail::interrupt_state;
    const std::lock_guard lock(state.mutex);
    if (--state.catching > 0) return;
    for (std::size_t i = 0; i < state.signals.size(); ++i)
      sigaction(state.signals[i], &state.before[i], nullptr);
  }
  CatchInterrupt(const CatchInterrupt&) = delete;
  CatchInterrupt& operator=(const CatchInterrupt&) = delete;

  /// Whether a stop was asked for.
  bool requested() const { return detail::interrupt_requested; }
};

}  // namespace mole
