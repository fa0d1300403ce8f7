#pragma once
// Processes as ranks, through MPI: on one machine or on many. Needs an MPI library (CMake's mole::mpi, by
// -DMOLE_MPI=ON), so mole.hpp does not include it.

#include <algorithm>
#include <chrono>
#include <climits>
#include <concepts>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <type_traits>

// The C++ bindings, which MPI gave up, would only bring warnings.
#ifndef OMPI_SKIP_MPICXX
#  define OMPI_SKIP_MPICXX
#endif
#ifndef MPICH_SKIP_MPICXX
#  define MPICH_SKIP_MPICXX
#endif
#include <mpi.h>

#include <mole/dist/communicator.hpp>

namespace mole::dist {

/// MPI for as long as it lives. One a process, ever; made before the first MpiGroup.
class MpiSession {
 public:
  MpiSession() {
    int level = 0;
    MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &level);
    MPI_Comm_dup(MPI_COMM_WORLD, &farewell_);
  }
  MpiSession(const MpiSession&) = delete;
  MpiSession& operator=(const MpiSession&) = delete;

  /// Leaves once every process does. It sleeps meanwhile: another may have an hour's work left.
  ~MpiSession() {
    if (!met_) all_leave(std::chrono::hours(24 * 365));
    MPI_Comm_free(&farewell_);
    MPI_Finalize();
  }

  /// Whether every process leaves, too, within a time: all have come to their end, or to one error. Once at most.
  bool all_leave(std::chrono::milliseconds within) {
    MPI_Request request;
    MPI_Ibarrier(farewell_, &request);
    const auto until = std::chrono::steady_clock::now() + within;
    int done = 0;
    while (MPI_Test(&request, &done, MPI_STATUS_IGNORE), !done && std::chrono::steady_clock::now() < until)
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    return met_ = done != 0;
  }

  /// Ends all processes at once: those that wait for this one would wait for ever.
  [[noreturn]] static void abort(int status) {
    MPI_Abort(MPI_COMM_WORLD, status);
    std::abort();
  }

 private:
  MPI_Comm farewell_ = MPI_COMM_NULL;  ///< its calls never meet those of a group
  bool met_ = false;
};

/// A rank that is a process of MPI_COMM_WORLD. Sums are taken on rank 0 and sent to all, so that they have the same
/// bits everywhere.
class MpiGroup {
 public:
  /// Where the others do not answer within `timeout`, a call says so on stderr and ends all processes: MPI has no
  /// other way out.
  explicit MpiGroup(std::chrono::milliseconds timeout = std::chrono::seconds(120)) : timeout_(timeout) {
    MPI_Comm_rank(MPI_COMM_WORLD, &rank_);
    MPI_Comm_size(MPI_COMM_WORLD, &size_);
  }

  int rank() const { return rank_; }
  int size() const { return size_; }

  template <std::floating_point T>
  void all_reduce_sum(T* x, Index n) const {
    const auto type = std::same_as<T, float> ? MPI_FLOAT : MPI_DOUBLE;
    static_assert(std::same_as<T, float> || std::same_as<T, double>);
    in_parts(n, 1, [&](Index first, int count) {
      MPI_Request request;
      if (rank_ == 0)
        MPI_Ireduce(MPI_IN_PLACE, x + first, count, type, MPI_SUM, 0, MPI_COMM_WORLD, &request);
      else
        MPI_Ireduce(x + first, nullptr, count, type, MPI_SUM, 0, MPI_COMM_WORLD, &request);
      wait(request);
    });
    broadcast(x, n, 0);
  }

  template <class T>
  void all_gather(const T* mine, Index n, T* all) const {
    static_assert(std::is_trivially_copyable_v<T>);
    const Index bytes = n * static_cast<Index>(sizeof(T));
    MOLE_CHECK_ARG(bytes <= INT_MAX, "all_gather: MPI takes at most", INT_MAX, "bytes a rank, got", bytes);
    MPI_Request request;
    MPI_Iallgather(mine, static_cast<int>(bytes), MPI_BYTE, all, static_cast<int>(bytes), MPI_BYTE,
                   MPI_COMM_WORLD, &request);
    wait(request);
  }

  template <class T>
  void broadcast(T* x, Index n, int root) const {
    static_assert(std::is_trivially_copyable_v<T>);
    in_parts(n, static_cast<Index>(sizeof(T)), [&](Index first, int count) {
      MPI_Request request;
      MPI_Ibcast(x + first, count * static_cast<int>(sizeof(T)), MPI_BYTE, root, MPI_COMM_WORLD, &request);
      wait(request);
    });
  }

  void barrier() const {
    MPI_Request request;
    MPI_Ibarrier(MPI_COMM_WORLD, &request);
    wait(request);
  }

 private:
  /// f(first, count) over parts that MPI's int can count, of bytes too.
  template <class F>
  static void in_parts(Index n, Index size, F f) {
    const Index most = INT_MAX / (16 * size);
    for (Index first = 0; first < n; first += most) f(first, static_cast<int>(std::min(most, n - first)));
  }

  /// Looks often at first, as the others are mostly just behind; then it leaves the core to them.
  void wait(MPI_Request& request) const {
    const auto start = std::chrono::steady_clock::now();
    for (Index looks = 0;; ++looks) {
      int done = 0;
      MPI_Test(&request, &done, MPI_STATUS_IGNORE);
      if (done) return;
      if (looks < 200) continue;
      const auto waited = std::chrono::steady_clock::now() - start;
      if (waited > timeout_) {
        std::fprintf(stderr,
                     "rank %d of %d has waited %.0f s for the others: one of them hangs or is gone; all are "
                     "ended\n",
                     rank_, size_, std::chrono::duration<double>(waited).count());
        MpiSession::abort(1);
      }
      std::this_thread::sleep_for(std::chrono::microseconds(waited < std::chrono::milliseconds(5) ? 5 : 100));
    }
  }

  std::chrono::milliseconds timeout_;
  int rank_ = 0, size_ = 1;
};

static_assert(Communicator<MpiGroup>);

}  // namespace mole::dist
