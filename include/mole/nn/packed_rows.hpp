#pragma once
// A matrix whose numbers lie in blocks of a few bits, as a file holds them.

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>

#include <mole/core/kernels/packed_rows.hpp>
#include <mole/core/shape.hpp>

namespace mole {

/// Where the bytes of a packed matrix lie, from which a device's are made (nn/packed_parts.hpp).
struct StoredRows {
  PackedFormat format = PackedFormat::none;
  const std::uint8_t* data = nullptr;

  Index row_bytes = 0;  ///< of GGUF's blocks: a row's
  Index head_dim = 0;   ///< of GGUF's blocks: where not 0, rows are out of order; see stored_row()

  const std::byte* scales = nullptr;  ///< bitsandbytes: floats, or codes of floats where nested_size is not 0
  Index block = 0;                    ///< 4 bits: numbers that share one of them; 8 bits: 0, each row has one
  Index nested_size = 0;              ///< scales that share one of nested_scales
  const std::byte *nested_scales = nullptr, *nested_map = nullptr;  ///< floats
  float nested_offset = 0;
  float map[16] = {};  ///< what the codes of 4 bits stand for
};

namespace detail {

inline float float_at(const std::byte* numbers, Index i) {
  float value;
  std::memcpy(&value, numbers + i * static_cast<Index>(sizeof value), sizeof value);
  return value;
}

/// The scale of a block of bitsandbytes.
inline float stored_scale(const StoredRows& stored, Index block) {
  if (stored.nested_size == 0) return float_at(stored.scales, block);
  const auto code = static_cast<Index>(std::to_integer<std::uint8_t>(stored.scales[block]));
  // Rounded before the offset is added. A compiler that fuses the two sees through conversions, but not this.
  const volatile float product =
      float_at(stored.nested_map, code) * float_at(stored.nested_scales, block / stored.nested_size);
  return product + stored.nested_offset;
}

/// Where row `row` lies. llama.cpp puts a Llama's queries and keys so that within a head the two halves that are turned
/// together alternate.
inline Index stored_row(const StoredRows& stored, Index row) {
  if (stored.head_dim == 0) return row;
  const Index within = row % stored.head_dim, half = stored.head_dim / 2;
  return row - within + 2 * (within % half) + within / half;
}

}  // namespace detail

/// Up to four rows of a packed W by as many rows of x.
struct PackedDots {
  static constexpr Index most = 4;

  Index row, rows;  ///< of W: [row, row + rows)
  Index tokens;     ///< of x
  const float* x;
  Index x_step;  ///< from one row of x to the next
};

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
  /// y[t][r] = sum_j W[row + r][j] x[t][j] without a copy of W's numbers; false where the format has no such sums, and then
  /// they are made of unpack()'s numbers. Both ways have the same bits where they are compiled alike: number j is added
  /// to sum j % 16 of sixteen, and detail::sum_of_lanes() adds these up. Several threads may call it at once.
  virtual bool dots(const PackedDots& dots, float (*y)[PackedDots::most]) const {
    (void)dots, (void)y;
    return false;
  }

  /// Its bytes for a device. Its format is `none` where devices do not read it.
  const StoredRows& stored() const { return stored_; }

 protected:
  StoredRows stored_;
};

}  // namespace mole
