#pragma once
// Weights that bitsandbytes has quantised, as they lie in a checkpoint: nothing of them is copied.
//
//   4 bits  X.weight  U8: two numbers a byte, the first in the high half, blocks of `blocksize` over the flattened matrix
//           .absmax  F32, the scale of each block;  .quant_map  F32 [16], what a half byte stands for
//           .quant_state.bitsandbytes__nf4 or __fp4  JSON as bytes: shape, blocksize, dtype
//           with double quantisation .absmax is U8 and  scale = nested_quant_map[absmax] * nested_absmax + nested_offset
//   8 bits  X.weight  I8 [d_out, d_in];  X.SCB  F32 [d_out], the largest magnitude of each row

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <mole/core/error.hpp>
#include <mole/core/omp.hpp>
#include <mole/core/quote.hpp>
#include <mole/io/bitsandbytes_numbers.hpp>
#include <mole/io/checkpoint.hpp>
#include <mole/io/config_fields.hpp>
#include <mole/nn/packed_rows.hpp>

namespace mole {

namespace detail {

/// A tensor beside a quantised weight, of the type and the number of elements that it must have; its bytes.
inline const std::byte* part_of_weight(const Checkpoint& file, const std::string& name, Dtype dtype,
                                       Index n) {
  const std::string where = message(file.file_of(name).path()) + ": tensor " + quote(name);
  const auto& view = file.at(name);
  MOLE_CHECK_FORMAT(view.dtype == dtype, where, "should hold", dtype, "and holds", view.dtype);
  MOLE_CHECK_FORMAT(view.shape.size() == n, where, "should have", n, "elements and is", view.shape);
  return view.data;
}

/// The same where all of its floats must be finite.
inline const std::byte* finite_part(const Checkpoint& file, const std::string& name, Index n) {
  const auto* data = part_of_weight(file, name, Dtype::F32, n);
  for (Index i = 0; i < n; ++i)
    MOLE_CHECK_FORMAT(is_finite(float_at(data, i)), message(file.file_of(name).path()) + ": tensor",
                      quote(name), "has a number that is not finite:", i);
  return data;
}

}  // namespace detail

/// A weight of 4 bits.
class Bits4Rows final : public PackedRows {
 public:
  /// Of NAME, such as "model.layers.0.mlp.up_proj.weight", and the tensors beside it. Throws FormatError, naming file
  /// and tensor, for one that is missing or has another type or length, and for a quant_state that is no such.
  Bits4Rows(std::shared_ptr<const Checkpoint> checkpoint, const std::string& name)
      : checkpoint_(std::move(checkpoint)) {
    const auto& file = *checkpoint_;
    const bool nf4 = file.contains(name + ".quant_state.bitsandbytes__nf4");
    const auto state_name = name + ".quant_state.bitsandbytes__" + (nf4 ? "nf4" : "fp4");
    MOLE_CHECK_FORMAT(!nf4 || !file.contains(name + ".quant_state.bitsandbytes__fp4"),
                      message(file.file_of(name).path()) + ": tensor", quote(name),
                      "has two quant_states, of nf4 and of fp4");
    const std::string source = message(file.file_of(state_name).path()) + ": tensor " + quote(state_name);
    const auto& bytes = file.at(state_name);
    MOLE_CHECK_FORMAT(bytes.dtype == Dtype::U8 && bytes.bytes <= most_state_bytes, source,
                      "should be JSON in at most", most_state_bytes, "bytes of U8");
    const auto state = detail::parse_json(
        {reinterpret_cast<const char*>(bytes.data), static_cast<std::size_t>(bytes.bytes)}, source + ":");
    MOLE_CHECK_FORMAT(state.is_object(), source, "should be a JSON object");
    const detail::ConfigFields fields(state, source + ":");
    const std::string type = fields.text("quant_type", "");
    MOLE_CHECK_FORMAT(type == (nf4 ? "nf4" : "fp4"), source, "says that quant_type is", quote(type));
    format_ = nf4 ? "NF4" : "FP4";
    read_shape(state, fields, source);
    stored_.format = PackedFormat::map4;
    stored_.block = block_of(fields, "blocksize", source);

    const Index n = shape_.size(), blocks = (n + stored_.block - 1) / stored_.block;
    stored_.data =
        reinterpret_cast<const std::uint8_t*>(detail::part_of_weight(file, name, Dtype::U8, (n + 1) / 2));
    const auto* map = detail::finite_part(file, name + ".quant_map", 16);
    const auto meaning = [&](Index code) {
      const float value = detail::float_at(map, code);
      // The map of fp4 has 0 twice, of which the kernels of bitsandbytes make 0 and -0.
      return !nf4 && code == 8 && value == 0 ? -0.0F : value;
    };
    for (Index byte = 0; byte < 256; ++byte)
      map_.pairs[static_cast<std::size_t>(byte)] = {meaning(byte >> 4), meaning(byte & 15)};
    for (Index code = 0; code < 16; ++code)
      map_.of[static_cast<std::size_t>(code)] = stored_.map[code] = meaning(code);
    const auto absmax = name + ".absmax";
    bytes_ = (n + 1) / 2;
    if (file.contains(absmax) && file.at(absmax).dtype == Dtype::U8) {
      stored_.scales = detail::part_of_weight(file, absmax, Dtype::U8, blocks);
      stored_.nested_size = block_of(fields, "nested_blocksize", source);
      const Index groups = (blocks + stored_.nested_size - 1) / stored_.nested_size;
      stored_.nested_scales = detail::finite_part(file, name + ".nested_absmax", groups);
      stored_.nested_map = detail::finite_part(file, name + ".nested_quant_map", 256);
      MOLE_CHECK_FORMAT(fields.has("nested_offset"), source, "lacks nested_offset");
      const double offset = fields.number("nested_offset", 0);
      MOLE_CHECK_FORMAT(std::abs(offset) <= std::numeric_limits<float>::max(), source,
                        "nested_offset is not finite in float");
      stored_.nested_offset = static_cast<float>(offset);
      bytes_ += blocks + 4 * groups;
    } else {
      stored_.scales = detail::finite_part(file, absmax, blocks);
      bytes_ += 4 * blocks;
    }
    Index bad = blocks;
    MOLE_OMP("omp parallel for schedule(static) reduction(min : bad) if (blocks > 100000)")
    for (Index i = 0; i < blocks; ++i)
      if (!is_finite(detail::stored_scale(stored_, i))) bad = std::min(bad, i);
    MOLE_CHECK_FORMAT(bad == blocks, message(file.file_of(absmax).path()) + ": tensor", quote(absmax),
                      "makes a scale that is not finite, of block", bad);
  }

