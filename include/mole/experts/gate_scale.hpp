#pragma once
// A gate's input, standardised. On a real model what a gate reads is nearly one constant, and gates learn little of
// what is left. Its mean and spread are measured once, with uniform gates, and frozen.
//
//   u     what a gate reads [rows, n]: v / |v| of MoLE (eq. 9), the hidden state of X-LoRA
//   z     (u - mean) * factor, which the gate's weights multiply in its place
//
// The functions that a gate can learn are the same but for one constant for each expert: z F = u F' + b with
// F' = factor F and b = -mean F'. It is a preconditioner, not another gate.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <string>
#include <vector>

#include <mole/autodiff/tensor.hpp>

namespace mole {

/// How a gate's input is scaled.
///   unit          as its paper has it: v / |v| of MoLE, the hidden state itself of X-LoRA
///   standardised  (u - mean) / (sd sqrt(n)), mean and sd of each of the n features
///   common        the same with one sd for all, sd^2 = mean over rows of |u - mean|^2 / n. It does not depend on
///                 the basis: it is the same on the experts' full outputs as in rank space
/// sd is that of the rows measured (the population's: divided by their number). The mean of |z|^2 over them is 1.
/// A feature that does not vary gets the factor 0.
enum class InputScale { unit, standardised, common };

/// unit, standardised or common.
inline const char* to_string(InputScale scale) {
  constexpr const char* names[] = {"unit", "standardised", "common"};
  return names[static_cast<int>(scale)];
}

/// Throws ArgumentError naming the choices.
inline InputScale parse_input_scale(const std::string& text) {
  for (const InputScale scale : {InputScale::unit, InputScale::standardised, InputScale::common})
    if (text == to_string(scale)) return scale;
  throw ArgumentError("unknown input scale \"" + text + "\": choose unit, standardised or common");
}
/// The same into a field, as files of options are read.
inline void from_text(const std::string& text, InputScale& scale) { scale = parse_input_scale(text); }

/// The frozen mean and factor of a gate's input; undefined for unit.
template <class T, class B>
struct GateScale {
  Tensor<T, B> mean;    ///< [n]
  Tensor<T, B> factor;  ///< 1 / (sd sqrt(n)): [n], or [] where one does for all

  bool defined() const { return mean.defined(); }
};

/// The shape of the factor for n features.
inline Shape factor_shape(InputScale scale, Index n) {
  return scale == InputScale::common ? Shape{} : Shape{n};
}

/// A scale that changes nothing, to be measured. Undefined for unit.
template <class T, class B>
GateScale<T, B> unmeasured_scale(InputScale scale, Index n) {
  if (scale == InputScale::unit) return {};
  return {Tensor<T, B>::zeros({n}), Tensor<T, B>::ones(factor_shape(scale, n))};
}

/// Mean and squared deviations of rows of features, one row after another (Welford), in double.
class FeatureMoments {
 public:
  /// Adds a row of n numbers; with `unit`, divided by its length (not below 1e-12). Throws ShapeError for another n
  /// than before.
  template <class T>
  void add(const T* row, Index n, bool unit) {
    if (rows_ == 0) mean_.assign(static_cast<std::size_t>(n), 0), squares_ = mean_;
    MOLE_CHECK_SHAPE(static_cast<std::size_t>(n) == mean_.size(), "standardise_gates: a gate read", n,
                     "features, and", mean_.size(), "before");
    double length = 0;
    for (Index j = 0; j < n; ++j) length += static_cast<double>(row[j]) * static_cast<double>(row[j]);
    length = unit ? std::max(std::sqrt(length), 1e-12) : 1;
    const double count = static_cast<double>(++rows_);
    for (std::size_t j = 0; j < mean_.size(); ++j) {
      const double u = static_cast<double>(row[j]) / length, before = u - mean_[j];
      mean_[j] += before / count;
      squares_[j] += before * (u - mean_[j]);
    }
  }

  Index rows() const { return rows_; }
  const std::vector<double>& mean() const { return mean_; }

