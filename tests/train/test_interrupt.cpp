// A clean stop on Ctrl-C.

#include <doctest/doctest.h>

#include <csignal>
#include <memory>

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <mole/train/interrupt.hpp>

namespace {

int heard = 0;

/// Sets a handler of the test's own while it lives.
struct OwnHandler {
  OwnHandler() {
    heard = 0;
    struct sigaction own {};
    own.sa_handler = [](int) { ++heard; };
    sigemptyset(&own.sa_mask);
    sigaction(SIGINT, &own, &before);
  }
  ~OwnHandler() { sigaction(SIGINT, &before, nullptr); }
  struct sigaction before {};
};

/// The signal that ends a child process that runs f; 0 if none does.
template <class F>
int killed_by(F f) {
  const pid_t child = ::fork();
  if (child == 0) {
    f();
    ::_exit(0);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
}

}  // namespace

TEST_CASE("Ctrl-C and SIGTERM are requests while they are caught") {
  for (const int signal : {SIGINT, SIGTERM}) {
    const mole::CatchInterrupt interrupt;
    CHECK_FALSE(interrupt.requested());
    std::raise(signal);
    CHECK(interrupt.requested());
  }
  const mole::CatchInterrupt again;
  CHECK_FALSE(again.requested());
}

TEST_CASE("Threads that work together see one request, and the last of them gives the handler back") {
  const OwnHandler own;
  {
    auto first = std::make_unique<mole::CatchInterrupt>();
    std::raise(SIGINT);
    const mole::CatchInterrupt second;
    CHECK(first->requested());
    CHECK(second.requested());
    first.reset();
    CHECK(second.requested());
    CHECK(heard == 0);
  }
  std::raise(SIGINT);
  CHECK(heard == 1);
}

TEST_CASE("The process's own handler is back afterwards") {
  const OwnHandler own;
  {
    const mole::CatchInterrupt interrupt;
    std::raise(SIGINT);
    CHECK(interrupt.requested());
  }
  CHECK(heard == 0);
  std::raise(SIGINT);
  CHECK(heard == 1);
}

TEST_CASE("A second Ctrl-C ends the program") {
  CHECK(killed_by([] {
          const mole::CatchInterrupt interrupt;
          std::raise(SIGINT);
        }) == 0);
  for (const int signal : {SIGINT, SIGTERM})
    CHECK(killed_by([signal] {
            const mole::CatchInterrupt interrupt;
            std::raise(signal);
            std::raise(signal);
          }) == signal);
}
