// The attention kernels against the composite op on the processor, in double.

#include <doctest/doctest.h>
#include <cmath>

#include <mole/cuda.cuh>

#include "testing.hpp"

using namespace mole;
using namespace mole::testing;

namespace {

struct Case {
  Index S, Lq, Lk, H, d;
  bool causal = false, masked = false, biased = false;
};

/// The last key of each second sequence is masked, and each third of all.
template <class T, class B>
Tensor<T, B> key_mask(const Case& c) {
  std::vector<T> keep;
  for (Index i = 0; i < c.S * c.Lk; ++i) keep.push_back(T(i % 3 == 2 || (i + 1) % (2 * c.Lk) == 0 ? 0 : 1));
  return Tensor<T, B>::from({c.S, c.Lk}, keep);
}

/// Queries, keys, values, bias and the gradient of the output, as T rounds them.
template <class T, class B>
std::vector<Tensor<T, B>> operands(const Case& c) {
  const Index n = c.H * c.d;
  return {noise<T, B>({c.S, c.Lq, n}, 1), noise<T, B>({c.S, c.Lk, n}, 2), noise<T, B>({c.S, c.Lk, n}, 3),
          noise<T, B>({c.H, c.Lq, c.Lk}, 4), noise<T, B>({c.S, c.Lq, n}, 5)};
}

constexpr double scale_of_scores = 0.25;

using Results = std::vector<std::vector<double>>;  // y, dq, dk, dv, dbias

template <class From, class To, class B>
Tensor<To, B> converted(const Tensor<From, B>& x) {
  const auto values = x.to_host();
  return Tensor<To, B>::from(x.shape(), std::vector<To>(values.begin(), values.end()));
}

/// By the kernels, on operands in T that were first rounded to Rounded.
template <class T, class Rounded = T>
Results by_kernels(const Case& c, std::vector<double>* log_sums = nullptr) {
  using V = Compute<T>;
  std::vector<Tensor<T, Cuda>> in;
  for (const auto& x : operands<Rounded, Cuda>(c)) in.push_back(converted<Rounded, T>(x));
  const auto mask = key_mask<T, Cuda>(c);
  const V nan = std::numeric_limits<V>::quiet_NaN();
  auto unwritten = [&](const Shape& shape) { return Tensor<T, Cuda>::full(shape, T(nan)); };
  const auto y = unwritten(in[0].shape()), dq = unwritten(in[0].shape()), dk = unwritten(in[1].shape()),
             dv = unwritten(in[1].shape()), dbias = unwritten(in[3].shape());
  const auto log_sum = Tensor<V, Cuda>::full({c.S, c.H, c.Lq}, nan);
  const AttentionForward<T> forward{in[0].data(),
                                    in[1].data(),
                                    in[2].data(),
                                    c.biased ? in[3].data() : nullptr,
                                    c.masked ? mask.data() : nullptr,
                                    y.data(),
                                    log_sum.data(),
                                    c.S,
                                    c.H,
                                    c.Lq,
                                    c.Lk,
                                    c.d,
                                    V(scale_of_scores),
                                    c.causal};
  REQUIRE(Cuda::attention_forward(forward));
  REQUIRE(Cuda::attention_backward(AttentionBackward<T>{forward, in[4].data(), dq.data(), dk.data(),
                                                        dv.data(), c.biased ? dbias.data() : nullptr}));
  if (log_sums) *log_sums = doubles(log_sum);
  Results results{doubles(y), doubles(dq), doubles(dk), doubles(dv)};
  if (c.biased) results.push_back(doubles(dbias));
  return results;
}

Results by_the_op(const Case& c) {
  auto in = operands<double, Cpu>(c);
  for (auto& x : in) x.set_requires_grad();
  AttentionOptions<double, Cpu> options{.heads = c.H, .scale = scale_of_scores, .causal = c.causal};
  if (c.biased) options.bias = in[3];
  if (c.masked) options.key_mask = key_mask<double, Cpu>(c);
  const auto y = attention(in[0], in[1], in[2], options);
  backward(y, in[4].detach());
  Results results{doubles(y)};
  for (int i = 0; i < (c.biased ? 4 : 3); ++i)
    results.push_back(doubles(in[static_cast<std::size_t>(i)].grad()));
  return results;
}

/// ln sum exp of the visible scores, infinity where there is none.
std::vector<double> log_sums_of(const Case& c) {
  const auto in = operands<double, Cpu>(c);
  const auto q = in[0].to_host(), k = in[1].to_host(), bias = in[3].to_host(),
             mask = key_mask<double, Cpu>(c).to_host();
  std::vector<double> sums;
  for (Index s = 0; s < c.S; ++s)
    for (Index h = 0; h < c.H; ++h)
      for (Index i = 0; i < c.Lq; ++i) {
        double total = 0;
        for (Index j = 0; j < c.Lk; ++j) {
          if ((c.causal && j > i + c.Lk - c.Lq) ||
              (c.masked && mask[static_cast<std::size_t>(s * c.Lk + j)] == 0))
            continue;
          double score = 0;
          for (Index u = 0; u < c.d; ++u)
            score += q[static_cast<std::size_t>((s * c.Lq + i) * c.H * c.d + h * c.d + u)] *
                     k[static_cast<std::size_t>((s * c.Lk + j) * c.H * c.d + h * c.d + u)];
          score *= scale_of_scores;
          if (c.biased) score += bias[static_cast<std::size_t>((h * c.Lq + i) * c.Lk + j)];
          total += std::exp(score);
        }
        sums.push_back(total > 0 ? std::log(total) : INFINITY);
      }
  return sums;
}

std::vector<Case> cases() {
  struct Sizes {
    Index S, Lq, Lk, H, d;
  };
  std::vector<Case> list;
  for (const auto& z :
       {Sizes{1, 1, 1, 1, 1}, Sizes{2, 1, 33, 2, 5}, Sizes{2, 33, 33, 3, 64}, Sizes{1, 17, 70, 2, 96},
        Sizes{1, 40, 65, 1, 128}, Sizes{2, 16, 32, 2, 32}, Sizes{3, 5, 5, 1, 33}, Sizes{2, 15, 31, 1, 65},
        Sizes{0, 2, 3, 1, 4}, Sizes{2, 0, 3, 1, 4},
        // One query, with few keys and many, and heads that a warp holds or not.
        Sizes{3, 1, 5, 2, 40}, Sizes{2, 1, 300, 3, 64}, Sizes{1, 1, 77, 2, 96}, Sizes{2, 1, 70, 1, 128}})
    for (int flags = 0; flags < 8; ++flags)
      list.push_back({z.S, z.Lq, z.Lk, z.H, z.d, (flags & 1) != 0, (flags & 2) != 0, (flags & 4) != 0});
  list.push_back({2, 3, 0, 2, 4, false, false, false});
  // Several tiles of the matrix units, whole and not.
  for (const auto& z : {Sizes{1, 200, 130, 2, 40}, Sizes{2, 64, 128, 2, 80}, Sizes{1, 130, 200, 1, 24},
                        Sizes{1, 96, 77, 1, 33}})
    for (const bool plain : {false, true})
      list.push_back({z.S, z.Lq, z.Lk, z.H, z.d, !plain && z.Lq <= z.Lk, !plain, !plain});
  return list;
}

/// Slim heads with rows enough for a thread each: whole blocks and not, one tile and several, heads of each width.
std::vector<Case> slim_cases() {
  std::vector<Case> list;
  for (const auto& z : {Case{300, 20, 37, 3, 20}, Case{70, 65, 65, 4, 4}, Case{1100, 16, 16, 1, 8},
                        Case{40, 200, 130, 4, 16}, Case{33, 129, 300, 4, 12}, Case{64, 64, 128, 4, 32},
                        Case{140, 33, 40, 4, 28}, Case{33, 128, 128, 4, 24}})
    for (int flags = 0; flags < 4; ++flags) {
      const bool causal = (flags & 1) != 0;
      if (!causal || z.Lq <= z.Lk)
        list.push_back({z.S, z.Lq, z.Lk, z.H, z.d, causal, (flags & 2) != 0, false});
    }
  return list;
}

/// The largest |a - b| as a share of the largest |b|.
double share_of_largest(const std::vector<double>& a, const std::vector<double>& b) {
  double worst = 0, largest = 1e-300;
  for (std::size_t i = 0; i < a.size(); ++i) {
    worst = std::isnan(a[i]) ? INFINITY : std::max(worst, std::abs(a[i] - b[i]));
    largest = std::max(largest, std::abs(b[i]));
  }
  return a.size() == b.size() ? worst / largest : INFINITY;
}

/// Whether a block may have more than the 99 KB of compute capability 8.6.
bool has_room() { return detail::cuda_context().shared_bytes > 110000; }

template <class T>
void check_wide_heads(Index width, bool fit) {
  AttentionForward<T> forward{};
  forward.width = width;
  CHECK(Cuda::attention_forward(forward) == fit);
  CHECK(Cuda::attention_backward(
            AttentionBackward<T>{forward, nullptr, nullptr, nullptr, nullptr, nullptr}) == fit);
}

}  // namespace

