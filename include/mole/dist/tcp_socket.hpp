#pragma once
// Connections of TCP whose every wait has an end. POSIX.

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <utility>

#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <mole/dist/communicator.hpp>

namespace mole::dist::detail {

using Deadline = std::chrono::steady_clock::time_point;

/// An open socket, closed with its holder.
class Socket {
 public:
  Socket() = default;
  explicit Socket(int number) : number_(number) {}
  Socket(Socket&& other) noexcept : number_(std::exchange(other.number_, -1)) {}
  Socket& operator=(Socket&& other) noexcept {
    std::swap(number_, other.number_);
    return *this;
  }
  ~Socket() {
    if (number_ >= 0) ::close(number_);
  }

  explicit operator bool() const { return number_ >= 0; }
  int number() const { return number_; }

  /// Whether it can be read (POLLIN) or written (POLLOUT) before the deadline.
  bool ready(short events, Deadline deadline) const {
    for (;;) {
      const auto left =
          std::chrono::ceil<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
      pollfd one{number_, events, 0};
      const int timeout =
          static_cast<int>(std::clamp<std::chrono::milliseconds::rep>(left.count(), 0, 1 << 30));
      const int found = ::poll(&one, 1, timeout);
      if (found > 0) return true;
      if (found == 0 && std::chrono::steady_clock::now() >= deadline) return false;
      if (found < 0 && errno != EINTR) return false;
    }
  }

  /// Why not all bytes were sent; empty: they were.
  std::string send(const void* data, std::size_t bytes, Deadline deadline) const {
    const auto* from = static_cast<const char*>(data);
    while (bytes > 0) {
      const auto sent = ::send(number_, from, bytes, MSG_NOSIGNAL | MSG_DONTWAIT);
      if (sent > 0) {
        from += sent;
        bytes -= static_cast<std::size_t>(sent);
      } else if (sent < 0 && errno == EINTR) {
        continue;
      } else if (sent < 0 && errno != EAGAIN && errno != EWOULDBLOCK) {
        return std::strerror(errno);
      } else if (!ready(POLLOUT, deadline)) {
        return "it does not answer";
      }
    }
    return {};
  }

  /// Why not all bytes came; empty: they did.
  std::string receive(void* data, std::size_t bytes, Deadline deadline) const {
    auto* to = static_cast<char*>(data);
    while (bytes > 0) {
      const auto came = ::recv(number_, to, bytes, MSG_DONTWAIT);
      if (came > 0) {
        to += came;
        bytes -= static_cast<std::size_t>(came);
      } else if (came == 0) {
        return "it has ended";
      } else if (errno == EINTR) {
        continue;
      } else if (errno != EAGAIN && errno != EWOULDBLOCK) {
        return std::strerror(errno);
      } else if (!ready(POLLIN, deadline)) {
        return "it does not answer";
      }
    }
    return {};
  }

  /// Small messages go at once, and a machine that vanished is noticed.
  void tune() const {
    const int on = 1;
    ::setsockopt(number_, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    ::setsockopt(number_, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
  }

 private:
  int number_ = -1;
};

/// The addresses of a host, IPv4 and IPv6. Throws ArgumentError where it has none.
inline std::shared_ptr<addrinfo> addresses_of(const std::string& host, int port) {
  addrinfo wanted{};
  wanted.ai_family = AF_UNSPEC;
  wanted.ai_socktype = SOCK_STREAM;
  wanted.ai_flags = AI_NUMERICSERV;
  addrinfo* found = nullptr;
  const int status = ::getaddrinfo(host.c_str(), std::to_string(port).c_str(), &wanted, &found);
  MOLE_CHECK_ARG(status == 0, "there is no host", host, "-", ::gai_strerror(status));
  return {found, ::freeaddrinfo};
}

/// Listens at a host's first address that is this machine's. Throws ArgumentError where there is none, or its port is
/// in use.
inline Socket listen_at(const std::string& host, int port) {
  const auto list = addresses_of(host, port);
  std::string why;
  for (const addrinfo* one = list.get(); one; one = one->ai_next) {
    Socket made(::socket(one->ai_family, one->ai_socktype | SOCK_CLOEXEC, one->ai_protocol));
    const int on = 1;
    if (made) ::setsockopt(made.number(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (made && ::bind(made.number(), one->ai_addr, one->ai_addrlen) == 0 &&
        ::listen(made.number(), 128) == 0)
      return made;
    why = std::strerror(errno);
  }
  throw ArgumentError(
      message("rank 0 cannot listen at", host, "port", port, "-", why,
              "; choose this machine by MASTER_ADDR and a free port by MASTER_PORT or MOLE_PORT"));
}

/// A connection, if there is one within a second or so.
inline Socket connect_once(const std::string& host, int port) {
  const auto list = addresses_of(host, port);
  for (const addrinfo* one = list.get(); one; one = one->ai_next) {
    Socket made(::socket(one->ai_family, one->ai_socktype | SOCK_CLOEXEC | SOCK_NONBLOCK, one->ai_protocol));
    if (!made) continue;
    if (::connect(made.number(), one->ai_addr, one->ai_addrlen) != 0) {
      if (errno != EINPROGRESS ||
          !made.ready(POLLOUT, std::chrono::steady_clock::now() + std::chrono::seconds(1)))
        continue;
      int error = 0;
      socklen_t size = sizeof error;
      ::getsockopt(made.number(), SOL_SOCKET, SO_ERROR, &error, &size);
      if (error != 0) continue;
    }
    made.tune();
    return made;
  }
  return {};
}

}  // namespace mole::dist::detail
