#pragma once
// The subcommands of `pictures` and their options. Each throws mole::Error for what the user can mend. They are templates
// on the backend (compose.hpp, draw.hpp, train.hpp), instantiated once for each backend (see mole_add_backends() in
// cmake/backends.cmake).

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "common/ranks.hpp"
#include "common/training.hpp"
#include "pictures/assets.hpp"
#include "pictures/scenes.hpp"

namespace pictures {

using common::RunOptions;

/// `pictures compose`: the main job.
struct ComposeOptions {
  std::filesystem::path base = shipped() / "base", judge = shipped() / "judge", out = "pictures-out";
  std::vector<std::string> experts;
  std::vector<std::string>
      methods;        ///< rows of these names, or whose names begin so, in the table's order; empty: all
  Index steps = 20;   ///< of the sampler
  double effort = 1;  ///< the gates' training steps are multiplied by it
  double own = -1, rate = -1;  ///< of the gates; below 0: the methods' own
  Index batch = 0;             ///< pictures a step of the gates' training; 0: the methods' own
  Index prompts = 0;           ///< judged, at most, of each size; 0: all
  std::uint64_t seed = 1;
  bool validation = false;     ///< judge by prompts on colours set aside: for choosing options
  bool save_pictures = false;  ///< each picture of each row as a file
  common::RankOptions ranks = {};
};

/// `pictures draw`: one prompt with saved gates.
struct DrawOptions {
  std::filesystem::path gates, base = shipped() / "base", out = "picture.png";
  std::vector<std::string> experts;  ///< empty: those that the gates name
  std::string prompt;
  Index steps = 20;
  std::uint64_t seed = 1;
  bool show_gates = false;
  bool truncate = false;  ///< too long a prompt loses its end
};

/// `pictures train-clip`: the CLIP that guides and conditions, or that judges.
struct TrainClipOptions {
  RunOptions run{2200, 1024, 1.5e-3, "pictures-base/clip"};
  Index pool = 20000;  ///< scenes it sees, each drawn anew every time
};

/// `pictures train-base`: the UNet.
struct TrainBaseOptions {
  RunOptions run{6300, 256, 1.5e-3, "pictures-base"};
  std::filesystem::path clip;  ///< empty: clip/ in the output's folder
  Index pool = 100000;
};

/// `pictures train-expert`: a LoRA for one subject.
struct TrainExpertOptions {
  RunOptions run{600, 32, 2e-3, ""};
  std::filesystem::path base = shipped() / "base";
  std::string subject;
  Index rank = 8;
  double alpha = 8;
  Index pictures = 64;
  bool svdiff = false;  ///< shifts of singular values instead of a LoRA
};
/// The usual training of SVDiff's shifts.
inline constexpr Index svdiff_steps = 400;
inline constexpr double svdiff_rate = 5e-3;

/// `pictures tables`: the paper's tables.
struct TablesOptions {
  ComposeOptions compose;                                 ///< of each run; its folder is the study's
  std::vector<std::string> tables;                        ///< names; "all"
  std::filesystem::path experts = shipped() / "experts";  ///< of the subjects, by name
  Index seeds = 3;
  Index only_seed = 0;      ///< above 0: measures and keeps this seed's rows, and makes no table
  std::size_t largest = 6;  ///< experts, at most
};

/// The subcommands on one backend.
struct Commands {
  void (*compose)(const ComposeOptions& options);
  void (*draw)(const DrawOptions& options);
  void (*train_clip)(const TrainClipOptions& options);
  void (*train_base)(const TrainBaseOptions& options);
  void (*train_expert)(const TrainExpertOptions& options);
  void (*tables)(const TablesOptions& options);
};

/// The subcommands on the backend called "cpu" or "cuda". Throws mole::ArgumentError for any other name, and for a
/// backend that this build lacks, with what to do about it.
const Commands& commands_on(const std::string& backend);

}  // namespace pictures
