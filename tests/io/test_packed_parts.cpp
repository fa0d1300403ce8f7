// The bytes that a device gets of a packed matrix, read on the processor by the functions that its kernels are made of.

#include <bit>
#include <cmath>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <mole/io/gguf_rows.hpp>
#include <mole/nn/packed_parts.hpp>

#include "io/packed_goldens.hpp"

using namespace mole;
using namespace io_test;

namespace {

std::vector<std::uint32_t> bits_of(const std::vector<float>& values) {
  std::vector<std::uint32_t> bits;
  for (const float value : values) bits.push_back(std::bit_cast<std::uint32_t>(value));
  return bits;
}

/// The numbers of W by the device's bytes, one after another.
std::vector<float> numbers_of_parts(const PackedRows& W) {
  auto parts = packed_parts(W, "test");
  parts.matrix.data = parts.bytes.data();
  const auto& m = parts.matrix;
  CHECK(Shape{m.d_out, m.d_in} == W.shape());
  std::vector<float> numbers;
  detail::with_packed_format(m.format, [&](auto format) {
    for (Index row = 0; row < m.d_out; ++row)
      for (Index j = 0; j < m.d_in; ++j)
        numbers.push_back(detail::packed_number<format()>(m, row, j, detail::PackedMap{m.map}));
  });
  return numbers;
}

std::vector<float> numbers_of_rows(const PackedRows& W) { return unpacked<float, Cpu>(W).to_host(); }

}  // namespace

TEST_CASE("A device's bytes of every format stand for the numbers of the file, bit by bit") {
  const Folder folder;
  for (const auto& [label, rows] : packed_goldens(folder)) {
    const std::string name = label;
    CAPTURE(name);
    CHECK(bits_of(numbers_of_parts(*rows)) == bits_of(numbers_of_rows(*rows)));
  }
  for (const auto type : {GgufType::F16, GgufType::BF16}) {
    const auto rows = two_byte_rows(folder, type, 5, 36);
    CHECK(bits_of(numbers_of_parts(*rows)) == bits_of(numbers_of_rows(*rows)));
  }
}

TEST_CASE("Blocks of random bytes are the same numbers on a device, whatever their scales and codes") {
  const Folder folder;
  for (const auto& [label, type] : gguf_goldens) {
    const std::string name = label;
    CAPTURE(name);
    const auto& format = *gguf_format(static_cast<std::uint32_t>(type));
    GgufParts parts;
    parts.type = static_cast<std::uint32_t>(type);
    parts.extents = {1024, 16};
    for (Index i = 0; i < 1024 * 16 / format.values * format.bytes; ++i)
      // Without the highest bits of an exponent: all halves are finite.
      parts.data += static_cast<char>(std::lround(80 * normal({3, 1}, i)) & 0xbf);
    write_text(folder / "random.gguf", parts.bytes());
    const GgufRows rows(std::make_shared<const GgufFile>(folder / "random.gguf"), "a", 4);
    CHECK(bits_of(numbers_of_parts(rows)) == bits_of(numbers_of_rows(rows)));
  }
}

TEST_CASE("A device's bytes are hardly more than the file's") {
  const Folder folder;
  for (const auto& [label, rows] : packed_goldens(folder)) {
    const std::string name = label;
    CAPTURE(name);
    if (name.find("double") != name.npos) continue;  // scales that are quantised become floats
    const auto bytes = static_cast<double>(packed_parts(*rows, "test").bytes.size());
    CHECK(bytes < 1.04 * static_cast<double>(rows->bytes()) + 64);
  }
}

TEST_CASE("A format that devices do not read is refused by name") {
  const Folder folder;
  GgufParts parts;
  parts.type = static_cast<std::uint32_t>(GgufType::Q2_K);
  parts.extents = {256, 2};
  parts.data = std::string(2 * 84, '\1');
  write_text(folder / "q2_k.gguf", parts.bytes());
  const GgufRows rows(std::make_shared<const GgufFile>(folder / "q2_k.gguf"), "a");
  CHECK(mentions(error_of<DeviceError>([&] { packed_parts(rows, "gpu"); }),
                 {"gpu", "Q2_K", "without keeping them packed"}));
}
