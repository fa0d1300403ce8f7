#pragma once
// Which process this is of those that a launcher started together: mpirun, srun and torchrun each say it in
// environment variables of their own.

#include <array>
#include <charconv>
#include <cstdlib>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include <mole/core/error.hpp>

namespace mole::dist {

/// The place of this process. Without a launcher it is the only one.
struct LaunchEnvironment {
  int rank = 0;
  int size = 1;
  int local_rank = 0;    ///< among the processes of this machine: the GPU to take
  std::string launcher;  ///< whose variables these are, as "torchrun"; empty: none was there
};

/// The value of a variable, if it is set.
using Variables = std::function<std::optional<std::string>(const std::string& name)>;

/// Those of this process.
inline std::optional<std::string> environment_variable(const std::string& name) {
  const char* value = std::getenv(name.c_str());
  return value ? std::optional<std::string>(value) : std::nullopt;
}

namespace detail {

/// The variables of one kind of launcher. Without `marker` they are not looked at; it may be empty.
struct LauncherVariables {
  const char *launcher, *rank, *size, *local_rank, *marker;
};

// mpirun inside a job of Slurm sets its own, and so do the programs that torchrun starts. A job script of Slurm has
// SLURM_PROCID too, though it is one process: only srun makes steps.
inline constexpr std::array<LauncherVariables, 4> launchers{
    {{"torchrun", "RANK", "WORLD_SIZE", "LOCAL_RANK", ""},
     {"Open MPI's mpirun", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK", ""},
     {"mpiexec", "PMI_RANK", "PMI_SIZE", "", ""},
     {"srun", "SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", "SLURM_STEP_ID"}}};

inline int whole_number(const std::string& name, const std::string& text) {
  int value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  MOLE_CHECK_ARG(error == std::errc() && end == text.data() + text.size() && value >= 0,
                 "the environment variable", name, "should be a whole number >= 0, and is", quote(text));
  return value;
}

}  // namespace detail

/// Reads RANK, WORLD_SIZE and LOCAL_RANK (torchrun); else OMPI_COMM_WORLD_RANK, _SIZE and _LOCAL_RANK (Open MPI);
/// else PMI_RANK and PMI_SIZE (MPICH and others; MPI_LOCALRANKID where it is set, else the rank); else
/// SLURM_PROCID, SLURM_NTASKS and SLURM_LOCALID in a step of srun. None of these: one process by itself.
/// Throws ArgumentError where only some of a launcher's variables are set, naming what lacks; for a value that is
/// no number; and for a rank beyond the size.
inline LaunchEnvironment launch_environment(const Variables& variable = environment_variable) {
  for (const auto& kind : detail::launchers) {
    if (*kind.marker != '\0' && !variable(kind.marker)) continue;
    std::string set, lacking;
    std::array<int, 3> values{0, 1, 0};
    const std::array<const char*, 3> names{kind.rank, kind.size, kind.local_rank};
    for (std::size_t i = 0; i < names.size(); ++i) {
      if (*names[i] == '\0') continue;
      const auto value = variable(names[i]);
      auto& list = value ? set : lacking;
      list += (list.empty() ? "" : ", ") + std::string(names[i]);
      if (value) values[i] = detail::whole_number(names[i], *value);
    }
    if (set.empty()) continue;
    MOLE_CHECK_ARG(lacking.empty(), "the environment has", set, "but not", lacking, ", which", kind.launcher,
                   "sets together; start the program by it, or unset", set);
    LaunchEnvironment found{values[0], values[1], values[2], kind.launcher};
    MOLE_CHECK_ARG(found.rank < found.size, "the environment says", kind.rank, found.rank, "and", kind.size,
                   found.size, "; ranks are counted from 0");
    if (*kind.local_rank == '\0') {
      const auto local = variable("MPI_LOCALRANKID");
      found.local_rank = local ? detail::whole_number("MPI_LOCALRANKID", *local) : found.rank;
    }
    return found;
  }
  return {};
}

}  // namespace mole::dist
