#pragma once
// Running a built program in a folder of its own.

#include <doctest/doctest.h>

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "examples_common/folder.hpp"

namespace program_test {

namespace fs = std::filesystem;
using Arguments = std::vector<std::string>;

using common_test::contents;

inline void write(const fs::path& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

/// What a run left: its exit code (128 + signal where one killed it) and its two outputs.
struct Result {
  int code = -1;
  std::string out, err;
};

inline Arguments operator+(Arguments a, const Arguments& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

/// A folder that goes with this, and a program that runs in it.
class Runner {
 public:
  Runner(std::string program, const std::string& name)
      : program_(std::move(program)),
        root_(fs::temp_directory_path() / (name + "-" + std::to_string(::getpid()))) {
    fs::create_directories(root_);
  }
  Runner(const Runner&) = delete;
  ~Runner() { fs::remove_all(root_); }

  /// A path in the folder.
  std::string operator/(const std::string& name) const { return (root_ / name).string(); }

  /// Starts the program in the folder; outputs go to files that finish() reads.
  pid_t start(const Arguments& arguments, const char* path = nullptr, const char* threads = "1") const {
    const pid_t child = ::fork();
    if (child != 0) return child;
    // One thread, unless the test is of more: no waiting for others' work.
    ::setenv("OMP_NUM_THREADS", threads, 1);
    if (path != nullptr) ::setenv("PATH", path, 1);
    std::string name = program_;
    std::vector<char*> argv{name.data()};
    auto copy = arguments;
    for (auto& argument : copy) argv.push_back(argument.data());
    argv.push_back(nullptr);
    const int out = ::open((*this / "stdout").c_str(), O_CREAT | O_TRUNC | O_WRONLY, 0600);
    const int err = ::open((*this / "stderr").c_str(), O_CREAT | O_TRUNC | O_WRONLY, 0600);
    if (::chdir(root_.c_str()) != 0 || ::dup2(out, 1) < 0 || ::dup2(err, 2) < 0) ::_exit(125);
    ::execv(name.c_str(), argv.data());
    ::_exit(126);
  }

  Result finish(pid_t child) const {
    int status = 0;
    REQUIRE(::waitpid(child, &status, 0) == child);
    const int code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    return {code, contents(*this / "stdout"), contents(*this / "stderr")};
  }

  Result run(const Arguments& arguments, const char* path = nullptr) const {
    return finish(start(arguments, path));
  }

  /// Runs, sends `signal` as soon as `ready`, and waits for the end.
  template <class Ready>
  Result interrupt(const Arguments& arguments, Ready ready, int signal = SIGINT) const {
    const pid_t child = start(arguments);
    int status = 0;
    for (int wait = 0; wait < 20000 && !ready(); ++wait) {
      if (::waitpid(child, &status, WNOHANG) != 0) {
        FAIL("the program ended before it was to be stopped: " << contents(*this / "stderr"));
      }
      ::usleep(1000);
    }
    ::kill(child, signal);
    return finish(child);
  }

 private:
  std::string program_;
  fs::path root_;
};

/// What mpirun takes to start `count` processes of a program on this machine, however few cores it has.
inline Arguments processes(int count, const std::string& program, const Arguments& command) {
  return Arguments{"-np", std::to_string(count), "--oversubscribe", "--allow-run-as-root", program} + command;
}

/// `arguments` with the value of `option` replaced, or added.
inline Arguments with(Arguments arguments, const std::string& option, const std::string& value) {
  for (std::size_t i = 0; i + 1 < arguments.size(); ++i)
    if (arguments[i] == option) {
      arguments[i + 1] = value;
      return arguments;
    }
  return arguments + Arguments{option, value};
}

inline bool holds(const std::string& text, const std::string& part) { return text.find(part) != text.npos; }

/// A command, and what its --help is to name.
struct HelpRow {
  Arguments command;
  std::vector<std::string> options;
};

inline void check_help(const Runner& runner, const std::vector<HelpRow>& rows) {
  for (const auto& row : rows) {
    const auto result = runner.run(row.command + Arguments{"--help"});
    CHECK(result.code == 0);
    for (const auto& option : row.options) {
      CAPTURE(option);
      CHECK(holds(result.out, option));
    }
  }
}

/// Whether `text` holds these parts one after another.
inline void check_in_order(const std::string& text, const std::vector<std::string>& parts) {
  std::size_t at = 0;
  for (const auto& part : parts) {
    CAPTURE(part);
    CHECK(text.find(part, at) != text.npos);
    at = std::min(text.find(part, at), text.size());
  }
}

}  // namespace program_test
