#include <doctest/doctest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <stdexcept>
#include <string>
#include <system_error>
#include <vector>

#include <mole/io/atomic_file.hpp>

#include "io/folder.hpp"

using namespace mole;
using namespace io_test;

TEST_CASE("A file is replaced whole and no temporary file stays") {
  const Folder folder;
  write_atomically(folder / "x", "first");
  write_atomically(folder / "x", [](AtomicFile& file) {
    file.write("sec");
    file.write("ond");
  });
  CHECK(read_text(folder / "x") == "second");
  CHECK(folder.count() == 1);
}

TEST_CASE("A failure while writing leaves the old file and nothing else") {
  const Folder folder;
  write_text(folder / "x", "old");
  CHECK_THROWS_AS(write_atomically(folder / "x",
                                   [&](AtomicFile& file) {
                                     file.write("new");
                                     CHECK(folder.count() == 2);
                                     throw std::runtime_error("stop");
                                   }),
                  std::runtime_error);
  CHECK(read_text(folder / "x") == "old");
  CHECK(folder.count() == 1);
}

TEST_CASE("What cannot be written is named with the system's reason") {
  const Folder folder;
  const auto error = [](const std::filesystem::path& path) {
    return error_of<Error>([&] { write_atomically(path, "text"); });
  };
  CHECK(mentions(error(folder / "none/x"), {"none/x", "No such file or directory", "does its folder exist"}));
  CHECK(mentions(error(folder.path), {folder.path.string(), "not a regular file"}));
  CHECK(mentions(error("/dev/null"), {"/dev/null", "not a regular file"}));
  write_text(folder / "file", "");
  CHECK(mentions(error(folder / "file/x"), {"file/x", "Not a directory"}));
  CHECK(folder.count() == 1);
}

TEST_CASE("Permissions and symbolic links survive the replacement") {
  const Folder folder;
  write_text(folder / "real", "old");
  CHECK(::chmod((folder / "real").c_str(), 0640) == 0);
  std::filesystem::create_symlink("real", folder / "link");
  write_atomically(folder / "link", "new");
  CHECK(std::filesystem::is_symlink(folder / "link"));
  CHECK(read_text(folder / "real") == "new");
  CHECK((std::filesystem::status(folder / "real").permissions() & std::filesystem::perms::mask) ==
        std::filesystem::perms(0640));
}

namespace {

// Runs f(die) in a process that is killed where f calls die(), as by kill -9.
template <class F>
void killed_in(F f) {
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    f([] { ::kill(::getpid(), SIGKILL); });
    ::_exit(0);
  }
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  REQUIRE(WIFSIGNALED(status));
}

}  // namespace

TEST_CASE("What a killed process left is removed by the next save to that name, and by no other") {
  const Folder folder;
  write_text(folder / "x", "old");
  for (int i = 0; i < 3; ++i)
    killed_in([&](auto die) {
      AtomicFile file(folder / "x");
      file.write("new");
      file.finish();
      die();
    });
  CHECK(read_text(folder / "x") == "old");
  CHECK(folder.count() == 2);  // each save removed what the one before had left
  write_atomically(folder / "y", "other");
  CHECK(folder.count() == 3);
  write_atomically(folder / "x", "new");
  CHECK(read_text(folder / "x") == "new");
  CHECK(folder.count() == 2);
}

TEST_CASE("Saves to one name at one time do not remove each other's files") {
  const Folder folder;
  AtomicFile first(folder / "x"), second(folder / "x");
  first.write("first");
  first.finish();
  second.write("second");
  second.commit();
  CHECK(read_text(folder / "x") == "second");
  first.commit();
  CHECK(read_text(folder / "x") == "first");
  CHECK(folder.count() == 1);
}

TEST_CASE("Links and folders named like temporary files are left alone") {
  const Folder folder;
  write_atomically(folder / "x", [&](AtomicFile&) {
    for (const auto& entry : std::filesystem::directory_iterator(folder.path)) {
      const auto name = entry.path().filename().string();
      std::filesystem::create_directory(folder / (name.substr(0, name.size() - 4) + "0.tmp"));
      std::filesystem::create_symlink("/dev/null", folder / (name.substr(0, name.size() - 4) + "1.tmp"));
      break;
    }
  });
  CHECK(folder.count() == 3);
  write_atomically(folder / "x", "new");
  CHECK(folder.count() == 3);
}

TEST_CASE("Two files that belong together are replaced together or not at all") {
  const Folder folder;
  const auto save = [&](const std::string& text) {
    AtomicFile first(folder / "a"), second(folder / "b");
    first.write(text);
    second.write(text);
    AtomicFile::commit_together({&first, &second});
  };
  save("1");
  save("2");
  CHECK(read_text(folder / "a") == "2");
  CHECK(read_text(folder / "b") == "2");
  CHECK(folder.count() == 2);

  // The second file cannot be put in place: something that no rename replaces stands there meanwhile.
  for (const bool first_time : {false, true}) {
    CAPTURE(first_time);
    if (first_time) std::filesystem::remove(folder / "a");
    std::filesystem::remove_all(folder / "b");
    AtomicFile first(folder / "a"), second(folder / "b");
    first.write("3");
    second.write("3");
    std::filesystem::create_directories(folder / "b/full");
    CHECK(mentions(error_of<Error>([&] {
                     AtomicFile::commit_together({&first, &second});
                   }),
                   {"b", "in place"}));
    if (first_time)
      CHECK_FALSE(std::filesystem::exists(folder / "a"));
    else
      CHECK(read_text(folder / "a") == "2");
  }
  CHECK(folder.count() == 1);
}

TEST_CASE("A full disk leaves the old file and nothing else") {
  const Folder folder;
  write_text(folder / "x", "old");
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    ::signal(SIGXFSZ, SIG_IGN);
    const struct rlimit small { 1000, 1000 };
    ::setrlimit(RLIMIT_FSIZE, &small);
    try {
      write_atomically(folder / "x", std::string(2000, 'x'));
    } catch (const Error& error) {
      ::_exit(mentions(error.what(), {"x", "cannot be written", "File too large"}) ? 0 : 2);
    }
    ::_exit(1);
  }
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  CHECK(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == 0);
  CHECK(read_text(folder / "x") == "old");
  CHECK(folder.count() == 1);
}

TEST_CASE("What lies in a folder is listed in order, and where it cannot be there is a reason") {
  const Folder folder;
  std::error_code reason;
  CHECK(mole::detail::entries_of(folder.path, reason).empty());
  CHECK_FALSE(reason);
  for (const char* name : {"b", ".a", "c"}) write_text(folder / name, "x");
  CHECK(mole::detail::entries_of(folder.path, reason) ==
        std::vector<std::filesystem::path>{folder / ".a", folder / "b", folder / "c"});
  for (const auto& none : {folder / "absent", folder / "b"}) {
    CHECK(mole::detail::entries_of(none, reason).empty());
    CHECK(reason);
  }
}

TEST_CASE("A folder is proved writable without following a link") {
  const Folder folder;
  check_writable(folder.path);
  CHECK(folder.count() == 0);
  write_text(folder / "precious", "kept");
  for (const char* name : {"probe", ".write-probe.tmp", ".mole-probe"})
    std::filesystem::create_symlink("precious", folder / name);
  check_writable(folder.path);
  CHECK(read_text(folder / "precious") == "kept");
  CHECK(folder.count() == 4);
  CHECK(mentions(error_of<Error>([&] { check_writable(folder / "none"); }), {"none", "No such file"}));
  CHECK(mentions(error_of<Error>([&] { check_writable(folder / "precious"); }),
                 {"precious", "Not a directory"}));
}
