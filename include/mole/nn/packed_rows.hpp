#pragma once
// A matrix whose numbers lie in blocks of a few bits, as a file holds them.

#include <string_view>

#include <mole/core/shape.hpp>

namespace mole {

/// W [d_out, d_in] in a packed format. Its numbers are floats, formed when they are asked for.
class PackedRows {
 public:
  /// Where unpack() may begin and, but for the end of the row, end.
  static constexpr Index step = 256;

  virtual ~PackedRows() = default;
  /// [d_out, d_in]
  virtual Shape shape() const = 0;
  /// The name of its format, such as Q4_0 or NF4.
  virtual std::string_view format() const = 0;
  /// What it takes of memory, or of the file that it lies in.
  virtual Index bytes() const = 0;
  /// Numbers [first, first + n) of a row to out. first is a multiple of `step`; so is n, unless the row ends there.
  /// Several threads may call it at once.
  virtual void unpack(Index row, Index first, Index n, float* out) const = 0;
};

}  // namespace mole
