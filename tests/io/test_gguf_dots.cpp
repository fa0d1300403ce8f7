// Products with GGUF's blocks whose numbers are formed in registers.

#include <cmath>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <doctest/doctest.h>
#include <mole/io/gguf_dots.hpp>
#include <mole/io/gguf_rows.hpp>
#include <mole/nn/few_rows.hpp>

#include "io/folder.hpp"
#include "io/packed_dots.hpp"
#include "io/packed_goldens.hpp"
#include "io/quantised.hpp"

using namespace mole;
using namespace io_test;

TEST_CASE("Products formed in registers have the bits of those with unpacked numbers") {
  const Folder folder;
  for (const auto& golden : gguf_goldens) {
    const std::string name = golden.first;
    CAPTURE(name);
    const auto rows = std::make_shared<const GgufRows>(gguf_golden_file(folder, name, golden.second), "a");
    CHECK(check_dots(rows));
  }
}

#if defined(__x86_64__) && defined(__GNUC__)
namespace {

template <GgufType type>
void check_dots_of_instruction_sets() {
  using Dots = detail::GgufDots<type, 2>;
  using Sums = float(*)[PackedDots::most];
  const auto& format = *gguf_format(static_cast<std::uint32_t>(type));
  CAPTURE(format.name);
  const Index blocks = 512 / format.values;
  std::vector<std::uint8_t> bytes(static_cast<std::size_t>(4 * blocks * format.bytes));
  for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::uint8_t>(i * 89 % 251 & 0xbf);
  std::vector<float> x;
  for (int i = 0; i < 1024; ++i) x.push_back(static_cast<float>(i * 37 % 64 - 32) / 32);
  const float* const inputs[] = {x.data(), x.data() + 512};
  const float* const* const in = inputs;
  detail::GgufRowBlocks W{.rows = {}, .blocks = blocks, .bytes = format.bytes, .ahead = 0};
  for (int r = 0; r < 4; ++r) W.rows[r] = bytes.data() + r * blocks * format.bytes;
  float plain[2][4], avx2[2][4], widest[2][4];
  Dots::template run<detail::InstructionSet::plain>(W, in, plain);
  detail::run_widest<Dots>(W, in, static_cast<Sums>(widest));
  for (int t = 0; t < 2; ++t)
    for (int r = 0; r < 4; ++r) {
      double scale = 0;
      std::vector<float> numbers(512);
      detail::gguf_blocks(format, W.rows[r], blocks, numbers.data());
      double sum = 0;
      for (int j = 0; j < 512; ++j) {
        const double product =
            static_cast<double>(numbers[static_cast<std::size_t>(j)]) * static_cast<double>(inputs[t][j]);
        sum += product;
        scale += std::abs(product);
      }
      CHECK(std::abs(static_cast<double>(plain[t][r]) - sum) <= 1e-6 * scale);
      CHECK(std::abs(static_cast<double>(widest[t][r]) - sum) <= 1e-6 * scale);
    }
  if (detail::instruction_set() == detail::InstructionSet::plain) return;
  detail::run_avx2<Dots>(W, in, static_cast<Sums>(avx2));
  for (int t = 0; t < 2; ++t)
    for (int r = 0; r < 4; ++r) CHECK(avx2[t][r] == widest[t][r]);
}

template <GgufType... types>
void check_dots_of() {
  (check_dots_of_instruction_sets<types>(), ...);
}

}  // namespace

TEST_CASE("Products formed in registers are sums of products with whatever instructions the processor has") {
  using Type = GgufType;
  check_dots_of<Type::Q4_0, Type::Q4_1, Type::Q5_0, Type::Q5_1, Type::Q8_0, Type::Q4_K, Type::Q5_K,
                Type::Q6_K>();
}
#endif
