#include "common/ranks.hpp"

#include <mole/dist/launch.hpp>

#include "common/command_line.hpp"

namespace common {

void RankOptions::join(const std::string& backend) {
  group = join_ranks(timeout);
  MOLE_CHECK_ARG(group.size() == 1 || backend == "cpu",
                 "several processes train on --backend cpu alone; start one for", backend);
}

void add_rank_options(CLI::App& command, RankOptions& options, const std::string& start) {
  const std::string title = "Several processes (" + start + " ..)";
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
      ->check(CLI::Range(0.1, 1e6).description("0.1..1e6"))
      ->group(title);
  const auto before = command.get_footer();
  command.footer(
      before + (before.empty() ? "" : "\n\n") + "Several processes train the same gates as one: " + start +
      " --threads 1, or srun. Each\n"
      "computes its share of every batch of --batch examples. The loss, the balance loss and the gradients are\n"
      "those of the whole batch up to rounding, however the labels are spread. The first process alone prints,\n"
      "tests and writes files. Ctrl-C on any of them, or an error, stops all; a checkpoint can be resumed by\n"
      "another number of processes. This needs a build with -DMOLE_MPI=ON.");
}

void expect_one_process(const std::string& command) {
  const auto place = mole::dist::launch_environment();
  MOLE_CHECK_ARG(place.size == 1, command, "is work for one process, and", place.launcher, "started",
                 place.size, "; start it without", place.launcher);
}

}  // namespace common
