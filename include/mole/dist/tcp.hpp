#pragma once
// Processes as ranks, through TCP: for launchers that bring no MPI, such as torchrun.

#include <algorithm>
#include <array>
#include <chrono>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#include <mole/dist/communicator.hpp>
#include <mole/dist/launch.hpp>
#include <mole/dist/tcp_socket.hpp>

namespace mole::dist {

/// Where ranks meet: rank 0 listens at this host's address alone. Who does not say the job's word is turned away.
struct TcpMeeting {
  std::string host = "127.0.0.1";
  int port = 29500;
  std::string job;
};

/// MASTER_ADDR and MASTER_PORT, which torchrun sets; MOLE_PORT, where another port is to be used, and by default the
/// next one where torchrun listens at MASTER_PORT itself. The word is MOLE_JOB, else SLURM_JOB_ID, else
/// TORCHELASTIC_RUN_ID. Throws ArgumentError naming what lacks or is no port.
inline TcpMeeting tcp_meeting(const Variables& variable = environment_variable) {
  const auto needed = [&](const char* name) {
    const auto value = variable(name);
    MOLE_CHECK_ARG(value && !value->empty(), "ranks meet by TCP at MASTER_ADDR and MASTER_PORT, and", name,
                   "is not set; torchrun sets both");
    return *value;
  };
  TcpMeeting meeting{needed("MASTER_ADDR"), detail::whole_number("MASTER_PORT", needed("MASTER_PORT")), {}};
  if (const auto own = variable("MOLE_PORT"))
    meeting.port = detail::whole_number("MOLE_PORT", *own);
  else if (variable("TORCHELASTIC_USE_AGENT_STORE") == "True")
    ++meeting.port;
  MOLE_CHECK_ARG(meeting.port > 0 && meeting.port < 65536, "port", meeting.port,
                 "is outside 1..65535; choose one by MASTER_PORT or MOLE_PORT");
  for (const char* name : {"MOLE_JOB", "SLURM_JOB_ID", "TORCHELASTIC_RUN_ID"})
    if (const auto word = variable(name); word && !word->empty()) {
      meeting.job = *word;
      break;
    }
  MOLE_CHECK_ARG(!meeting.job.empty(),
                 "ranks that meet by TCP know each other by a word: set MOLE_JOB to the same one for all");
  MOLE_CHECK_ARG(meeting.job.size() <= 256, "MOLE_JOB is longer than 256 bytes");
  return meeting;
}

/// A rank that is a process, connected to rank 0, where sums are taken in the order of the ranks. All processors have
/// one byte order.
class TcpGroup {
 public:
  /// Meets the others, for which they have `patience`. A call that waits for another rank for longer than `timeout`
  /// ends the group: all ranks' calls throw PeerFailed. Throws PeerFailed where some did not come, ArgumentError for
  /// an address that is none.
  TcpGroup(const TcpMeeting& meeting, int rank, int size,
           std::chrono::milliseconds timeout = std::chrono::seconds(120),
           std::chrono::milliseconds patience = std::chrono::seconds(60))
      : shared_(std::make_shared<Shared>()) {
    MOLE_CHECK_ARG(size >= 1 && rank >= 0 && rank < size, "TcpGroup: rank", rank, "of", size);
    shared_->rank = rank;
    shared_->size = size;
    shared_->timeout = timeout;
    const auto deadline = std::chrono::steady_clock::now() + patience;
    if (size == 1) return;
    if (rank == 0)
      shared_->receive_peers(meeting, deadline);
    else
      shared_->join(meeting, deadline);
  }

  int rank() const { return shared_->rank; }
  int size() const { return shared_->size; }

