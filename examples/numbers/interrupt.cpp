#include "numbers/interrupt.hpp"

#include <atomic>
#include <csignal>

namespace numbers {

namespace {

std::atomic<bool> stop_requested{false};

}  // namespace

CatchInterrupt::CatchInterrupt() {
  stop_requested = false;
  for (const int signal : {SIGINT, SIGTERM})
    std::signal(signal, [](int caught) {
      stop_requested = true;
      std::signal(caught, SIG_DFL);
    });
}

CatchInterrupt::~CatchInterrupt() {
  for (const int signal : {SIGINT, SIGTERM}) std::signal(signal, SIG_DFL);
}

bool CatchInterrupt::requested() const { return stop_requested; }

}  // namespace numbers
