#pragma once
// A matrix of a GGUF file as it lies there, in the mapped file: nothing of it is copied.

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include <mole/core/error.hpp>
#include <mole/core/quote.hpp>
#include <mole/io/gguf.hpp>
#include <mole/io/gguf_dots.hpp>
#include <mole/nn/packed_rows.hpp>

namespace mole {

/// The rows of a tensor [d_out, d_in], which holds on to its file. With a head_dim, rows lie as llama.cpp puts a Llama's
/// queries and keys: within a head the two halves that are turned together alternate. They are read back in order.
class GgufRows final : public PackedRows {
 public:
  /// Throws FormatError, naming file and tensor, for one that is missing, is no matrix, has a type that is not read,
  /// no whole number of heads, or a block whose scale is not finite.
  GgufRows(std::shared_ptr<const GgufFile> file, const std::string& name, Index head_dim = 0)
      : file_(std::move(file)) {
    const std::string where = message(file_->path()) + ": tensor " + quote(name);
    const auto& tensor = file_->at(name);
    const auto* format = gguf_format(tensor.type);
    MOLE_CHECK_FORMAT(format, where, "is stored as ggml type", tensor.type, ", which is not read");
    MOLE_CHECK_FORMAT(tensor.shape.rank() == 2, where, "should be a matrix and is", tensor.shape);
    MOLE_CHECK_FORMAT(head_dim == 0 || (head_dim % 2 == 0 && tensor.shape[0] % head_dim == 0), where, "has",
                      tensor.shape[0], "rows, no whole number of heads of", head_dim);
    format_ = *format;
    shape_ = tensor.shape;
    stored_.format = for_devices(format_.type);
    stored_.data = reinterpret_cast<const std::uint8_t*>(tensor.data);
    row_blocks_ = shape_[1] / format_.values;
    stored_.row_bytes = row_blocks_ * format_.bytes;
    rows_ahead_ =
        (bytes_ahead / std::max(stored_.row_bytes, Index{1}) / PackedDots::most + 1) * PackedDots::most;
    stored_.head_dim = head_dim;
    const Index bad = detail::first_not_finite(format_, tensor.data, shape_.size());
    MOLE_CHECK_FORMAT(bad < 0, where, "has numbers that are not finite in block", bad);
  }

  Shape shape() const override { return shape_; }
  Index bytes() const override { return shape_[0] * stored_.row_bytes; }
  std::string_view format() const override { return format_.name; }

  void unpack(Index row, Index first, Index n, float* out) const override {
    detail::gguf_blocks(format_, row_at(row) + first / format_.values * format_.bytes, n / format_.values,
                        out);
  }

  bool dots(const PackedDots& dots, float (*y)[PackedDots::most]) const override {
    constexpr Index most = PackedDots::most;
    const Index soon = std::min(dots.row + rows_ahead_, shape_[0] - 1);
    detail::GgufRowBlocks W{
        .rows = {}, .blocks = row_blocks_, .bytes = format_.bytes, .ahead = row_at(soon) - row_at(dots.row)};
    const float* x[most];
    for (Index i = 0; i < most; ++i) {
      W.rows[i] = row_at(dots.row + std::min(i, dots.rows - 1));
      x[i] = dots.x + std::min(i, dots.tokens - 1) * dots.x_step;
    }
    return detail::gguf_dots(format_, W, dots.tokens, x, y);
  }

 private:
  /// How far ahead of a product memory is asked for what follows.
  static constexpr Index bytes_ahead = 16384;

  const std::uint8_t* row_at(Index row) const {
    return stored_.data + detail::stored_row(stored_, row) * stored_.row_bytes;
  }

  static PackedFormat for_devices(GgufType type) {
    using Type = GgufType;
    switch (type) {
      case Type::F16:
        return PackedFormat::f16;
      case Type::BF16:
        return PackedFormat::bf16;
      case Type::Q4_0:
        return PackedFormat::q4_0;
      case Type::Q4_1:
        return PackedFormat::q4_1;
      case Type::Q5_0:
        return PackedFormat::q5_0;
      case Type::Q5_1:
        return PackedFormat::q5_1;
      case Type::Q8_0:
        return PackedFormat::q8_0;
      case Type::Q4_K:
        return PackedFormat::q4_k;
      case Type::Q5_K:
        return PackedFormat::q5_k;
      case Type::Q6_K:
        return PackedFormat::q6_k;
      default:
        return PackedFormat::none;
    }
  }

  std::shared_ptr<const GgufFile> file_;
  GgufFormat format_{};
  Index row_blocks_ = 0, rows_ahead_ = 0;
  Shape shape_;
};

}  // namespace mole
