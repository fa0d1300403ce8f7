#pragma once
// A progress bar for long loops: steps done, rate, time left and loss, on a terminal; a line every few
// seconds where output goes to a file; nothing at all for work that is over in a moment.

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <iostream>
#include <string>
#include <string_view>
#include <utility>

#include <sys/ioctl.h>
#include <unistd.h>

#include <mole/core/scalar.hpp>
#include <mole/core/shape.hpp>

#include "common/files.hpp"

namespace common {

using mole::Index;

/// Where and how a Progress prints. The defaults describe this process's stderr.
struct ProgressOptions {
  std::ostream* out = &std::cerr;
  bool terminal = isatty(STDERR_FILENO) != 0;   ///< redraw one line; otherwise append lines
  bool unicode = utf8_locale();                 ///< draw the bar in block characters
  std::function<int()> width = terminal_width;  ///< columns of the terminal, asked at each drawing
  std::function<double()> now = steady_seconds;
  double quiet_seconds = 2;     ///< nothing is printed for work shorter than this
  double redraw_seconds = 0.1;  ///< at least, between two drawings on a terminal
  double line_seconds = 5;      ///< at least, between two lines in a file

  /// Columns of stderr's terminal, 80 when it does not say.
  static int terminal_width() {
    winsize size{};
    return ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
  }
  /// Seconds on a clock that never jumps.
  static double steady_seconds() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
  }
  /// Whether the environment's locale is a UTF-8 one.
  static bool utf8_locale() {
    for (const char* name : {"LC_ALL", "LC_CTYPE", "LANG"}) {
      const char* value = std::getenv(name);
      if (value == nullptr || *value == '\0') continue;
      const std::string_view locale(value);
      return locale.find("UTF-8") != locale.npos || locale.find("utf8") != locale.npos;
    }
    return false;
  }
};

/// One running loop. `Progress bar("gates", 250); for (..) bar.update(step + 1, loss);` The destructor ends
/// the line, on an exception too.
class Progress {
 public:
  /// `total` steps in all, of which `done` were done by an earlier run and do not count in the rate.
  Progress(std::string label, Index total, Index done = 0, ProgressOptions options = {})
      : label_(std::move(label)), options_(std::move(options)), total_(total), first_(done), done_(done) {
    start_ = options_.now();
    printed_ = start_ - options_.line_seconds;
  }
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;
  ~Progress() {
    try {
      finish();
    } catch (...) {
      // A stream that fails must not replace the error that is unwinding.
    }
  }

  /// `done` steps are done; `loss` is shown unless NaN. Prints only when something is due.
  void update(Index done, double loss = std::nan("")) {
    done_ = done;
    loss_ = loss;
    if (finished_) return;
    const double now = options_.now();
    if (now - start_ < options_.quiet_seconds) return;
    if (now - printed_ < (options_.terminal ? options_.redraw_seconds : options_.line_seconds)) return;
    print(now);
  }

  /// Prints the last state and ends the line, if anything was due at all; later calls do nothing.
  void finish() {
    if (std::exchange(finished_, true)) return;
    const double now = options_.now();
    if (now - start_ < options_.quiet_seconds) return;
    print(now);
    if (options_.terminal) *options_.out << "\n" << std::flush;
  }

  /// "0:07", "12:34", "1:02:03".
  static std::string clock_text(double seconds) {
    const auto whole = static_cast<long long>(std::clamp(seconds + 0.5, 0.0, 3.5e6));
    char text[32];
    if (whole < 3600) {
      std::snprintf(text, sizeof text, "%lld:%02lld", whole / 60, whole % 60);
    } else {
      std::snprintf(text, sizeof text, "%lld:%02lld:%02lld", whole / 3600, whole / 60 % 60, whole % 60);
    }
    return text;
  }

 private:
  void print(double now) {
    printed_ = now;
    const double elapsed = now - start_;
    const double rate = elapsed > 0 ? static_cast<double>(done_ - first_) / elapsed : 0;
    const double share =
        total_ > 0 ? std::clamp(static_cast<double>(done_) / static_cast<double>(total_), 0., 1.) : 1;
    char text[64];
    std::snprintf(text, sizeof text, "%3.0f%%", std::floor(100 * share));
    const std::string percent = text;
    const std::string count = std::to_string(done_) + "/" + std::to_string(total_);
    // Slow steps read better as seconds a step.
    if (rate >= 1 || rate == 0)
      std::snprintf(text, sizeof text, "%.1f step/s", rate);
    else
      std::snprintf(text, sizeof text, "%.1f s/step", 1 / rate);
    const std::string speed = text;
    std::string time = clock_text(elapsed) + " taken";
    if (done_ < total_)
      time = rate > 0 ? clock_text(static_cast<double>(total_ - done_) / rate) + " left" : "- left";
    std::string loss;
    if (!mole::is_nan(loss_)) {
      std::snprintf(text, sizeof text, "loss %.4f", loss_);
      loss = text;
    }
    // Fields leave from the right, the least telling first, until the rest fits the terminal.
    std::string line;
    const int room = options_.terminal ? std::max(options_.width() - 1, 1) : 1000;
    const auto columns = static_cast<std::size_t>(room);
    for (const auto& fields : {std::initializer_list<std::string>{count, speed, time, loss},
                               {count, time, loss},
                               {time, loss},
                               {time},
                               {}}) {
      line = percent;
      for (const std::string& field : fields) line += field.empty() ? "" : "  " + field;
      if (text_width(label_) + 2 + text_width(line) <= columns) break;
    }
    if (!options_.terminal) {
      *options_.out << label_ << "  " << line << "\n" << std::flush;
      return;
    }
    const std::size_t used = text_width(label_) + 3 + text_width(line);
    if (used + 8 <= columns) line = bar(share, std::min<std::size_t>(columns - used, 30)) + " " + line;
    line = label_ + "  " + line;
    if (text_width(line) > columns) line = percent;
    *options_.out << "\r" << line << "\x1b[K" << std::flush;
  }

  std::string bar(double share, std::size_t cells) const {
    const auto filled = static_cast<std::size_t>(share * static_cast<double>(cells));
    std::string text;
    for (std::size_t i = 0; i < cells; ++i) {
      text += options_.unicode ? (i < filled ? "█" : "░") : (i < filled ? "#" : ".");
    }
    return text;
  }

  std::string label_;
  ProgressOptions options_;
  Index total_, first_, done_;
  double loss_ = std::nan("");
  double start_ = 0, printed_ = 0;
  bool finished_ = false;
};

}  // namespace common
