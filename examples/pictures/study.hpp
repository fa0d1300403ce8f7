#pragma once
// What is compared on which prompts.

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include <mole/experts/routers/mole.hpp>

#include "pictures/scenes.hpp"

namespace pictures {

/// The prompts of a study of some subjects: gates are trained on the first, judged by the others.
struct Prompts {
  std::vector<Scene> training, two, three;
};

/// All ordered pairs side by side and one above the other, and all ordered triples if there are three subjects or more,
/// on each colour. Judged are yellow and purple, trained are the six others. For choices (`validation`) white and gray
/// are judged, and the four others trained, so that nothing is chosen by the test's prompts.
Prompts prompts_of(const std::vector<Index>& subjects, bool validation = false);

/// The scenes of a subject's own pictures: alone on each colour in turn.
std::vector<Scene> own_scenes(Index subject, std::size_t count);

/// Pictures of them, the same whichever other subjects there are.
std::vector<std::vector<float>> own_pictures_of(Index subject, std::size_t count, const Sprites& sprites);

/// How gates are trained. The loss is
///   clip (1 - cos(picture, prompt)) + own |v - v'|^2 + alpha L_balance
/// where the first is of pictures in flight (mole::TrajectoryPool), the second the plain diffusion loss on the pictures
/// that the experts were trained on.
struct GateTraining {
  mole::GateOptions gates;
  double clip = 1, own = 0, alpha = 0.01;
  Index steps = 130;   ///< of Adam, cosine behind a warm-up of 20
  Index pictures = 8;  ///< a step; of each kind, where there are two
  double rate = 0.03;
};

/// A way to combine experts: a row of the table.
struct Method {
  enum class Kind {
    base,
    single,
    sum,
    mean,
    svdiff_sum,
    svdiff_mean,
    fused,
    switching,
    composite,
    gates,
    masks
  };
  std::string name;
  Kind kind = Kind::base;
  std::size_t expert = 0;  ///< of a single one
  GateTraining training{};

  bool trains() const { return kind == Kind::gates; }
  /// Whether it shifts singular values (SVDiff) and needs each expert's shifts.
  bool is_spectral() const { return kind == Kind::svdiff_sum || kind == Kind::svdiff_mean; }
};

/// The rows of the main job for experts of these names; the gates' steps are scaled by `effort`.
std::vector<Method> methods_of(const std::vector<std::string>& experts, double effort = 1);

/// Rows that are made only when they are asked for: the other scopes and poolings.
std::vector<Method> further_methods(double effort = 1);

/// The row whose gates `draw` uses.
inline constexpr const char* best_method = "MoLE layer/token + diffusion";

/// The row of the renderer's own pictures.
inline constexpr const char* true_pictures = "true pictures";

/// Which experts each token of a level uses where gates are set by hand: each part of the picture and each part of the
/// caption its own object's expert. [tokens, experts], one-hot.
std::vector<float> picture_mask(const Scene& scene, const std::vector<std::size_t>& experts, Index level,
                                std::size_t n_experts);
std::vector<float> caption_mask(const std::string& caption, const std::vector<std::size_t>& experts,
                                Index length, std::size_t n_experts);

}  // namespace pictures
