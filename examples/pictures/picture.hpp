#pragma once
// The study's pictures: all of one size, values in [-1, 1].

#include "common/image.hpp"

namespace pictures {

using common::Image;
using mole::Index;

/// The side of the study's pictures in pixels.
inline constexpr Index side = 32;

/// Values in [-1, 1], [side, side, 3], as bytes; values beyond are cut. Throws mole::NumericError for NaN or infinity.
Image to_image(const float* values);

}  // namespace pictures
