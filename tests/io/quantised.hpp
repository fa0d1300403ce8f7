#pragma once
// The goldens of quantised weights, and what a packed matrix is judged by.

#include <bit>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <mole/autodiff/backward.hpp>
#include <mole/autodiff/grad_check.hpp>
#include <mole/io/safetensors.hpp>
#include <mole/nn/linear.hpp>
#include <mole/nn/packed_weight.hpp>
#include <mole/ops/shape.hpp>
#include <testing.hpp>

namespace io_test {

using mole::Index;

inline const mole::SafetensorsFile& quantised_golden() {
  static const mole::SafetensorsFile file(std::string(MOLE_TEST_DATA) + "/quant/model.safetensors");
  return file;
}

/// The bytes of a golden's tensor.
inline std::string quantised_bytes(const std::string& name) {
  const auto& view = quantised_golden().at(name);
  return {reinterpret_cast<const char*>(view.data), static_cast<std::size_t>(view.bytes)};
}

/// The golden's x [M, K], of which a matrix with shorter rows reads the first columns.
template <class T>
mole::Tensor<T, mole::testing::Device> quantised_input(Index columns) {
  const auto& file = quantised_golden();
  const auto shape = file.at("x").shape;
  const auto all = file.read<T>("x");
  std::vector<T> x;
  for (Index r = 0; r < shape[0]; ++r)
    x.insert(x.end(), all.begin() + r * shape[1], all.begin() + r * shape[1] + columns);
  return mole::Tensor<T, mole::testing::Device>::from({shape[0], columns}, x);
}

/// y, dx and the gradient of a packed weight are the golden's, by dot products and by panels.
template <class T>
void check_products(const std::string& name, const std::shared_ptr<const mole::PackedRows>& rows) {
  using mole::testing::Device, mole::testing::worst_error;
  const auto& file = quantised_golden();
  const double bound = std::same_as<T, float> ? 1e-6 : 1e-12;
  const auto W = mole::packed_weight<T, Device>(rows);
  const auto expected_y = file.read<double>(name + ".y"), expected_dx = file.read<double>(name + ".dx");
  const auto x = quantised_input<T>(W.d_in());
  CHECK(worst_error(mole::frozen_linear(x, W), expected_y) < bound);
  // The same rows four times over: too many for dot products.
  auto many = mole::concat(std::vector(4, x), 0);
  many.set_requires_grad();
  const auto y = mole::frozen_linear(many, W);
  const auto M = static_cast<std::size_t>(x.size(0));
  const auto G = mole::Tensor<T, Device>::from({x.size(0), W.d_out()}, file.read<T>("G"));
  mole::backward(y, mole::concat(std::vector(4, G), 0));
  const auto found_y = mole::testing::doubles(y), found_dx = mole::testing::doubles(many.grad());
  for (std::size_t i = 0; i < 4; ++i) {
    const auto part = [&](const std::vector<double>& all) {
      const std::size_t n = M * (all.size() / (4 * M));
      return std::vector<double>(all.begin() + static_cast<std::ptrdiff_t>(i * n),
                                 all.begin() + static_cast<std::ptrdiff_t>((i + 1) * n));
    };
    CHECK(worst_error(part(found_y), expected_y) < bound);
    CHECK(worst_error(part(found_dx), expected_dx) < bound);
  }
}

/// All that is asked of a packed matrix.
inline void check_packed(const std::string& name, const std::shared_ptr<const mole::PackedRows>& rows) {
  CAPTURE(name);
  using mole::testing::Device;
  const auto& file = quantised_golden();
  CHECK(rows->shape() == file.at(name + ".dequantised").shape);
  const auto numbers = mole::unpacked<float, Device>(*rows).to_host();
  const auto expected = file.read<float>(name + ".dequantised");
  REQUIRE(numbers.size() == expected.size());
  std::size_t differ = 0;
  for (std::size_t i = 0; i < numbers.size(); ++i)
    differ += std::bit_cast<std::uint32_t>(numbers[i]) != std::bit_cast<std::uint32_t>(expected[i]);
  CHECK(differ == 0);
  check_products<float>(name, rows);
  check_products<double>(name, rows);
  const auto W = mole::packed_weight<double, Device>(rows);
  const auto x = quantised_input<double>(W.d_in());
  const auto result = mole::grad_check<Device>(
      [&](const std::vector<mole::Tensor<double, Device>>& in) { return mole::frozen_linear(in[0], W); },
      {mole::slice(x, 0, 0, 1)});
  CHECK_MESSAGE(result.ok, result.where);
}

}  // namespace io_test
