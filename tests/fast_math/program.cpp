// The library under flags that let a compiler treat real numbers as if they were exact and never NaN: -Ofast,
// -ffast-math. Whatever the flags, results keep their digits and NaN is found. Ends with the number of failures.

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <vector>

#include <mole/autodiff/backward.hpp>
#include <mole/backends/cpu.hpp>
#include <mole/experts/ops/gate_softmax.hpp>
#include <mole/io/dtype.hpp>
#include <mole/loss/cross_entropy.hpp>
#include <mole/nn/host_matrix.hpp>
#include <mole/ops/activation.hpp>
#include <mole/ops/attention.hpp>
#include <mole/ops/reduce.hpp>
#include <mole/ops/softmax.hpp>
#include <mole/ops/top_k.hpp>
#include <mole/optim/clip_gradients.hpp>
#include <mole/train/finite.hpp>

namespace {

using mole::Index;
using Real = mole::Tensor<float, mole::Cpu>;
using Whole = mole::Tensor<Index, mole::Cpu>;

int failures = 0;

void check(bool holds, const char* what) {
  if (holds) return;
  std::printf("FAILED: %s\n", what);
  ++failures;
}
void close(const char* what, double value, double expected, double tolerance = 1e-6) {
  const bool near = std::abs(value - expected) <= tolerance * (std::abs(expected) + 1e-3);
  if (mole::is_finite(value) && near) return;
  std::printf("FAILED: %s is %.9g, expected %.9g\n", what, value, expected);
  ++failures;
}
void close(const char* what, const Real& values, const std::vector<double>& expected) {
  const auto host = values.to_host();
  check(host.size() == expected.size(), what);
  for (std::size_t i = 0; i < host.size(); ++i) close(what, host[i], expected[i], 2e-6);
}

// Numbers that the compiler cannot know.
float of_bits(std::uint32_t bits) {
  volatile std::uint32_t hidden = bits;
  const std::uint32_t copy = hidden;
  return std::bit_cast<float>(copy);
}
const float nan = of_bits(0x7fc00000), infinite = of_bits(0x7f800000), lowest = of_bits(0xff800000);
std::uint32_t bits_of(float value) { return std::bit_cast<std::uint32_t>(value); }

template <class E, class F>
bool throws(F f) {
  try {
    f();
  } catch (const E&) {
    return true;
  }
  return false;
}

void check_scalars() {
  std::vector<float> x, y;
  for (int i = -8700; i <= 8870; ++i) x.push_back(static_cast<float>(i) * 0.01F);
  y.resize(x.size());
#pragma omp simd
  for (std::size_t i = 0; i < x.size(); ++i) y[i] = mole::exp(x[i]);
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double expected = std::exp(static_cast<double>(x[i]));
    if (std::abs(y[i] - expected) > 3e-7 * expected) return close("exp", y[i], expected, 0);
  }
  check(bits_of(mole::exp(infinite)) == 0x7f800000U &&
            bits_of(mole::exp(of_bits(bits_of(200.0F)))) == 0x7f800000U,
        "exp beyond the range is infinity");
  check(mole::exp(lowest) == 0 && mole::exp(of_bits(bits_of(-200.0F))) == 0, "exp far below 0 is 0");
  check(mole::is_nan(mole::exp(nan)) && mole::is_nan(mole::tanh(nan)) && mole::is_nan(mole::sigmoid(nan)),
        "functions keep NaN");
  check(mole::is_nan(nan) && !mole::is_nan(infinite) && !mole::is_nan(x[0]), "is_nan");
  check(!mole::is_finite(nan) && !mole::is_finite(lowest) && mole::is_finite(x[0]), "is_finite");
  check(mole::is_nan(static_cast<double>(nan)) && !mole::is_finite(static_cast<double>(infinite)),
        "of doubles");
  for (const float value : {-2.0F, -0.3F, 0.0F, 0.1F, 1.0F, 3.0F}) {
    close("tanh", mole::tanh(value), std::tanh(static_cast<double>(value)));
    close("sigmoid", mole::sigmoid(value), 1 / (1 + std::exp(-static_cast<double>(value))));
  }
  check(bits_of(mole::detail::minus_infinity<float>()) == 0xff800000U, "minus infinity");
  check(mole::is_nan(mole::detail::not_a_number<double>()), "a NaN");
  bool kept = true;
  for (std::uint32_t b = 0; b < 0x10000U; ++b) {
    const auto narrow = static_cast<std::uint16_t>(b);
    const bool half_nan = (b & 0x7fffU) > 0x7c00U, bf16_nan = (b & 0x7fffU) > 0x7f80U;
    kept = kept && (half_nan || mole::half_bits(mole::half_value(narrow)) == narrow);
    // Numbers below float's normal range are zero to a processor that such flags have set.
    kept = kept &&
           (bf16_nan || (b & 0x7f80U) == 0 || mole::bfloat16_bits(mole::bfloat16_value(narrow)) == narrow);
  }
  check(kept, "half and bf16 are exact both ways");
  volatile double tie = 1 + 0x1p-11 + 0x1p-40;
  check(mole::half_bits(static_cast<double>(tie)) == 0x3c01, "a double is rounded to half once");
  check(mole::half_bits(nan) > 0x7c00 && mole::bfloat16_bits(static_cast<double>(nan)) > 0x7f80,
        "narrow NaN");
}