  Shape shape() const override { return shape_; }
  std::string_view format() const override { return format_; }
  Index bytes() const override { return bytes_; }

  void unpack(Index row, Index first, Index n, float* out) const override {
    Index at = row * shape_[1] + first;
    const Index end = at + n;
    while (at < end) {
      if (const Index blocks = whole_blocks(at, end); blocks > 0) {
        unpack_blocks(at / stored_.block, blocks, out);
        out += blocks * stored_.block;
        at += blocks * stored_.block;
        continue;
      }
      const Index block = at / stored_.block, to = std::min(end, (block + 1) * stored_.block);
      unpack_block(detail::stored_scale(stored_, block), at, to, out);
      out += to - at;
      at = to;
    }
  }

  bool dots(const PackedDots& dots, float (*y)[PackedDots::most]) const override {
    return detail::bits4_dots(stored_, shape_[1], dots, y);
  }

  /// The tensors of NAME beside itself, where the file has them.
  static std::vector<std::string> parts(const std::string& name) {
    std::vector<std::string> parts;
    for (const char* part : {".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map",
                             ".quant_state.bitsandbytes__nf4", ".quant_state.bitsandbytes__fp4"})
      parts.push_back(name + part);
    return parts;
  }

 private:
  static constexpr Index most_state_bytes = 10'000, least_block = 2, most_block = 1 << 20, most_blocks = 32;

  void read_shape(const Json& state, const detail::ConfigFields& fields, const std::string& source) {
    const auto* const shape = detail::find_field(state, "shape");
    MOLE_CHECK_FORMAT(shape && shape->is_array() && shape->size() == 2, source,
                      "should have a shape of two numbers");
    const auto& sizes = detail::values_of(*shape);
    constexpr Index most = Index{1} << 30;
    shape_ = Shape{fields.integer("shape", sizes[0], 1, most), fields.integer("shape", sizes[1], 1, most)};
  }

  static Index block_of(const detail::ConfigFields& fields, const char* name, const std::string& source) {
    MOLE_CHECK_FORMAT(fields.has(name), source, "lacks", name);
    const Index size = fields.integer(name, least_block, least_block, most_block);
    MOLE_CHECK_FORMAT((size & (size - 1)) == 0, source, name, "should be a power of two and is", size);
    return size;
  }

  /// How many whole blocks lie at the beginning of [at, end), at most most_blocks.
  Index whole_blocks(Index at, Index end) const {
    return at % stored_.block == 0 ? std::min((end - at) / stored_.block, most_blocks) : 0;
  }

