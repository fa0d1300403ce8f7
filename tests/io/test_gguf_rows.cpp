// Matrices that are multiplied as they lie in a GGUF file.

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#if defined(_OPENMP)
#  include <omp.h>
#endif

#include <doctest/doctest.h>
#include <mole/io/gguf_rows.hpp>

#include "io/folder.hpp"
#include "io/gguf_bytes.hpp"
#include "io/packed_goldens.hpp"
#include "io/quantised.hpp"

using namespace mole;
using namespace io_test;

TEST_CASE("Every GGUF format has ggml's numbers, products and gradients while it stays packed") {
  const Folder folder;
  for (const auto& [name, type] : gguf_goldens) {
    const auto rows = std::make_shared<const GgufRows>(gguf_golden_file(folder, name, type), "a");
    CHECK(rows->bytes() == quantised_golden().at(std::string(name) + ".weight").bytes);
    check_packed(name, rows);
  }
}

TEST_CASE("Rows whose halves alternate within a head are read back in order") {
  const Folder folder;
  const auto file = gguf_golden_file(folder, "q8_0", GgufType::Q8_0);
  const auto stored = unpacked<float, Cpu>(GgufRows(file, "a")).to_host();
  const auto turned = unpacked<float, Cpu>(GgufRows(file, "a", 6)).to_host();
  const auto row = [](const std::vector<float>& all, std::ptrdiff_t r) {
    return std::vector<float>(all.begin() + 512 * r, all.begin() + 512 * (r + 1));
  };
  // Of each head of 6 the stored rows are 0 3 1 4 2 5.
  const std::ptrdiff_t from[] = {0, 2, 4, 1, 3, 5};
  for (std::ptrdiff_t r = 0; r < 24; ++r) CHECK(row(turned, r) == row(stored, r / 6 * 6 + from[r % 6]));
  CHECK(mentions(error_of([&] { GgufRows(file, "a", 7); }), {"q8_0.gguf", "'a'", "heads of 7"}));
  CHECK(mentions(error_of([&] { GgufRows(file, "a", 10); }), {"24 rows", "heads of 10"}));
}

TEST_CASE("A packed matrix that does not fit is refused by file and tensor") {
  const Folder folder;
  const auto refusal = [&](const GgufParts& parts, const std::string& name = "a") {
    write_text(folder / "x.gguf", parts.bytes());
    return error_of([&] { GgufRows(std::make_shared<const GgufFile>(folder / "x.gguf"), name); });
  };
  GgufParts parts;
  CHECK(refusal(parts).empty());
  CHECK(mentions(refusal(parts, "b"), {"x.gguf", "'b'"}));
  parts.type = 29;
  CHECK(mentions(refusal(parts), {"x.gguf", "'a'", "type 29"}));
  parts = {};
  parts.extents = {6};
  CHECK(mentions(refusal(parts), {"'a'", "matrix", "[6]"}));
  parts = {};
  parts.type = 8;
  parts.extents = {32, 2};
  parts.data = std::string(34, '\1') + std::string("\x00\x7e", 2) + std::string(32, '\1');  // a NaN
  CHECK(mentions(refusal(parts), {"'a'", "finite", "block 1"}));
}

TEST_CASE("A packed matrix outlives the name of its file, and its products keep their bits") {
  auto folder = std::make_unique<Folder>();
  const auto rows = std::make_shared<const GgufRows>(gguf_golden_file(*folder, "q4_0", GgufType::Q4_0), "a");
  folder.reset();
  const auto W = packed_weight<float, Cpu>(rows);
  const auto x = quantised_input<float>(512);
  const auto all = frozen_linear(x, W).to_host();
  // A row by itself is what it is among others.
  for (Index r = 0; r < x.size(0); ++r) {
    const auto one = frozen_linear(mole::slice(x, 0, r, r + 1), W).to_host();
    CHECK(std::equal(one.begin(), one.end(), all.begin() + r * W.d_out()));
  }
}

TEST_CASE("Products of packed weights have the same bits for any number of threads") {
#if defined(_OPENMP)
  const Folder folder;
  const auto rows = std::make_shared<const GgufRows>(gguf_golden_file(folder, "q4_K", GgufType::Q4_K), "a");
  const auto W = packed_weight<float, Cpu>(rows);
  const auto few = quantised_input<float>(512), many = concat(std::vector(9, few), 0);
  const auto all = [&] {
    auto x = many.clone();
    x.set_requires_grad();
    const auto y = frozen_linear(x, W);
    backward(y, y.detach());
    return std::vector{frozen_linear(few, W).to_host(), y.to_host(), x.grad().to_host()};
  };
  const int threads = omp_get_max_threads();
  omp_set_num_threads(1);
  const auto alone = all();
  for (const int n : {2, 3}) {
    omp_set_num_threads(n);
    CHECK(all() == alone);
  }
  omp_set_num_threads(threads);
#endif
}

TEST_CASE("Packed weights are multiplied with inputs of two bytes") {
  const Folder folder;
  const auto rows = std::make_shared<const GgufRows>(gguf_golden_file(folder, "q8_0", GgufType::Q8_0), "a");
  const auto found = frozen_linear(quantised_input<bf16>(512), packed_weight<bf16, Cpu>(rows)).to_host();
  const auto expected = quantised_golden().read<double>("q8_0.y");
  REQUIRE(found.size() == expected.size());
  for (std::size_t i = 0; i < found.size(); ++i)
    CHECK(static_cast<double>(float{found[i]}) == doctest::Approx(expected[i]).epsilon(0.02).scale(1));
}

#if defined(__x86_64__) && defined(__GNUC__)
namespace {

template <GgufType type>
void check_instruction_sets() {
  using Blocks = detail::GgufBlocks<type>;
  const auto& format = *gguf_format(static_cast<std::uint32_t>(type));
  CAPTURE(format.name);
  constexpr Index blocks = 3;
  std::vector<std::uint8_t> bytes(static_cast<std::size_t>(blocks * format.bytes));
  for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::uint8_t>(i * 89 % 251 & 0xbf);
  const auto n = static_cast<std::size_t>(blocks * format.values);
  std::vector<float> plain(n), wide(n);
  const std::uint8_t* const b = bytes.data();
  Blocks::template run<detail::InstructionSet::plain>(b, blocks, format.values, format.bytes, plain.data());
  if (detail::instruction_set() != detail::InstructionSet::plain) {
    detail::run_avx2<Blocks>(b, blocks, format.values, format.bytes, wide.data());
    CHECK(wide == plain);
  }
  detail::run_widest<Blocks>(b, blocks, format.values, format.bytes, wide.data());
  CHECK(wide == plain);
}

template <GgufType... types>
void check_instruction_sets_of() {
  (check_instruction_sets<types>(), ...);
}

}  // namespace

TEST_CASE("Blocks are the same numbers with whatever instructions the processor has") {
  using Type = GgufType;
  check_instruction_sets_of<Type::Q4_0, Type::Q4_1, Type::Q5_0, Type::Q5_1, Type::Q8_0, Type::Q2_K,
                            Type::Q3_K, Type::Q4_K, Type::Q5_K, Type::Q6_K>();
}
#endif
