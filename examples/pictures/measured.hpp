#pragma once
// What is measured of pictures.

#include <limits>

namespace pictures {

/// The measures of one set of pictures, means over all; NaN for what cannot be measured.
struct Measured {
  double text = std::numeric_limits<double>::quiet_NaN();  ///< CLIP's cosine of picture and prompt
  /// CLIP's cosine of each half of a picture of two objects and the half's own subject.
  double half = std::numeric_limits<double>::quiet_NaN();
  double present = 0;      ///< share of the named objects that the judge finds
  double all_present = 0;  ///< share of pictures with all of them
};

}  // namespace pictures
