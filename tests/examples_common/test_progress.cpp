// The progress bar, under a clock that the test sets.

#include <doctest/doctest.h>

#include <algorithm>
#include <sstream>
#include <stdexcept>
#include <string>

#include "common/progress.hpp"

namespace {

struct Screen {
  std::ostringstream out;
  double time = 100;
  int width = 100;

  common::ProgressOptions options(bool terminal, bool unicode = false) {
    common::ProgressOptions options;
    options.out = &out;
    options.terminal = terminal;
    options.unicode = unicode;
    options.width = [this] { return width; };
    options.now = [this] { return time; };
    return options;
  }
};

// What stands on a terminal's last line: the text after the last carriage return, without the erase code.
std::string last_drawing(std::string text) {
  while (text.ends_with('\n')) text.pop_back();
  text = text.substr(text.rfind('\r') + 1);
  return text.substr(0, text.find("\x1b[K"));
}

void run(Screen& screen, common::ProgressOptions options, int steps, double seconds_a_step) {
  common::Progress bar("gates", steps, 0, std::move(options));
  for (int step = 1; step <= steps; ++step) {
    screen.time += seconds_a_step;
    bar.update(step, 0.5);
  }
}

}  // namespace

TEST_CASE("Work under two seconds prints nothing") {
  for (const bool terminal : {false, true}) {
    Screen screen;
    run(screen, screen.options(terminal), 10, 0.19);
    CHECK(screen.out.str().empty());
  }
}

TEST_CASE("A terminal shows share, steps, rate, time left and loss on one line") {
  Screen screen;
  common::Progress bar("gates", 250, 0, screen.options(true));
  screen.time += 10;
  bar.update(50, 0.43215);
  CHECK(last_drawing(screen.out.str()) ==
        "gates  ######........................  20%  50/250  5.0 step/s  0:40 left  loss 0.4321");
  CHECK(screen.out.str().find('\n') == std::string::npos);
  bar.finish();
  bar.finish();
  CHECK(std::ranges::count(screen.out.str(), '\n') == 1);
  CHECK(screen.out.str().ends_with("\n"));
}

TEST_CASE("Slow steps are given in seconds, and a finished run in time taken") {
  Screen screen;
  common::Progress bar("base", 2, 0, screen.options(false));
  screen.time += 1800;
  bar.update(1);
  CHECK(screen.out.str() == "base   50%  1/2  1800.0 s/step  30:00 left\n");
  screen.time += 1923;
  bar.update(2);
  CHECK(screen.out.str().ends_with("base  100%  2/2  1861.5 s/step  1:02:03 taken\n"));
}

TEST_CASE("Steps of an earlier run do not count in the rate") {
  Screen screen;
  common::Progress bar("gates", 200, 100, screen.options(false));
  screen.time += 10;
  bar.update(150);
  CHECK(screen.out.str() == "gates   75%  150/200  5.0 step/s  0:10 left\n");
}

TEST_CASE("A file gets a line every few seconds, with no control characters") {
  Screen screen;
  run(screen, screen.options(false), 200, 0.1);
  const std::string text = screen.out.str();
  CHECK(std::ranges::count(text, '\n') >= 4);
  CHECK(std::ranges::count(text, '\n') <= 6);
  CHECK(text.find('\r') == text.npos);
  CHECK(text.find('\x1b') == text.npos);
}

TEST_CASE("A drawing never reaches a narrow terminal's last column, bar or not") {
  for (const bool unicode : {false, true}) {
    for (int width = 1; width < 120; ++width) {
      Screen screen;
      screen.width = width;
      common::Progress bar("géométrie", 250, 0, screen.options(true, unicode));
      screen.time += 10;
      bar.update(50, 0.4);
      const std::size_t drawn = common::text_width(last_drawing(screen.out.str()));
      CAPTURE(width);
      CHECK(drawn > 0);
      // "100%" is the least that is ever drawn.
      CHECK(drawn <= std::max(width - 1, 4));
    }
  }
}

TEST_CASE("An exception ends the line") {
  Screen screen;
  try {
    common::Progress bar("gates", 250, 0, screen.options(true));
    screen.time += 10;
    bar.update(50, 0.4);
    throw std::runtime_error("stop");
  } catch (const std::runtime_error&) {
  }
  CHECK(screen.out.str().ends_with("\n"));
}