  template <std::floating_point T>
  void all_reduce_sum(T* x, Index n) const {
    shared_->exchange(
        Kind::sum, bytes_of<T>(n),
        [&](const std::vector<std::vector<char>>& given) {
          std::vector<T> other(static_cast<std::size_t>(n));
          for (const auto& one : given) {
            if (!one.empty()) std::memcpy(other.data(), one.data(), one.size());
            for (std::size_t i = 0; i < other.size(); ++i) x[i] += other[i];
          }
          return std::pair<const void*, std::size_t>(x, bytes_of<T>(n));
        },
        x, x, bytes_of<T>(n));
  }
  template <class T>
  void all_gather(const T* mine, Index n, T* all) const {
    static_assert(std::is_trivially_copyable_v<T>);
    const auto bytes = bytes_of<T>(n), whole = bytes * static_cast<std::size_t>(size());
    shared_->exchange(
        Kind::gather, bytes,
        [&](const std::vector<std::vector<char>>& given) {
          auto* to = std::copy(mine, mine + n, all);
          for (const auto& one : given) {
            if (!one.empty()) std::memcpy(static_cast<void*>(to), one.data(), one.size());
            to += n;
          }
          return std::pair<const void*, std::size_t>(all, whole);
        },
        mine, all, whole);
  }
  template <class T>
  void broadcast(T* x, Index n, int root) const {
    static_assert(std::is_trivially_copyable_v<T>);
    MOLE_CHECK_ARG(root >= 0 && root < size(), "broadcast: expected a root in [0,", size(), "), got", root);
    const auto bytes = bytes_of<T>(n);
    shared_->exchange(
        Kind::broadcast, bytes,
        [&](const std::vector<std::vector<char>>& given) {
          if (root > 0 && bytes > 0)
            std::memcpy(static_cast<void*>(x), given[static_cast<std::size_t>(root) - 1].data(), bytes);
          return std::pair<const void*, std::size_t>(x, bytes);
        },
        x, x, bytes);
  }
  void barrier() const {
    char none = 0;
    all_gather(&none, 0, &none);
  }

 private:
  enum class Kind : std::uint32_t { sum, gather, broadcast };

  template <class T>
  static std::size_t bytes_of(Index n) {
    return static_cast<std::size_t>(n) * sizeof(T);
  }

  /// What a rank says first.
  struct Hello {
    std::array<char, 8> name{'m', 'o', 'l', 'e', 't', 'c', 'p', '1'};
    std::uint32_t rank = 0, size = 0, word = 0;  ///< bytes of the job's word, which follows
  };
  /// What stands before a rank's numbers.
  struct Call {
    Kind kind{};
    std::uint32_t call = 0;  ///< counted by each rank
    std::uint64_t bytes = 0;
    bool operator==(const Call&) const = default;
  };

  struct Shared {
    int rank = 0, size = 1;
    std::chrono::milliseconds timeout{};
    std::vector<detail::Socket> peers;  ///< rank 0: those of ranks 1, 2, ..; else that of rank 0
    std::uint32_t calls = 0;
    std::string ended;

    /// Rank 0 gets what the others give, makes what all get by answer(given) -> (data, bytes), and sends it. The others
    /// give `bytes` of `mine` and get `whole` bytes in `result`.
    template <class F>
    void exchange(Kind kind, std::size_t bytes, F answer, const void* mine, void* result, std::size_t whole) {
      if (!ended.empty()) throw PeerFailed(ended);
      const Call call{kind, calls++, bytes};
      const auto deadline = std::chrono::steady_clock::now() + timeout;
      if (rank > 0) {
        check(peers.front().send(&call, sizeof call, deadline), 0);
        check(peers.front().send(mine, bytes, deadline), 0);
        std::uint32_t length = 0;  // of what went wrong
        check(peers.front().receive(&length, sizeof length, deadline), 0);
        if (length > 0) {
          std::string why(std::min<std::uint32_t>(length, 1000), ' ');
          check(peers.front().receive(why.data(), why.size(), deadline), 0);
          end(why);
        }
        check(peers.front().receive(result, whole, deadline), 0);
        return;
      }
      std::vector<std::vector<char>> given;
      for (int other = 1; other < size; ++other) {
        const auto& peer = peers[static_cast<std::size_t>(other) - 1];
        Call its;
        check(peer.receive(&its, sizeof its, deadline), other);
        if (its != call)
          end(message("ranks 0 and", other, "make different calls, of", call.bytes, "and", its.bytes,
                      "bytes; do they run the same program?"));
        given.emplace_back(bytes);
        check(peer.receive(given.back().data(), bytes, deadline), other);
      }
      const auto [data, length] = answer(given);
      const std::uint32_t fine = 0;
      for (int other = 1; other < size; ++other) {
        const auto& peer = peers[static_cast<std::size_t>(other) - 1];
        check(peer.send(&fine, sizeof fine, deadline), other);
        check(peer.send(data, length, deadline), other);
      }
    }