TEST_CASE("The attention kernels equal the composite op in double at odd sizes, masked, causal and biased") {
  for (const Case& c : cases()) {
    CAPTURE(message(c.S, c.Lq, c.Lk, c.H, c.d, c.causal, c.masked, c.biased));
    std::vector<double> log_sums;
    const auto found = by_kernels<double>(c, &log_sums), expected = by_the_op(c);
    REQUIRE(found.size() == expected.size());
    for (std::size_t i = 0; i < found.size(); ++i) {
      CAPTURE(i);
      CHECK(worst_error(found[i], expected[i]) <= 1e-12);
    }
    CHECK(worst_error(log_sums, log_sums_of(c)) <= 1e-12);
  }
}

TEST_CASE("The attention kernels in float equal those in double up to rounding") {
  for (const Case& c : cases()) {
    CAPTURE(message(c.S, c.Lq, c.Lk, c.H, c.d, c.causal, c.masked, c.biased));
    const auto found = by_kernels<float>(c), expected = by_kernels<double, float>(c);
    for (std::size_t i = 0; i < found.size(); ++i)
      CHECK(share_of_largest(found[i], expected[i]) <= 2 * tight<float>);
  }
}

TEST_CASE(
    "Slim heads in float, a row by each thread, equal those in double up to rounding, with the same bits every time") {
  for (const Case& c : slim_cases()) {
    CAPTURE(message(c.S, c.Lq, c.Lk, c.H, c.d, c.causal, c.masked));
    std::vector<double> log_sums, expected_sums;
    const auto found = by_kernels<float>(c, &log_sums),
               expected = by_kernels<double, float>(c, &expected_sums);
    for (std::size_t i = 0; i < found.size(); ++i) {
      CAPTURE(i);
      CHECK(share_of_largest(found[i], expected[i]) <= 2 * tight<float>);
    }
    for (std::size_t i = 0; i < log_sums.size(); ++i)
      CHECK(
          (log_sums[i] == expected_sums[i] || std::abs(log_sums[i] - expected_sums[i]) <= 10 * tight<float>));
    CHECK(by_kernels<float>(c) == found);
  }
}