  void unpack_blocks(Index first, Index blocks, float* out) const {
    float scales[most_blocks];
    for (Index i = 0; i < blocks; ++i) scales[i] = detail::stored_scale(stored_, first + i);
    const Index bytes = stored_.block / 2;
    detail::run_widest<detail::Bits4Blocks>(&map_, stored_.data + first * bytes, bytes,
                                            static_cast<const float*>(scales), blocks, out);
  }

  /// Numbers [at, to) of the flattened matrix, all of one block.
  void unpack_block(float by, Index at, Index to, float* out) const {
    const auto half = [&](Index i) {
      const int code = i % 2 == 0 ? stored_.data[i / 2] >> 4 : stored_.data[i / 2] & 15;
      return map_.of[static_cast<std::size_t>(code)] * by;
    };
    if (at % 2 != 0) *out++ = half(at++);
    if (const Index whole = (to - at) / 2; whole > 0)
      detail::run_widest<detail::Bits4Stretch>(&map_, stored_.data + at / 2, whole, by, out);
    if ((to - at) % 2 != 0) out[to - at - 1] = half(to - 1);
  }

  std::shared_ptr<const Checkpoint> checkpoint_;
  Shape shape_;
  std::string_view format_;
  Index bytes_ = 0;
  detail::Bits4Map map_;
};

/// A weight of 8 bits: w SCB / 127, in the order of bitsandbytes' int8_vectorwise_dequant.
class Bits8Rows final : public PackedRows {
 public:
  /// Of "X.weight", beside X.SCB and X.weight_format. Throws FormatError, naming file and tensor, for one that is missing
  /// or has another type, length or order.
  Bits8Rows(std::shared_ptr<const Checkpoint> checkpoint, const std::string& name)
      : checkpoint_(std::move(checkpoint)) {
    const auto& file = checkpoint_->file_of(name);
    const std::string where = message(file.path()) + ": tensor " + quote(name);
    const auto found = file.unread().find(name);
    MOLE_CHECK_FORMAT(found != file.unread().end() && found->second.dtype == "I8", where,
                      "should hold I8, as there are scales of int8 beside it");
    shape_ = found->second.shape;
    MOLE_CHECK_FORMAT(shape_.rank() == 2, where, "should be a matrix and is", shape_);
    stored_.format = PackedFormat::int8;
    stored_.data = reinterpret_cast<const std::uint8_t*>(found->second.data);
    stored_.scales = detail::finite_part(*checkpoint_, scales_of(name), shape_[0]);
    const auto order = format_of(name);
    if (!checkpoint_->contains(order)) return;
    const auto* format = detail::part_of_weight(*checkpoint_, order, Dtype::U8, 1);
    MOLE_CHECK_FORMAT(std::to_integer<int>(*format) == 0, message(file.path()) + ": tensor", quote(order),
                      "should be 0, rows one after another, and is", std::to_integer<int>(*format));
  }

  Shape shape() const override { return shape_; }
  std::string_view format() const override { return "INT8"; }
  Index bytes() const override { return shape_.size() + 4 * shape_[0]; }

  void unpack(Index row, Index first, Index n, float* out) const override {
    detail::run_widest<detail::Bits8Stretch>(stored_.data + row * shape_[1] + first, n,
                                             detail::float_at(stored_.scales, row), out);
  }

  static std::string scales_of(const std::string& name) { return stem(name) + "SCB"; }
  static std::string format_of(const std::string& name) { return stem(name) + "weight_format"; }

 private:
  static std::string stem(const std::string& name) {
    constexpr std::string_view end = "weight";
    return name.ends_with(end) ? name.substr(0, name.size() - end.size()) : name + ".";
  }

  std::shared_ptr<const Checkpoint> checkpoint_;
  Shape shape_;
};

/// A weight of bitsandbytes, and the tensors that it takes of the file beside its own.
struct BitsandbytesWeight {
  std::shared_ptr<const PackedRows> rows;  ///< null: the tensor is not one
  std::vector<std::string> parts;
};

/// What bitsandbytes has made of a tensor. Throws as Bits4Rows and Bits8Rows do.
inline BitsandbytesWeight bitsandbytes_weight(const std::shared_ptr<const Checkpoint>& file,
                                              const std::string& name) {
  BitsandbytesWeight weight;
  for (auto& part : Bits4Rows::parts(name))
    if (file->contains(part)) weight.parts.push_back(std::move(part));
  if (!weight.parts.empty()) {
    weight.rows = std::make_shared<const Bits4Rows>(file, name);
  } else if (file->contains(Bits8Rows::scales_of(name))) {
    weight.parts = {Bits8Rows::scales_of(name), Bits8Rows::format_of(name)};
    weight.rows = std::make_shared<const Bits8Rows>(file, name);
  }
  return weight;
}

}  // namespace mole
