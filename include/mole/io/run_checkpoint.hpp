#pragma once
// The file that a training run is resumed from, whatever backend it runs on: one safetensors file with
//   parameter.I, state.I         the run's tensors, in their own scalar
//   steps   [parameters]         I64, updates of each parameter
//   curves  [1 + series, points] F64, the steps 1, 2, .., then a row a series
// and the metadata run (what the result depends on), curves (the names of the series, a line each) and digest
// (of all the rest).

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <iterator>
#include <map>
#include <set>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include <mole/core/error.hpp>
#include <mole/core/fingerprint.hpp>
#include <mole/io/atomic_file.hpp>
#include <mole/io/safetensors.hpp>
#include <mole/train/loop.hpp>
#include <mole/train/run_state.hpp>

namespace mole {

namespace detail {

/// The stored type that keeps every bit of a T.
template <class T>
inline constexpr Dtype run_dtype = std::is_same_v<T, double>  ? Dtype::F64
                                   : std::is_same_v<T, bf16>  ? Dtype::BF16
                                   : std::is_same_v<T, half>  ? Dtype::F16
                                   : std::is_same_v<T, Index> ? Dtype::I64
                                                              : Dtype::F32;

/// Series of curves that a checkpoint may have.
inline constexpr Index most_series = 65536;

using RunMetadata = std::map<std::string, std::string>;
using RunTensors = std::map<std::string, TensorView>;

/// Of all that a checkpoint holds but the digest itself.
inline std::string run_digest(const RunMetadata& metadata, const RunTensors& tensors) {
  Fingerprint digest;
  for (const auto& [key, value] : metadata)
    if (key != "digest") digest.add(key).add(value);
  for (const auto& [name, view] : tensors) {
    digest.add(name).add(dtype_name(view.dtype)).add(static_cast<std::uint64_t>(view.shape.rank()));
    for (const Index extent : view.shape) digest.add(static_cast<std::uint64_t>(extent));
    digest.add(std::span(view.data, static_cast<std::size_t>(view.bytes)));
  }
  return digest.hex();
}

/// At most 1000 characters of a text from a file, from `from` on, with anything but printable ASCII as "?".
inline std::string shown(const std::string& text, std::size_t from = 0) {
  constexpr std::size_t most = 1000;
  std::string part = text.substr(from, most);
  for (char& c : part)
    if (c < ' ' || c > '~') c = '?';
  return (from > 0 ? "..." : "") + part + (from + most < text.size() ? "..." : "");
}

/// "there: .., here: .." from a little before the place where the two differ.
inline std::string difference(const std::string& there, const std::string& here) {
  const auto at = std::mismatch(there.begin(), there.end(), here.begin(), here.end()).first - there.begin();
  const auto from = std::max(there.size(), here.size()) <= 1000 ? 0 : std::max<std::ptrdiff_t>(at - 200, 0);
  const auto part = [&](const std::string& text) {
    return shown(text, std::min(static_cast<std::size_t>(from), text.size()));
  };
  return "\n  there: " + part(there) + "\n  here:  " + part(here) + "\n";
}

/// A checkpoint as it is read: nothing is believed before it is compared with the run and with the rest.
class RunReader {
 public:
  explicit RunReader(const std::filesystem::path& path) : file_(path), source_(path.string() + ":") {}

  void check_run(const std::string& run) const {
    const auto found = file_.metadata().find("run");
    MOLE_CHECK_FORMAT(found != file_.metadata().end(), source_,
                      "is no checkpoint of a run: its metadata 'run' is missing");
    if (found->second == run) return;
    throw FormatError(message(source_, "was written by another run.") + difference(found->second, run) +
                      "repeat the options of that run, or start anew without its checkpoint");
  }

  /// Fills the values of a tensor, whose name, shape and scalar are the run's.
  void read(HostTensor& tensor) const {
    std::visit(
        [&](auto& values) {
          using T = typename std::decay_t<decltype(values)>::value_type;
          values = checked<T>(tensor.name, tensor.shape);
          for (std::size_t i = 0; i < values.size(); ++i)
            MOLE_CHECK_FORMAT(is_finite(static_cast<Compute<T>>(values[i])), where(tensor.name), "holds",
                              static_cast<Compute<T>>(values[i]), "at position", i);
        },
        tensor.values);
  }