std::vector<double> softmax_of(const std::vector<double>& x, const std::vector<int>& keep = {}) {
  std::vector<double> p(x.size());
  double sum = 0;
  for (std::size_t i = 0; i < x.size(); ++i)
    if (keep.empty() || keep[i]) sum += p[i] = std::exp(x[i]);
  for (double& one : p) one = sum > 0 ? one / sum : 0;
  return p;
}

void check_softmax() {
  const std::vector<double> x{-2, -0.5, 0.5, 1, 3, 0.25, -7, 2};
  const auto t = Real::from({1, 8}, {x.begin(), x.end()});
  close("softmax", mole::softmax(t), softmax_of(x));
  const std::vector<int> keep{1, 0, 1, 1, 0, 0, 1, 0};
  const auto mask = Real::from({1, 8}, {keep.begin(), keep.end()});
  const auto p = softmax_of(x, keep);
  close("masked softmax", mole::softmax(t, mask), p);
  const auto log_p = mole::log_softmax(t, mask).to_host();
  for (std::size_t i = 0; i < x.size(); ++i) {
    if (keep[i])
      close("log softmax", log_p[i], std::log(p[i]));
    else
      check(bits_of(log_p[i]) == 0xff800000U, "a masked logarithm is minus infinity");
  }
  close("a row masked whole", mole::softmax(t, Real::zeros({1, 8})), std::vector<double>(8, 0.0));
  check(mole::is_nan(mole::softmax(Real::from({1, 2}, {nan, 1.0F})).to_host()[0]), "softmax keeps NaN");

  auto logits = Real::from({2, 4}, {-2, -0.5F, 0.5F, 1, 3, 0.25F, -7, 2});
  logits.set_requires_grad();
  const auto loss = mole::cross_entropy(logits, Whole::from({2}, {3, 1}));
  const auto a = softmax_of({-2, -0.5, 0.5, 1}), b = softmax_of({3, 0.25, -7, 2});
  close("cross entropy", loss.item(), -(std::log(a[3]) + std::log(b[1])) / 2);
  mole::backward(loss);
  close("its gradient", logits.grad(),
        {a[0] / 2, a[1] / 2, a[2] / 2, (a[3] - 1) / 2, b[0] / 2, (b[1] - 1) / 2, b[2] / 2, b[3] / 2});
}

void check_attention() {
  // One head, two queries, three keys, the last of which is hidden, and huge.
  const auto q = Real::from({1, 2, 2}, {1, 0.5F, -1, 2}), k = Real::from({1, 3, 2}, {1, 2, -0.5F, 1, 50, 50});
  const auto v = Real::from({1, 3, 2}, {1, 2, 3, 5, 1000, -1000});
  mole::AttentionOptions<float, mole::Cpu> options;
  options.key_mask = Real::from({1, 3}, {1, 1, 0});
  const auto p = softmax_of({2, 0}), r = softmax_of({3, 2.5});
  close("attention", mole::attention(q, k, v, options),
        {p[0] + 3 * p[1], 2 * p[0] + 5 * p[1], r[0] + 3 * r[1], 2 * r[0] + 5 * r[1]});
  options.key_mask = Real::zeros({1, 3});
  close("attention that sees nothing", mole::attention(q, k, v, options), {0, 0, 0, 0});
}

