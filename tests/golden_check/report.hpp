#pragma once
// What golden_check shares: a golden file as tensors, and the lines and counts of its report.

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <map>
#include <set>
#include <string>
#include <type_traits>
#include <vector>

#include <mole/autodiff/tensor.hpp>
#include <mole/io/safetensors.hpp>

namespace golden {

using mole::Index;
using mole::Shape;
using mole::Tensor;

/// The error allowed: rounding of T with room for the sums of a whole model.
template <class T>
constexpr double tolerance = std::is_same_v<T, float> ? 2e-5 : 1e-10;

/// The lines of a run and their counts.
class Report {
 public:
  int passed() const { return passed_; }
  int failed() const { return failed_; }

  /// `sensitivity` is how far one rounding of the inputs moves the quantity: no arithmetic of that precision
  /// comes closer, so that ten times as much is allowed where it exceeds the tolerance.
  void compared(const std::string& golden, const std::string& quantity, double error, double tolerance,
                double sensitivity) {
    const bool strict = error <= tolerance, ok = strict || error <= 10 * sensitivity;
    ++(ok ? passed_ : failed_);
    std::printf("%s  %s  max rel error %.1e  %s", golden.c_str(), quantity.c_str(), error,
                ok ? "ok" : "FAILED");
    if (!strict && ok) std::printf(" (one rounding of the weights may move it by %.1e)", sensitivity);
    std::printf("\n");
  }
  void failure(const std::string& golden, const std::string& why) {
    ++failed_;
    std::printf("%s  %s  FAILED\n", golden.c_str(), why.c_str());
  }
  void skip(const std::string& golden, const std::string& why) {
    std::printf("%s  skipped: %s\n", golden.c_str(), why.c_str());
  }

 private:
  int passed_ = 0, failed_ = 0;
};

/// max |found - expected| / max(max |expected|, floor); infinite for a NaN. `floor` is the size of the terms
/// that the expected numbers are sums of: it keeps the rounding of a sum that cancels from counting as error.
template <class T>
double relative_error(const std::vector<T>& found, const std::vector<double>& expected, double floor) {
  if (found.size() != expected.size()) return std::numeric_limits<double>::infinity();
  double worst = 0, largest = floor;
  for (std::size_t i = 0; i < found.size(); ++i) {
    const double difference = std::abs(static_cast<double>(found[i]) - expected[i]);
    if (!std::isfinite(difference)) return std::numeric_limits<double>::infinity();
    worst = std::max(worst, difference);
    largest = std::max(largest, std::abs(expected[i]));
  }
  return worst / largest;
}

/// One golden file under its name in the report.
class Golden {
 public:
  using Numbers = std::map<std::string, std::vector<double>>;

  Golden(const std::string& path, std::string name, Report& report)
      : file_(path), name_(std::move(name)), report_(report) {}

  /// Takes errors relative to no less than `floor`, and up to `tolerance` (in float `in_float`), for goldens
  /// that promise no more.
  void accept(double tolerance, double in_float, double floor) {
    accepted_ = tolerance;
    accepted_in_float_ = in_float;
    floor_ = floor;
  }

  const mole::SafetensorsFile& file() const { return file_; }
  const std::string& name() const { return name_; }
  bool contains(const std::string& tensor) const { return file_.contains(tensor); }
  Shape shape(const std::string& tensor) const { return file_.at(tensor).shape; }

  /// The tensor's elements, row-major.
  template <class T>
  std::vector<T> read(const std::string& tensor) const {
    read_.insert(tensor);
    return file_.template read<T>(tensor);
  }

  std::vector<double> numbers(const std::string& tensor) const { return read<double>(tensor); }

  template <class T, class B>
  Tensor<T, B> tensor(const std::string& tensor) const {
    const auto values = numbers(tensor);
    return Tensor<T, B>::from(shape(tensor), std::vector<T>(values.begin(), values.end()));
  }
  /// The tensor, or an undefined one where the file has none.
  template <class T, class B>
  Tensor<T, B> optional(const std::string& name) const {
    return contains(name) ? tensor<T, B>(name) : Tensor<T, B>();
  }
  template <class B>
  Tensor<Index, B> indices(const std::string& tensor) const {
    return Tensor<Index, B>::from(shape(tensor), read<Index>(tensor));
  }
  /// Throws FormatError unless the tensor has one element.
  double number(const std::string& tensor) const {
    const auto values = numbers(tensor);
    MOLE_CHECK_FORMAT(values.size() == 1, "tensor", tensor, "should have one element but is", shape(tensor));
    return values.front();
  }
  /// An entry of the metadata as a number, or `otherwise`.
  double setting(const std::string& key, double otherwise) const {
    const auto found = file_.metadata().find(key);
    if (found == file_.metadata().end()) return otherwise;
    try {
      return std::stod(found->second);
    } catch (const std::exception&) {
      throw mole::FormatError("metadata " + key + " is \"" + found->second + "\", not a number");
    }
  }