  Curves read_curves() const {
    const auto listed = file_.metadata().find("curves");
    MOLE_CHECK_FORMAT(listed != file_.metadata().end(), source_, "metadata 'curves' is missing");
    const auto series = std::count(listed->second.begin(), listed->second.end(), '\n');
    MOLE_CHECK_FORMAT(file_.contains("curves"), where("curves"), "is missing");
    const Shape shape = file_.at("curves").shape;
    const Index rows = static_cast<Index>(series) + 1;
    MOLE_CHECK_FORMAT(shape.rank() == 2 && shape[0] == rows && series <= most_series, where("curves"), "is",
                      shape, "where the metadata names", series, "series and one row is of steps");
    const auto names = lines(listed->second);
    const auto values = checked<double>("curves", shape);
    const auto points = static_cast<std::ptrdiff_t>(shape[1]);
    Curves curves;
    for (Index row = 0; row < rows; ++row) {
      const auto from = values.begin() + row * points;
      auto& line = row == 0 ? curves.step
                            : curves.series.emplace_back(names[static_cast<std::size_t>(row - 1)], 0).second;
      line.assign(from, from + points);
    }
    for (std::size_t i = 0; i < curves.step.size(); ++i)
      MOLE_CHECK_FORMAT(curves.step[i] == static_cast<double>(i + 1), where("curves"), "has", curves.step[i],
                        "as step", i + 1);
    // The loss alone: what else a run measures may well be infinite, as a balance loss of weight 0.
    for (const auto& [name, line] : curves.series)
      for (std::size_t i = 0; i < line.size(); ++i)
        MOLE_CHECK_FORMAT(name != "loss" || is_finite(line[i]), where("curves"), "has the loss", line[i],
                          "at step", i + 1);
    return curves;
  }

  /// Of `parameters` parameters, after `done` steps.
  std::vector<Index> read_steps(std::size_t parameters, std::size_t done) const {
    auto steps = checked<Index>("steps", Shape{static_cast<Index>(parameters)});
    for (std::size_t i = 0; i < steps.size(); ++i)
      MOLE_CHECK_FORMAT(steps[i] >= 0 && steps[i] <= static_cast<Index>(done), where("steps"), "says that",
                        steps[i], "of", done, "steps updated parameter", i);
    return steps;
  }

  void check_names(const RunState& state) const {
    std::set<std::string> known{"steps", "curves"};
    for (const auto& tensor : state.tensors) known.insert(tensor.name);
    for (const auto& name : file_.names())
      MOLE_CHECK_FORMAT(known.contains(name), where(name), "is no part of this run");
  }

  void check_digest() const {
    const auto digest = file_.metadata().find("digest");
    MOLE_CHECK_FORMAT(
        digest != file_.metadata().end(), source_,
        "has no digest of its content: it was written by another release of this library, or is "
        "damaged. Start the run anew without it");
    RunTensors tensors;
    for (const auto& name : file_.names()) tensors[name] = file_.at(name);
    const auto found = run_digest(file_.metadata(), tensors);
    MOLE_CHECK_FORMAT(found == digest->second, source_, "is damaged: the digest of its content is", found,
                      "and was", shown(digest->second),
                      "when it was written. Start the run anew without it, or resume from a copy");
  }

 private:
  std::string where(const std::string& tensor) const { return source_ + " tensor '" + shown(tensor) + "'"; }

  template <class T>
  std::vector<T> checked(const std::string& name, const Shape& shape) const {
    MOLE_CHECK_FORMAT(file_.contains(name), where(name), "is missing");
    const auto& view = file_.at(name);
    MOLE_CHECK_FORMAT(view.shape == shape && view.dtype == run_dtype<T>, where(name), "is", view.shape, "of",
                      view.dtype, "where the run has", shape, "of", run_dtype<T>);
    // Of the run's own type: nothing is converted.
    std::vector<T> values(static_cast<std::size_t>(shape.size()));
    if (!values.empty()) std::memcpy(values.data(), view.data, values.size() * sizeof(T));
    return values;
  }

  /// What stands before each line break.
  static std::vector<std::string> lines(const std::string& text) {
    std::vector<std::string> parts;
    std::size_t from = 0;
    for (auto end = text.find('\n'); end != text.npos; end = text.find('\n', from)) {
      parts.push_back(text.substr(from, end - from));
      from = end + 1;
    }
    return parts;
  }

