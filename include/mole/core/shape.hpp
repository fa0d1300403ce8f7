#pragma once
// Shapes of contiguous row-major tensors: a short list of extents with the arithmetic ops need.

#include <array>
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <ostream>
#include <span>
#include <string>
#include <vector>

#include <mole/core/error.hpp>

namespace mole {

/// Extents and element counts. Signed, so that differences and "from the end" axes are natural.
using Index = std::int64_t;

/// The extents of a tensor, outermost first. A scalar has rank 0 and one element. At most 8 axes.
class Shape {
 public:
  static constexpr int max_rank = 8;

  Shape() = default;
  Shape(std::initializer_list<Index> extents)
      : Shape(std::span<const Index>(extents.begin(), extents.size())) {}
  explicit Shape(const std::vector<Index>& extents) : Shape(std::span<const Index>(extents)) {}

  /// Throws ShapeError for more than 8 axes, a negative extent, or a product beyond the range of Index.
  explicit Shape(std::span<const Index> extents) {
    MOLE_CHECK_SHAPE(extents.size() <= max_rank, "Shape: at most", max_rank, "axes, got", extents.size());
    for (const Index extent : extents) push_back(extent);
  }

  int rank() const { return rank_; }
  /// Number of elements; 1 for a scalar.
  Index size() const { return size_; }
  const Index* begin() const { return extents_.data(); }
  const Index* end() const { return extents_.data() + rank_; }

  /// Extent of an axis; negative axes count from the end (-1 is the last). Throws ShapeError out of range.
  Index operator[](int axis) const { return extents_[static_cast<std::size_t>(this->axis(axis))]; }

  /// The axis as a number in [0, rank). Throws ShapeError out of range.
  int axis(int axis) const {
    if (axis < -rank_ || axis >= rank_) no_axis(axis);
    return axis < 0 ? axis + rank_ : axis;
  }

  /// The product of the extents in [first, last).
  Index size(int first, int last) const {
    Index product = 1;
    for (int i = first; i < last; ++i) product *= extents_[static_cast<std::size_t>(i)];
    return product;
  }

  /// A copy with one extent replaced.
  Shape with(int axis, Index extent) const {
    std::vector<Index> extents(begin(), end());
    extents[static_cast<std::size_t>(this->axis(axis))] = extent;
    return Shape(extents);
  }

  /// Appends an axis. Throws as the constructor does.
  void push_back(Index extent) {
    MOLE_CHECK_SHAPE(rank_ < max_rank, "Shape: at most", max_rank, "axes");
    MOLE_CHECK_SHAPE(extent >= 0, "Shape: negative extent", extent);
    MOLE_CHECK_SHAPE(extent == 0 || size_ <= std::numeric_limits<Index>::max() / extent,
                     "Shape: the number of elements overflows at extent", extent);
    extents_[static_cast<std::size_t>(rank_++)] = extent;
    size_ *= extent;
  }

  friend bool operator==(const Shape& a, const Shape& b) {
    if (a.rank_ != b.rank_) return false;
    for (int i = 0; i < a.rank_; ++i)
      if (a.begin()[i] != b.begin()[i]) return false;
    return true;
  }

 private:
  // On its own, so that the check above stays small wherever it is inlined.
  [[noreturn]] void no_axis(int axis) const {
    detail::fail<ShapeError>({"axis", axis, "does not exist in a shape of rank", rank_});
  }

  std::array<Index, max_rank> extents_{};
  int rank_ = 0;
  Index size_ = 1;
};

inline std::ostream& operator<<(std::ostream& out, const Shape& shape) {
  out << '[';
  for (int i = 0; i < shape.rank(); ++i) out << (i ? ", " : "") << shape[i];
  return out << ']';
}

}  // namespace mole