    void check(const std::string& why, int other) {
      if (!why.empty()) end(message("rank", rank, "of", size, "has lost rank", other, "-", why));
    }

    /// Tells the others, as far as they listen.
    [[noreturn]] void end(const std::string& why) {
      ended = why;
      if (rank == 0) {
        const auto soon = std::chrono::steady_clock::now() + std::chrono::milliseconds(200);
        const auto said = shortened(why, 1000);
        const auto length = static_cast<std::uint32_t>(said.size());
        for (const auto& peer : peers)
          if (peer.send(&length, sizeof length, soon).empty()) (void)peer.send(said.data(), length, soon);
      }
      peers.clear();
      throw PeerFailed(why);
    }

    void join(const TcpMeeting& meeting, detail::Deadline deadline) {
      std::string why = "nobody listens";
      do {
        auto socket = detail::connect_once(meeting.host, meeting.port);
        if (socket) {
          Hello hello;
          hello.rank = static_cast<std::uint32_t>(rank);
          hello.size = static_cast<std::uint32_t>(size);
          hello.word = static_cast<std::uint32_t>(meeting.job.size());
          char welcome = 0;
          why = socket.send(&hello, sizeof hello, deadline);
          if (why.empty()) why = socket.send(meeting.job.data(), meeting.job.size(), deadline);
          // Rank 0 answers when all are there.
          if (why.empty() && socket.receive(&welcome, 1, deadline).empty() && welcome == 1) {
            peers.push_back(std::move(socket));
            return;
          }
          why = "it turned this rank away: are MOLE_JOB and the number of ranks the same for all?";
        }
        std::this_thread::sleep_for(std::chrono::milliseconds(100));
      } while (std::chrono::steady_clock::now() < deadline);
      throw PeerFailed(message("rank", rank, "of", size, "did not reach rank 0 at", meeting.host, "port",
                               meeting.port, "-", why));
    }

    void receive_peers(const TcpMeeting& meeting, detail::Deadline deadline) {
      const auto listening = detail::listen_at(meeting.host, meeting.port);
      peers.resize(static_cast<std::size_t>(size) - 1);
      for (int missing = size - 1; missing > 0;) {
        if (!listening.ready(POLLIN, deadline)) {
          const auto first = std::find_if(peers.begin(), peers.end(), [](const auto& peer) { return !peer; });
          throw PeerFailed(message("rank 0 of", size, "waited at", meeting.host, "port", meeting.port, "and",
                                   missing, "ranks did not come, the first of them rank",
                                   1 + (first - peers.begin())));
        }
        detail::Socket socket(::accept4(listening.number(), nullptr, nullptr, SOCK_CLOEXEC));
        if (!socket) continue;
        const auto other = expected(socket, meeting);
        if (other == 0 || peers[other - 1]) continue;
        socket.tune();
        peers[other - 1] = std::move(socket);
        --missing;
      }
      const char welcome = 1;
      for (int other = 1; other < size; ++other)
        check(peers[static_cast<std::size_t>(other) - 1].send(&welcome, 1, deadline), other);
    }

    /// The rank of who has come; 0 for a stranger. One who says nothing is not waited for.
    std::size_t expected(const detail::Socket& socket, const TcpMeeting& meeting) const {
      const auto soon = std::chrono::steady_clock::now() + std::chrono::seconds(2);
      Hello hello;
      const Hello own;
      hello.name = {};
      if (!socket.receive(&hello, sizeof hello, soon).empty() || hello.name != own.name) return 0;
      if (hello.size != static_cast<std::uint32_t>(size) || hello.rank == 0 || hello.rank >= hello.size ||
          hello.word != meeting.job.size())
        return 0;
      std::string word(hello.word, ' ');
      if (!socket.receive(word.data(), word.size(), soon).empty() || word != meeting.job) return 0;
      return hello.rank;
    }
  };

  std::shared_ptr<Shared> shared_;
};

static_assert(Communicator<TcpGroup>);

}  // namespace mole::dist