TEST_CASE("One query over a single key and over very many has y and log_sum of double up to rounding") {
  for (const auto& [keys, width] : {std::pair<Index, Index>{1, 8}, {1000, 128}})
    for (const bool masked : {false, true}) {
      CAPTURE(message(keys, width, masked));
      const Case c{2, 1, keys, 2, width, true, masked, false};
      std::vector<double> log_sums, expected_sums;
      const auto found = by_kernels<float>(c, &log_sums),
                 expected = by_kernels<double, float>(c, &expected_sums);
      CHECK(share_of_largest(found[0], expected[0]) <= 2 * tight<float>);
      for (std::size_t i = 0; i < log_sums.size(); ++i)
        CHECK((log_sums[i] == expected_sums[i] ||
               std::abs(log_sums[i] - expected_sums[i]) <= 10 * tight<float>));
    }
}

TEST_CASE_TEMPLATE("Attention on bf16 and half is that of float, its weights and results rounded", T,
                   mole::bf16, mole::half) {
  const double step = std::same_as<T, mole::bf16> ? 0x1p-8 : 0x1p-11;
  for (const Case& c : cases()) {
    CAPTURE(message(c.S, c.Lq, c.Lk, c.H, c.d, c.causal, c.masked, c.biased));
    const auto found = by_kernels<T>(c), expected = by_kernels<float, T>(c);
    // y is rounded once, and so may its weights be. The gradients read it so: <G, y> gathers the roundings of a head's
    // up to 128 entries, of random sign, sqrt(128) / 2 of half a step each, and then they are rounded themselves.
    for (std::size_t i = 0; i < found.size(); ++i)
      CHECK(share_of_largest(found[i], expected[i]) <= (i == 0 ? 1 : 7) * step);
  }
}

TEST_CASE("Heads too wide for a block's shared memory are left to the composite op") {
  check_wide_heads<float>(256, has_room());
  check_wide_heads<float>(257, false);
  check_wide_heads<mole::bf16>(256, has_room());
  check_wide_heads<mole::bf16>(257, false);
  check_wide_heads<double>(128, has_room());
  check_wide_heads<double>(129, false);
}

TEST_CASE("Attention gives the same bits every time") {
  const Case c{2, 33, 70, 3, 64, true, true, true};
  CHECK(by_kernels<float>(c) == by_kernels<float>(c));
}

TEST_CASE("The widest heads that fit are computed right") {
  const Index widest = has_room() ? 256 : 128, widest_double = has_room() ? 128 : 96;
  const Case wide{1, 17, 35, 1, widest, false, true, true},
      wide_double{1, 17, 35, 2, widest_double, true, true, true};
  const auto found = by_kernels<float>(wide), expected = by_the_op(wide);
  for (std::size_t i = 0; i < found.size(); ++i)
    CHECK(share_of_largest(found[i], expected[i]) <= 10 * tight<float>);
  const auto a = by_kernels<double>(wide_double), b = by_the_op(wide_double);
  for (std::size_t i = 0; i < a.size(); ++i) CHECK(worst_error(a[i], b[i]) <= 1e-12);
}
