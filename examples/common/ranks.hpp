#pragma once
// A program of several ranks that work together: processes that a launcher (mpirun, srun) starts, or threads of one
// process with a GPU each.

#include <chrono>
#include <functional>
#include <iostream>
#include <string>

#include <CLI/CLI.hpp>

#include <mole/core/shape.hpp>
#include <mole/dist/any_group.hpp>
#include <mole/dist/launch.hpp>

namespace common {

/// How the ranks of a training run work together.
struct RankOptions {
  mole::dist::AnyGroup group;    ///< this rank and those that were started with it; see run()
  int gpus = 1;                  ///< threads of this process, each with a GPU
  mole::Index fixed_shards = 0;  ///< see mole::DataParallelOptions
  double timeout = 120;          ///< seconds that a rank waits for the others

  /// Whether a batch is computed in shares.
  bool in_shares() const { return group.size() > 1 || fixed_shards > 0; }
  /// Whether this rank prints, tests and writes files.
  bool first() const { return group.rank() == 0; }
  /// f(options with their group) on every rank of this process: once, or on `gpus` threads, of which the first alone
  /// prints. On CUDA each rank has a GPU of its own where there are several. Throws what f throws, what join_ranks()
  /// does, and mole::ArgumentError where there are fewer GPUs, or where a launcher was used as well.
  void run(const std::string& backend, const std::function<void(const RankOptions&)>& f) const;
};

/// Adds --gpus, --fixed-shards and --timeout to `command`, whose defaults are the options', and says in its footer what
/// several processes do. `start` is how they are started: "mpirun -np 2 numbers compose". `batch` is what they share.
void add_rank_options(CLI::App& command, RankOptions& options, const std::string& start,
                      const std::string& batch = "batch of --batch examples");

/// The group of the processes that were started together, or of this one by itself; see
/// mole::dist::launch_environment(). Those of torchrun meet by TCP, others by MPI. A rank that waits for the others for
/// longer than `timeout` seconds ends all. Throws as join_by_mpi() and mole::dist::tcp_meeting() do, and
/// mole::dist::PeerFailed where not all come.
mole::dist::AnyGroup join_ranks(double timeout);

/// The processes that MPI knows. Throws mole::ArgumentError where this build has no MPI, or where MPI knows nothing of
/// the others of `place`.
mole::dist::AnyGroup join_by_mpi(const mole::dist::LaunchEnvironment& place, double timeout);

/// Seconds as programs have them.
inline std::chrono::milliseconds seconds(double count) {
  return std::chrono::milliseconds(static_cast<long>(1000 * count));
}

/// Keeps what is written to std::cout and std::cerr from being printed while it lives, on every rank but the first that
/// is a process. An error that leaves the scope is printed.
class QuietRank {
 public:
  explicit QuietRank(const RankOptions& options) {
    if (options.first() || options.gpus > 1) return;
    out_ = std::cout.rdbuf(nullptr);
    error_ = std::cerr.rdbuf(nullptr);
  }
  QuietRank(const QuietRank&) = delete;
  QuietRank& operator=(const QuietRank&) = delete;
  ~QuietRank() {
    if (!out_) return;
    std::cout.rdbuf(out_);
    std::cerr.rdbuf(error_);
  }

 private:
  std::streambuf *out_ = nullptr, *error_ = nullptr;
};

/// To be called at the end of a program that may have joined, with its exit status, which it returns. Where this
/// process failed and the others do not come to their end as well, it ends them: they would wait for ever.
int leave_ranks(int status);

/// Throws mole::ArgumentError where several processes were started together: `command` is for one.
void expect_one_process(const std::string& command);

}  // namespace common
