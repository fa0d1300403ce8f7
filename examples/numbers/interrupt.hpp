#pragma once
// A clean stop on Ctrl-C.

#include <mole/core/error.hpp>

namespace numbers {

/// Raised by Ctrl-C once the checkpoint is written.
struct Interrupted : mole::Error {
  using mole::Error::Error;
};

/// While one is alive, the first Ctrl-C (or SIGTERM) asks the loop to stop and a second one ends the program.
class CatchInterrupt {
 public:
  CatchInterrupt();
  ~CatchInterrupt();
  CatchInterrupt(const CatchInterrupt&) = delete;
  CatchInterrupt& operator=(const CatchInterrupt&) = delete;

  /// Whether a stop was asked for.
  bool requested() const;
};

}  // namespace numbers
