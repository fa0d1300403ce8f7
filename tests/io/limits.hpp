#pragma once
// Hostile files, opened in a process of their own that may take little of anything.

#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <exception>
#include <string>

#include <mole/core/error.hpp>

namespace io_test {

#if defined(__SANITIZE_ADDRESS__)
inline constexpr bool address_sanitizer = true;
#elif defined(__has_feature)
#  if __has_feature(address_sanitizer)
inline constexpr bool address_sanitizer = true;
#  else
inline constexpr bool address_sanitizer = false;
#  endif
#else
inline constexpr bool address_sanitizer = false;
#endif

#if defined(__OPTIMIZE__)
inline constexpr int processor_seconds = address_sanitizer ? 10 : 2;
#else
inline constexpr int processor_seconds = address_sanitizer ? 60 : 10;
#endif

/// What f() returns, or "Error: " and the message where it throws a mole::Error, run in a child process under
/// 1 GB of address space, 2 s of processor time and 8 MB of stack. "killed by signal N" or "undocumented: .."
/// where it ends in another way. AddressSanitizer maps terabytes: there the address space is not limited. Code
/// that is not optimised, or watched by it, has 10 s; code that is both has 60 s.
template <class F>
std::string limited(F f) {
  int ends[2];
  if (::pipe(ends) != 0) return "no pipe";
  const pid_t child = ::fork();
  if (child < 0) return "no child";
  if (child == 0) {
    ::close(ends[0]);
    const auto limit = [](int what, rlim_t value) {
      struct rlimit now {};
      ::getrlimit(static_cast<decltype(RLIMIT_AS)>(what), &now);
      now.rlim_cur = value;
      ::setrlimit(static_cast<decltype(RLIMIT_AS)>(what), &now);
    };
    if (!address_sanitizer) limit(RLIMIT_AS, rlim_t{1} << 30);
    limit(RLIMIT_CPU, processor_seconds);
    limit(RLIMIT_STACK, rlim_t{8} << 20);
    limit(RLIMIT_CORE, 0);
    std::string text;
    try {
      text = f();
    } catch (const mole::Error& error) {
      text = std::string("Error: ") + error.what();
    } catch (const std::exception& error) {
      text = std::string("undocumented: ") + error.what();
    }
    for (std::size_t sent = 0; sent < text.size();) {
      const ssize_t count = ::write(ends[1], text.data() + sent, text.size() - sent);
      if (count <= 0) break;
      sent += static_cast<std::size_t>(count);
    }
    // Not exit(): what the parent registered to be run at its end is not the child's.
    ::_exit(0);
  }
  ::close(ends[1]);
  std::string text;
  char buffer[4096];
  for (;;) {
    const ssize_t count = ::read(ends[0], buffer, sizeof buffer);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) break;
    text.append(buffer, static_cast<std::size_t>(count));
  }
  ::close(ends[0]);
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) continue;
  if (WIFSIGNALED(status)) return "killed by signal " + std::to_string(WTERMSIG(status));
  return text;
}

/// Whether a message may be printed: not too long, no control characters.
inline bool fit_to_print(const std::string& text) {
  for (const char c : text)
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) return false;
  return text.size() < 4096;
}

}  // namespace io_test
