#pragma once
// A judge that trained nothing: whether an emoji is in a picture, by normalised cross-correlation with its sprite.
// And pictures prepared for the measure of half a picture.

#include <vector>

#include "pictures/scenes.hpp"

namespace pictures {

/// The largest correlation of a sprite with the picture [side, side, 3] in [-1, 1], over sizes of 12 to 16 pixels and
/// all places: 1 for the sprite itself on a plain background. Only pixels that the sprite covers count.
class Template {
 public:
  Template(const Sprites& sprites, Index sprite);
  float operator()(const std::vector<float>& picture) const;

 private:
  /// A size of the sprite: its colours minus their mean where it covers a pixel, else 0.
  struct Scaled {
    Index size;
    float norm, count;          ///< of the colours; covered values
    std::vector<float> values;  ///< [size, size, 3]
    std::vector<float> mask;    ///< [size, size, 3]: 1 where the sprite covers
  };
  std::vector<Scaled> sizes_;
};

/// Templates of some sprites with a threshold each, halfway between pictures with the emoji and without.
class Judge {
 public:
  /// `scenes` hold the emoji; `others` are sprites of pictures without it. The seed is of the places.
  Judge(const Sprites& sprites, const std::vector<Index>& judged, const std::vector<Scene>& scenes,
        const std::vector<Index>& others, std::uint64_t seed = 1);

  /// Whether each of the scene's objects is in the picture. Throws mole::ArgumentError for an object that is not judged.
  std::vector<bool> present(const Scene& scene, const std::vector<float>& picture) const;
  float threshold(Index sprite) const;

 private:
  std::size_t place_of(Index sprite) const;

  std::vector<Index> judged_;
  std::vector<Template> templates_;
  std::vector<float> thresholds_;
};

/// The picture of two objects with the half of the other object painted over by the background, the colour of the
/// corner pixel.  object 0 is left or above.    Throws mole::ArgumentError for a scene that has no two halves.
std::vector<float> half_picture(const Scene& scene, const std::vector<float>& picture, std::size_t object);

}  // namespace pictures
