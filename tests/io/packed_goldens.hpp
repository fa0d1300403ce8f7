#pragma once
// The goldens of quantised weights as packed rows.

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <mole/io/bitsandbytes.hpp>
#include <mole/io/gguf_rows.hpp>

#include "io/folder.hpp"
#include "io/gguf_bytes.hpp"
#include "io/quantised.hpp"

namespace io_test {

inline constexpr std::pair<const char*, mole::GgufType> gguf_goldens[] = {
    {"q4_0", mole::GgufType::Q4_0}, {"q4_1", mole::GgufType::Q4_1}, {"q5_0", mole::GgufType::Q5_0},
    {"q5_1", mole::GgufType::Q5_1}, {"q8_0", mole::GgufType::Q8_0}, {"q4_K", mole::GgufType::Q4_K},
    {"q5_K", mole::GgufType::Q5_K}, {"q6_K", mole::GgufType::Q6_K}};

/// A GGUF file in the folder with the golden's matrix as its tensor "a".
inline std::shared_ptr<const mole::GgufFile> gguf_golden_file(const Folder& folder, const std::string& name,
                                                              mole::GgufType type) {
  GgufParts parts;
  parts.type = static_cast<std::uint32_t>(type);
  const auto shape = quantised_golden().at(name + ".dequantised").shape;
  parts.extents = {static_cast<std::uint64_t>(shape[1]), static_cast<std::uint64_t>(shape[0])};
  parts.data = quantised_bytes(name + ".weight");
  write_text(folder / (name + ".gguf"), parts.bytes());
  return std::make_shared<const mole::GgufFile>(folder / (name + ".gguf"));
}

/// Packed rows of a golden, by its name.
struct PackedGolden {
  std::string name;
  std::shared_ptr<const mole::PackedRows> rows;
};

/// All of them. GGUF's are read from files in the folder.
inline std::vector<PackedGolden> packed_goldens(const Folder& folder) {
  std::vector<PackedGolden> all;
  for (const auto& [name, type] : gguf_goldens)
    all.push_back({name, std::make_shared<const mole::GgufRows>(gguf_golden_file(folder, name, type), "a")});
  const auto file = std::make_shared<const mole::Checkpoint>(std::string(MOLE_TEST_DATA) + "/quant");
  for (const std::string name :
       {"nf4", "nf4_double", "nf4_odd", "nf4_double_odd", "fp4_odd", "fp4_double_odd", "int8"})
    all.push_back({name, mole::bitsandbytes_weight(file, name + ".weight").rows});
  return all;
}

/// Random numbers of two bytes as rows of a GGUF file.
inline std::shared_ptr<const mole::PackedRows> two_byte_rows(const Folder& folder, mole::GgufType type,
                                                             mole::Index d_out, mole::Index d_in) {
  GgufParts parts;
  parts.type = static_cast<std::uint32_t>(type);
  parts.extents = {static_cast<std::uint64_t>(d_in), static_cast<std::uint64_t>(d_out)};
  for (mole::Index i = 0; i < d_out * d_in; ++i) {
    const double value = mole::normal({5, 9}, i);
    const std::uint16_t bits = type == mole::GgufType::F16 ? mole::half(value).bits : mole::bf16(value).bits;
    parts.data += static_cast<char>(bits & 255);
    parts.data += static_cast<char>(bits >> 8);
  }
  const auto path = folder / ("two_bytes_" + std::to_string(parts.type) + ".gguf");
  write_text(path, parts.bytes());
  return std::make_shared<const mole::GgufRows>(std::make_shared<const mole::GgufFile>(path), "a");
}

}  // namespace io_test
