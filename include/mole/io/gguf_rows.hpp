#pragma once
// A matrix of a GGUF file as it lies there, in the mapped file: nothing of it is copied.

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include <mole/core/error.hpp>
#include <mole/core/quote.hpp>
#include <mole/io/gguf.hpp>
#include <mole/nn/packed_rows.hpp>

namespace mole {

/// The rows of a tensor [d_out, d_in], which holds on to its file. With a head_dim, rows lie as llama.cpp puts a Llama's
/// queries and keys: within a head the two halves that are turned together alternate. They are read back in order.
class GgufRows final : public PackedRows {
 public:
  /// Throws FormatError, naming file and tensor, for one that is missing, is no matrix, has a type that is not read,
  /// no whole number of heads, or a block whose scale is not finite.
  GgufRows(std::shared_ptr<const GgufFile> file, const std::string& name, Index head_dim = 0)
      : file_(std::move(file)), head_dim_(head_dim) {
    const std::string where = message(file_->path()) + ": tensor " + quote(name);
    const auto& tensor = file_->at(name);
    const auto* format = gguf_format(tensor.type);
    MOLE_CHECK_FORMAT(format, where, "is stored as ggml type", tensor.type, ", which is not read");
    MOLE_CHECK_FORMAT(tensor.shape.rank() == 2, where, "should be a matrix and is", tensor.shape);
    MOLE_CHECK_FORMAT(head_dim_ == 0 || (head_dim_ % 2 == 0 && tensor.shape[0] % head_dim_ == 0), where,
                      "has", tensor.shape[0], "rows, no whole number of heads of", head_dim_);
    format_ = *format;
    shape_ = tensor.shape;
    data_ = reinterpret_cast<const std::uint8_t*>(tensor.data);
    row_bytes_ = shape_[1] / format_.values * format_.bytes;
    const Index bad = detail::first_not_finite(format_, tensor.data, shape_.size());
    MOLE_CHECK_FORMAT(bad < 0, where, "has numbers that are not finite in block", bad);
  }

  Shape shape() const override { return shape_; }
  Index bytes() const override { return shape_[0] * row_bytes_; }
  std::string_view format() const override { return format_.name; }

  void unpack(Index row, Index first, Index n, float* out) const override {
    detail::gguf_blocks(format_,
                        data_ + stored_row(row) * row_bytes_ + first / format_.values * format_.bytes,
                        n / format_.values, out);
  }

 private:
  Index stored_row(Index row) const {
    if (head_dim_ == 0) return row;
    const Index within = row % head_dim_, half = head_dim_ / 2;
    return row - within + 2 * (within % half) + within / half;
  }

  std::shared_ptr<const GgufFile> file_;
  Index head_dim_ = 0;
  GgufFormat format_{};
  Shape shape_;
  const std::uint8_t* data_ = nullptr;
  Index row_bytes_ = 0;
};

}  // namespace mole