  /// 1 / (sd sqrt(n)) as InputScale says, of one entry for common. What varies by no more than T's rounding gets 0,
  /// as does what varies so little that T cannot hold the factor.
  template <class T>
  std::vector<double> factor(InputScale scale) const {
    constexpr double rounding = sizeof(T) == 8 ? 0x1p-49 : sizeof(T) == 4 ? 0x1p-20 : 0x1p-11;
    const double rows = static_cast<double>(rows_), n = static_cast<double>(mean_.size());
    const auto of = [&](double squares, double size) {
      const double spread = std::sqrt(squares / rows);
      const double value = spread > rounding * size ? 1 / spread : 0;
      return is_finite(static_cast<double>(static_cast<T>(value))) ? value : 0;
    };
    std::vector<double> factors;
    if (scale == InputScale::common) {
      double squares = 0, size = 0;
      for (std::size_t j = 0; j < mean_.size(); ++j) squares += squares_[j], size += mean_[j] * mean_[j];
      factors.push_back(of(squares, std::sqrt(size)));
    } else {
      for (std::size_t j = 0; j < mean_.size(); ++j)
        factors.push_back(of(squares_[j] * n, std::abs(mean_[j]) * std::sqrt(n)));
    }
    return factors;
  }

  bool finite() const {
    return std::all_of(squares_.begin(), squares_.end(), [](double s) { return is_finite(s); });
  }

 private:
  Index rows_ = 0;
  std::vector<double> mean_, squares_;
};

/// What the gates of a model read while they are measured.
struct GateMeasurement {
  std::vector<FeatureMoments> inputs;  ///< one a gate; of a router of two passes, one
};

/// Adds the rows of v [.., n] to a measurement; those of which `counted` has a 0 are left out (empty: none).
template <class T, class B>
void add_rows(FeatureMoments& moments, const Tensor<T, B>& v, const std::vector<T>& counted, bool unit) {
  const auto host = v.to_host();
  const Index n = v.size(-1), rows = n ? v.size() / n : 0;
  for (Index row = 0; row < rows; ++row)
    if (counted.empty() || counted[static_cast<std::size_t>(row)] != T(0))
      moments.add(host.data() + row * n, n, unit);
}

namespace detail {

/// Which rows count of gates of tokens, [S, L], or of sequences, [S]: those with a real token. Empty: all.
template <class T, class B>
std::vector<T> counted_rows(const Tensor<T, B>& mask, bool by_token) {
  if (!mask.defined()) return {};
  const auto real = mask.to_host();
  const std::size_t length = by_token ? 1 : static_cast<std::size_t>(mask.size(-1));
  std::vector<T> rows(real.size() / length);
  for (std::size_t i = 0; i < rows.size() * length; ++i)
    if (real[i] != T(0)) rows[i / length] = T(1);
  return rows;
}

}  // namespace detail

/// Sets a scale to what was measured. Throws ArgumentError, naming the gate, for fewer than two rows; NumericError
/// for rows that are not finite.
template <class T, class B>
void set_scale(const GateScale<T, B>& scale, const FeatureMoments& moments, InputScale how,
               const std::string& gate) {
  MOLE_CHECK_ARG(moments.rows() >= 2, "standardise_gates:", gate, "was read at", moments.rows(),
                 "rows; a spread needs two or more: give more sequences");
  if (!moments.finite())
    throw NumericError(message("standardise_gates: what", gate, "reads is NaN or infinite"));
  const auto assign = [](const Tensor<T, B>& to, const std::vector<double>& values) {
    to.assign(Tensor<T, B>::from(to.shape(), std::vector<T>(values.begin(), values.end())));
  };
  MOLE_CHECK_SHAPE(scale.mean.size() == static_cast<Index>(moments.mean().size()), "standardise_gates:", gate,
                   "reads", moments.mean().size(), "features, and its scale has", scale.mean.shape());
  assign(scale.mean, moments.mean());
  assign(scale.factor, moments.factor<T>(how));
}

}  // namespace mole
