// Running gnuplot on a script.

#include "common/gnuplot.hpp"

#include <cerrno>
#include <cstdio>
#include <system_error>

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/files.hpp"

extern char** environ;

namespace common {
namespace {

// Runs gnuplot inside `folder`, its messages discarded; 127 when there is no such program.
int run_gnuplot(const std::string& program, const std::filesystem::path& folder, const std::string& script) {
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addchdir_np(&actions, folder.c_str());
  posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
  posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
  std::string arguments[2] = {program, script};
  char* argv[] = {arguments[0].data(), arguments[1].data(), nullptr};
  pid_t child = 0;
  const int error = posix_spawnp(&child, program.c_str(), &actions, nullptr, argv, environ);
  posix_spawn_file_actions_destroy(&actions);
  if (error != 0) return 127;
  int status = 0;
  while (waitpid(child, &status, 0) < 0) {
    if (errno != EINTR) return -1;
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

}  // namespace

std::string number(double value, const char* format) {
  char text[32];
  std::snprintf(text, sizeof text, format, value);
  return text;
}

std::string quoted(const std::string& text) {
  std::string out = "'";
  for (const char c : text) out += c == '\'' ? std::string("''") : std::string(1, c == '\n' ? ' ' : c);
  return out + "'";
}

std::string script_head(const std::string& name, int width, int height, int font) {
  return "# Draws " + name + ".png from " + name + ".csv: gnuplot " + name + ".gp\n" +
         "set encoding utf8\nset terminal pngcairo noenhanced size " + std::to_string(width) + "," +
         std::to_string(height) + " font 'DejaVu Sans," + std::to_string(font) + "' background '#ffffff'\n" +
         "set output " + quoted(name + ".png") +
         "\nset datafile separator ','\ndata = " + quoted(name + ".csv") + "\nset linetype 1 lc rgb '" + ink +
         "'\nset border lc rgb '#888888'\nset tics textcolor rgb '" + ink + "'\n";
}

Plot draw(const std::filesystem::path& folder, const std::string& name, const std::string& csv,
          const std::string& script, const PlotOptions& options) {
  Plot plot{folder / (name + ".csv"), folder / (name + ".gp"), {}, {}};
  write_text(plot.csv, csv);
  write_text(plot.script, script);
  const std::filesystem::path picture = folder / (name + ".png");
  std::error_code error;
  std::filesystem::remove(picture, error);
  const int status = run_gnuplot(options.gnuplot, folder, name + ".gp");
  if (status == 0 && std::filesystem::exists(picture, error) &&
      std::filesystem::file_size(picture, error) > 0) {
    plot.picture = picture;
    return plot;
  }
  std::filesystem::remove(picture, error);  // what a failed run has begun
  const std::string command = "(cd '" + folder.string() + "' && gnuplot " + name + ".gp)";
  plot.note = status == 127 ? "no picture " + name + ".png: " + options.gnuplot +
                                  " is not installed; install gnuplot, then run " + command
                            : "no picture " + name + ".png: gnuplot failed; see why with " + command;
  return plot;
}

}  // namespace common