  /// One line: found against a tensor of the file, with as many elements.
  template <class T>
  void compare(const std::string& quantity, const std::vector<T>& found, const std::string& tensor,
               double floor = 1e-6) const {
    compare_with(quantity, found, numbers(tensor), floor);
  }
  /// One line: found against a tensor of the file, of the same shape up to axes of 1.
  template <class T, class B>
  void compare(const std::string& quantity, const Tensor<T, B>& found, const std::string& tensor,
               double floor = 1e-6) const {
    if (!found.defined() || squeezed(found.shape()) != squeezed(shape(tensor))) {
      failure(mole::message(quantity, "expected", shape(tensor), "got",
                            found.defined() ? mole::message(found.shape()) : "nothing"));
      return;
    }
    compare(quantity, found.to_host(), tensor, floor);
  }
  /// One line: found against numbers, to the tolerance of T, or to another where the numbers are rounded.
  template <class T>
  void compare_with(const std::string& quantity, const std::vector<T>& found,
                    const std::vector<double>& expected, double floor = 1e-6, double rounded = 0) const {
    if (recording_) {
      (*recording_)[quantity].assign(found.begin(), found.end());
      return;
    }
    const auto sensitivity = sensitivity_.find(quantity);
    const double accepted = std::max(rounded, std::is_same_v<T, float> ? accepted_in_float_ : accepted_);
    report_.compared(name_, quantity, relative_error(found, expected, std::max(floor, floor_)), accepted,
                     sensitivity == sensitivity_.end() ? 0 : sensitivity->second);
  }
  /// One line: found against a tensor that was itself rounded, by up to `rounding` of its size.
  template <class T>
  void compare_rounded(const std::string& quantity, const std::vector<T>& found, const std::string& tensor,
                       double rounding) const {
    const double accepted = std::max(rounding, std::is_same_v<T, float> ? accepted_in_float_ : accepted_);
    report_.compared(name_, quantity, relative_error(found, numbers(tensor), std::max(1e-6, floor_)),
                     accepted, 0);
  }
  void failure(const std::string& why) const {
    if (!recording_) report_.failure(name_, why);
  }
  void skip(const std::string& why) const { report_.skip(name_, why); }

  /// Names the tensors that no check has read, so that none is taken for compared. Says nothing of a file
  /// that was skipped as a whole.
  void skip_unread() const {
    if (read_.empty()) return;
    std::string unread;
    for (const auto& tensor : file_.names())
      if (!read_.contains(tensor)) unread += (unread.empty() ? "" : ", ") + tensor;
    if (!unread.empty()) skip("not read: " + unread);
  }

  /// What f, which compares with this golden, would have compared; nothing is reported.
  template <class F>
  Numbers recorded(F f) {
    Numbers numbers;
    recording_ = &numbers;
    part("", f);
    recording_ = nullptr;
    return numbers;
  }
  bool recording() const { return recording_ != nullptr; }

  /// Takes the difference of two recordings as what one rounding of the inputs can do to each quantity.
  void add_sensitivity(const Numbers& plain, const Numbers& moved) {
    for (const auto& [quantity, numbers] : plain) {
      const auto other = moved.find(quantity);
      if (other == moved.end()) continue;
      double& largest = sensitivity_[quantity];
      largest = std::max(largest, relative_error(other->second, numbers, 1e-6));
    }
  }

  /// Runs one part; what it throws is a failure of that part alone.
  template <class F>
  void part(const std::string& quantity, F f) const {
    try {
      f();
    } catch (const std::exception& error) {
      failure(quantity + ": " + error.what());
    }
  }

 private:
  static std::vector<Index> squeezed(const Shape& shape) {
    std::vector<Index> extents;
    for (const Index extent : shape)
      if (extent != 1) extents.push_back(extent);
    return extents;
  }

  mole::SafetensorsFile file_;
  std::string name_;
  Report& report_;
  mutable std::set<std::string> read_;
  Numbers* recording_ = nullptr;
  double accepted_ = tolerance<double>, accepted_in_float_ = tolerance<float>, floor_ = 0;
  std::map<std::string, double> sensitivity_;
};

}  // namespace golden