  SafetensorsFile file_;
  std::string source_;
};

}  // namespace detail

/// Replaces `file` by the state of the run that `run` describes, whole or not at all. `run` names all that the
/// result depends on: options, digests of the data. Throws ArgumentError for curves whose series have a line
/// break in their name or another number of points than steps; Error where the file cannot be written.
inline void save_run(const std::filesystem::path& file, const std::string& run, const RunState& state) {
  SafetensorsWriter writer;
  detail::RunTensors tensors;
  const auto add = [&]<class T>(const std::string& name, const Shape& shape, const std::vector<T>& values) {
    const auto bytes = std::as_bytes(std::span(values));
    writer.add_bytes(name, detail::run_dtype<T>, shape, bytes);
    tensors[name] = {detail::run_dtype<T>, shape, bytes.data(), static_cast<Index>(bytes.size())};
  };
  for (const auto& tensor : state.tensors)
    std::visit([&](const auto& values) { add(tensor.name, tensor.shape, values); }, tensor.values);
  add("steps", Shape{static_cast<Index>(state.steps.size())}, state.steps);

  const auto& curves = state.curves;
  MOLE_CHECK_ARG(std::ssize(curves.series) <= detail::most_series, "save_run: at most", detail::most_series,
                 "series, got", curves.series.size());
  std::vector<double> rows = curves.step;
  std::string names;
  for (const auto& [name, line] : curves.series) {
    MOLE_CHECK_ARG(name.find('\n') == name.npos && line.size() == curves.step.size(), "save_run: the series",
                   name, "has", line.size(), "points for", curves.step.size(),
                   "steps, or a line break in its name");
    names += name + "\n";
    rows.insert(rows.end(), line.begin(), line.end());
  }
  add("curves", Shape{static_cast<Index>(curves.series.size() + 1), static_cast<Index>(curves.step.size())},
      rows);

  detail::RunMetadata metadata{{"run", run}, {"curves", names}};
  metadata["digest"] = detail::run_digest(metadata, tensors);
  for (const auto& [key, value] : metadata) writer.metadata(key, value);
  writer.write(file);
}

/// Replaces `state`, whose tensors have the run's names, shapes and scalars, by what the file holds. Throws
/// FormatError, naming file and tensor, and leaves `state` as it was, when the file belongs to another run,
/// lacks a tensor or has one too many, holds numbers that are not finite or counts that do not agree, or when
/// any bit of it has changed since it was written; Error where it cannot be read.
inline void load_run(const std::filesystem::path& file, const std::string& run, RunState& state) {
  const detail::RunReader reader(file);
  reader.check_run(run);
  RunState loaded = state;
  for (auto& tensor : loaded.tensors) reader.read(tensor);
  reader.check_names(loaded);
  loaded.curves = reader.read_curves();
  loaded.steps = reader.read_steps(state.steps.size(), loaded.curves.step.size());
  reader.check_digest();
  state = std::move(loaded);
}

/// Throws ArgumentError where a file is there that is no checkpoint: a run without `resume` would replace it.
inline void check_no_other_file(const std::filesystem::path& file) {
  std::error_code error;
  if (!std::filesystem::is_regular_file(file, error) || std::filesystem::file_size(file, error) == 0) return;
  bool of_run = false;
  try {
    of_run = SafetensorsFile(file).metadata().contains("run");
  } catch (const FormatError&) {
    // Some other file.
  }
  MOLE_CHECK_ARG(of_run, file,
                 "is there, and is no checkpoint of a run, which would replace it; choose another name");
}

/// Checkpoints of a run in a file, for train(); `resume` goes on from what is there. Before any work it is
/// made sure that the file can be written, where it throws Error, and as check_no_other_file().
inline Checkpoints run_checkpoints(const std::filesystem::path& file, const std::string& run, bool resume) {
  Checkpoints made;
  made.name = file.string();
  made.prepare = [file, resume] {
    if (!resume) check_no_other_file(file);
    const AtomicFile probe(file);
  };
  if (resume) made.load = [file, run](RunState& state) { load_run(file, run, state); };
  made.save = [file, run](const RunState& state) { save_run(file, run, state); };
  return made;
}

}  // namespace mole
