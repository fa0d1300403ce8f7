#pragma once
// The frequencies of rotary positions, stretched as a configuration says.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <numbers>
#include <vector>

#include <mole/core/error.hpp>
#include <mole/models/llama/config.hpp>

namespace mole {

/// What llama3 scaling divides a frequency of this wavelength by; see rotary_frequencies().
inline double llama3_divisor(double wave, const RopeScaling& scaling) {
  const double length = scaling.original_max_position_embeddings, low = scaling.low_freq_factor,
               high = scaling.high_freq_factor;
  if (wave < length / high) return 1;
  if (wave > length / low) return scaling.factor;
  const double s = (length / wave - low) / (high - low);
  return 1 / ((1 - s) / scaling.factor + s);
}

/// theta^(-2j/D) for j = 0..D/2-1, stretched:
///   linear    over the factor F
///   llama3    with wavelength w = 2 pi / frequency and C the original length: as it is where w < C/high, over F
///             where w > C/low, and between them ((1 - s)/F + s) times itself, s = (C/w - low)/(high - low)
///   divided   over the divisors
/// Throws ArgumentError for divisors of another number.
inline std::vector<double> rotary_frequencies(const LlamaConfig& config) {
  const auto& scaling = config.rope_scaling;
  const Index half = config.head_dim / 2;
  MOLE_CHECK_ARG(
      scaling.kind != RopeScaling::Kind::divided || static_cast<Index>(scaling.divisors.size()) == half,
      "rotary_frequencies: expected", half, "divisors, got", scaling.divisors.size());
  std::vector<double> frequencies;
  for (Index j = 0; j < half; ++j) {
    const double own =
        std::pow(config.rope_theta, -2.0 * static_cast<double>(j) / static_cast<double>(config.head_dim));
    double f = own;
    if (scaling.kind == RopeScaling::Kind::linear) f /= scaling.factor;
    if (scaling.kind == RopeScaling::Kind::divided) f /= scaling.divisors[static_cast<std::size_t>(j)];
    if (scaling.kind == RopeScaling::Kind::llama3) f /= llama3_divisor(2 * std::numbers::pi / own, scaling);
    frequencies.push_back(f);
  }
  return frequencies;
}

/// The llama3 scaling whose divisors, rounded to float, are these, with the low and high factors that all of Meta's
/// models have, 1 and 4; kind `divided` where there is none. GGUF files keep the divisors alone.
inline RopeScaling llama3_of_divisors(const std::vector<double>& divisors, double theta, Index head_dim) {
  RopeScaling scaling;
  scaling.kind = RopeScaling::Kind::llama3;
  scaling.factor = divisors.empty() ? 1 : *std::max_element(divisors.begin(), divisors.end());
  scaling.low_freq_factor = 1;
  scaling.high_freq_factor = 4;
  const auto wave = [&](std::size_t j) {
    return 2 * std::numbers::pi *
           std::pow(theta, 2.0 * static_cast<double>(j) / static_cast<double>(head_dim));
  };
  bool found = false;
  for (std::size_t j = 0; j < divisors.size() && !found; ++j) {
    if (divisors[j] == 1 || divisors[j] == scaling.factor) continue;
    // One between the two tells the length, a whole number.
    const double s = (1 / divisors[j] - 1 / scaling.factor) / (1 - 1 / scaling.factor);
    scaling.original_max_position_embeddings = std::round(wave(j) * (1 + 3 * s));
    found = true;
  }
  for (std::size_t j = 0; j < divisors.size() && found; ++j)
    found = static_cast<float>(llama3_divisor(wave(j), scaling)) == static_cast<float>(divisors[j]);
  if (found) return scaling;
  RopeScaling divided;
  divided.kind = RopeScaling::Kind::divided;
  divided.divisors = divisors;
  return divided;
}

}  // namespace mole