void check_gates() {
  const auto v = Real::from({1, 2}, {3, 4}), F = Real::from({2, 3}, {1, -2, 0.5F, 2, 1, 3});
  const auto log_tau = Real::from({}, {0.25F});
  const double tau = std::exp(0.25);
  const std::vector<double> z{2.2 / tau, -0.4 / tau, 2.7 / tau};
  close("gate", mole::gate_softmax(v, F, log_tau), softmax_of(z));
  close("masked gate", mole::gate_softmax(v, F, log_tau, Real::from({3}, {1, 1, 0})),
        softmax_of(z, {1, 1, 0}));
  close("top k", mole::top_k_mask(Real::from({1, 4}, {1, nan, 3, 2}), 2), {0, 1, 1, 0});
}

void check_not_finite() {
  check(mole::is_nan(mole::max(Real::from({3}, {1, nan, 2})).item()), "the largest of NaN is NaN");
  check(mole::is_nan(mole::max(Real::from({3}, {nan, 1, 2})).item()), "wherever it is");
  const auto relu = mole::relu(Real::from({3}, {nan, -1, 2})).to_host();
  check(mole::is_nan(relu[0]) && relu[1] == 0 && relu[2] == 2, "relu keeps NaN");
  close("the largest", mole::max(Real::from({3}, {-3, -1, -2})).item(), -1);
  check(!mole::all_finite<float, mole::Cpu>({Real::from({3}, {1, 2, infinite})}),
        "all_finite finds infinity");
  check(!mole::all_finite<float, mole::Cpu>({Real::from({3}, {1, nan, 2})}), "all_finite finds NaN");
  check(mole::all_finite<float, mole::Cpu>({Real::from({3}, {1, 0, 2})}), "all_finite accepts numbers");
  check(throws<mole::NumericError>([] { mole::check_finite(Real::from({}, {nan}), 1); }),
        "a loss of NaN is refused");
  auto w = Real::from({2}, {1, 2});
  w.set_requires_grad();
  w.set_grad(Real::from({2}, {nan, 1}));
  check(throws<mole::NumericError>([&] { mole::clip_grad_norm<float, mole::Cpu>({w}, 1.0); }),
        "a gradient of NaN is refused");
  std::byte bytes[4];
  std::memcpy(bytes, &nan, 4);
  std::int64_t whole = 0;
  check(throws<mole::FormatError>([&] { mole::decode(mole::Dtype::F32, bytes, 1, &whole); }),
        "NaN is no whole number");
}

void check_qr() {
  const std::vector<double> B{1, 1, 1, 1e-3, 0, 0, 0, 1e-3, 0, 0, 0, 1e-3};
  const auto qr = mole::thin_qr(B, 4, 3);
  for (Index i = 0; i < 4; ++i)
    for (Index j = 0; j < 3; ++j) {
      double product = 0, dot = 0;
      for (Index l = 0; l < 3; ++l)
        product += qr.Q[static_cast<std::size_t>(i * 3 + l)] * qr.R[static_cast<std::size_t>(l * 3 + j)];
      close("QR", product, B[static_cast<std::size_t>(i * 3 + j)], 1e-10);
      if (i == 3) continue;
      for (Index l = 0; l < 4; ++l)
        dot += qr.Q[static_cast<std::size_t>(l * 3 + i)] * qr.Q[static_cast<std::size_t>(l * 3 + j)];
      close("Q's columns", dot, i == j ? 1 : 0, 1e-10);
    }
}

}  // namespace

int main() {
  check_scalars();
  check_softmax();
  check_attention();
  check_gates();
  check_not_finite();
  check_qr();
  if (failures == 0) std::printf("all values are right\n");
  return failures == 0 ? 0 : 1;
}
