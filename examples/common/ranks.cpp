#include "common/ranks.hpp"

#include <algorithm>
#include <streambuf>

#include <omp.h>

#include <mole/dist/tcp.hpp>
#include <mole/dist/thread_group.hpp>

#include "common/command_line.hpp"
#include "common/devices.hpp"

namespace common {

namespace {

thread_local bool silent = false;  ///< whether this thread is a rank that prints nothing

/// While it lives, a stream takes nothing from silent threads.
class SilentThreads : std::streambuf {
 public:
  explicit SilentThreads(std::ostream& stream) : stream_(stream), to_(stream.rdbuf(this)) {}
  SilentThreads(const SilentThreads&) = delete;
  SilentThreads& operator=(const SilentThreads&) = delete;
  ~SilentThreads() override { stream_.rdbuf(to_); }

 private:
  int_type overflow(int_type c) override {
    if (silent || traits_type::eq_int_type(c, traits_type::eof())) return traits_type::not_eof(c);
    return to_->sputc(traits_type::to_char_type(c));
  }
  std::streamsize xsputn(const char* text, std::streamsize n) override {
    return silent ? n : to_->sputn(text, n);
  }
  int sync() override { return silent ? 0 : to_->pubsync(); }

  std::ostream& stream_;
  std::streambuf* to_;
};

}  // namespace

mole::dist::AnyGroup join_ranks(double timeout) {
  const auto place = mole::dist::launch_environment();
  if (place.size == 1) return {};
  if (place.launcher == "torchrun")
    return mole::dist::TcpGroup(mole::dist::tcp_meeting(), place.rank, place.size, seconds(timeout),
                                seconds(std::min(timeout, 60.0)));
  return join_by_mpi(place, timeout);
}

void RankOptions::run(const std::string& backend, const std::function<void(const RankOptions&)>& f) const {
  RankOptions mine = *this;
  const auto place = mole::dist::launch_environment();
  if (gpus == 1) {
    mine.group = join_ranks(timeout);
    if (mine.group.size() > 1)
      mine.group = devices_on(backend).join(place.local_rank, mine.group, seconds(timeout));
    return f(mine);
  }
  MOLE_CHECK_ARG(backend == "cuda", "--gpus", gpus, "is for --backend cuda");
  MOLE_CHECK_ARG(place.size == 1, "--gpus", gpus, "starts threads of one process, and", place.launcher,
                 "started", place.size, "processes; leave out one of the two");
  const auto& devices = devices_on(backend);
  MOLE_CHECK_ARG(gpus <= devices.count(), "--gpus", gpus, ": this process may use", devices.count(),
                 "; ask for fewer, or see CUDA_VISIBLE_DEVICES");
  const SilentThreads out(std::cout), error(std::cerr);
  const int threads = std::max(1, omp_get_max_threads() / gpus);
  mole::dist::ThreadGroup::run(
      gpus,
      [&](const mole::dist::ThreadGroup& host) {
        silent = host.rank() > 0;
        omp_set_num_threads(threads);
        RankOptions own = *this;
        own.group = devices.join(host.rank(), host, seconds(timeout));
        f(own);
      },
      seconds(timeout));
}

void add_rank_options(CLI::App& command, RankOptions& options, const std::string& start,
                      const std::string& batch) {
  const std::string title = "Several processes (" + start + " ..) or GPUs";
  command.add_option("--gpus", options.gpus, "with --backend cuda: train on as many GPUs of this machine")
      ->capture_default_str()
      ->check(whole(1, 64, "1..64"))
      ->group(title);
  command
      .add_option("--fixed-shards", options.fixed_shards,
                  "cut every batch into as many shares: the same bits for any number of processes that\n"
                  "divides it; 0: a share a process, the same up to rounding")
      ->capture_default_str()
      ->check(whole(0, 4096, "0..4096"))
      ->group(title);
  command
      .add_option("--timeout", options.timeout, "seconds after which a process that does not answer ends all")
      ->capture_default_str()
      ->check(number(0.1, 1e6, "0.1..1e6"))
      ->group(title);
  const auto before = command.get_footer();
  const bool resumes = command.get_option_no_throw("--resume") != nullptr;
  command.footer(
      before + (before.empty() ? "" : "\n\n") + "Several processes train the same gates as one: " + start +
      " --threads 1, srun or\n"
      "torchrun. So do several GPUs: --gpus 2 --backend cuda, or a process each. Each computes its share of every\n" +
      batch +
      ". The loss, the balance loss and the gradients are those of the whole up to\n"
      "rounding, however it is spread. The first alone prints, tests and writes files. Ctrl-C on any of them, or an\n"
      "error, stops all" +
      (resumes ? "; a checkpoint can be resumed by another number of them" : "") +
      ".\nmpirun and srun need a build with -DMOLE_MPI=ON; GPUs add up faster in one with -DMOLE_NCCL=ON.");
}

void expect_one_process(const std::string& command) {
  const auto place = mole::dist::launch_environment();
  MOLE_CHECK_ARG(place.size == 1, command, "is work for one process, and", place.launcher, "started",
                 place.size, "; start it without", place.launcher);
}

}  // namespace common
