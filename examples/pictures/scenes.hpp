#pragma once
// The problem of the study: pictures of one to three emoji on a plain background, and their captions.

#include <array>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include <mole/core/random.hpp>

#include "pictures/picture.hpp"

namespace pictures {

/// The emoji that scenes are made of, as square RGBA sprites whose colours are multiplied by alpha.
struct Sprites {
  static constexpr Index size = 40;
  std::vector<std::string> names;  ///< "dog face"; the first `subjects` are held out of the base's training
  Index subjects = 0;
  std::vector<float> pixels;  ///< [number of names, size, size, 4] in [0, 1]

  Index count() const { return static_cast<Index>(names.size()); }
  const float* of(Index sprite) const { return pixels.data() + sprite * size * size * 4; }
  /// Its number. Throws mole::ArgumentError, naming the subjects, for a name that is not there.
  Index find(const std::string& name) const;
};

/// Reads sprites.json (names, subjects) and sprites.png, a sheet, from a folder. Throws mole::FormatError for files that
/// contradict each other, mole::Error where one cannot be read.
Sprites read_sprites(const std::filesystem::path& folder);

/// A background by its name.
struct Colour {
  const char* name;
  std::array<int, 3> rgb;
};
inline constexpr std::array<Colour, 8> colours{{{"red", {225, 95, 90}},
                                                {"green", {120, 190, 115}},
                                                {"blue", {105, 150, 230}},
                                                {"yellow", {245, 220, 110}},
                                                {"purple", {165, 120, 205}},
                                                {"gray", {150, 150, 150}},
                                                {"white", {245, 245, 245}},
                                                {"black", {35, 35, 35}}}};

/// Where the objects of a scene stand: one anywhere; two side by side; two one above the other; two above a third.
enum class Layout { alone, left_of, above, triangle };

/// How many objects a layout has.
constexpr std::size_t object_count(Layout layout) {
  return layout == Layout::alone ? 1 : layout == Layout::triangle ? 3 : 2;
}

/// What a picture shows.
struct Scene {
  Layout layout = Layout::alone;
  std::vector<Index> objects;  ///< sprites, as the caption names them
  std::size_t colour = 0;      ///< of the background
};

/// "a dog face left of a pizza on blue", "a dog face left of a pizza above an ant on blue".
std::string caption(const Scene& scene, const Sprites& sprites);

/// The scene of a caption, with or without articles, in any case. Throws mole::ArgumentError, saying what is wrong and
/// how captions are formed, for any other text.
Scene parse_scene(const std::string& text, const Sprites& sprites);

/// The centre and the side of each object in pixels, and how the background differs from its colour, in [-1, 1].
struct Placement {
  struct Object {
    float x, y, size;
  };
  std::vector<Object> objects;
  std::array<float, 3> jitter{};
};

/// Sizes of an object that is alone: those of the base's pictures, and those that experts are trained on.
struct SizeRange {
  float least = 13, most = 26;
};
inline constexpr SizeRange expert_sizes{12.5f, 20};

/// A random placement; a pure function of the stream.
Placement place(Layout layout, mole::RandomStream random, SizeRange alone = {});

/// The picture [side, side, 3] in [-1, 1]: sprites sampled bilinearly at twice the resolution, then averaged.
std::vector<float> render(const Scene& scene, const Placement& placement, const Sprites& sprites);

/// A random scene of these sprites: alone in 30% of all cases, left_of and above in 25% each, triangle in 20%.
Scene random_scene(const std::vector<Index>& sprites, mole::RandomStream random);

/// A scene that a caption could be confused with: two objects exchanged, or one replaced.
Scene confused(const Scene& scene, const std::vector<Index>& sprites, mole::RandomStream random);

}  // namespace pictures
