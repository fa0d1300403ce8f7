// Output folders and files that are found out to be writable before any work.

#include <doctest/doctest.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

#include <mole/core/error.hpp>

#include "common/files.hpp"
#include "examples_common/folder.hpp"

namespace {

namespace fs = std::filesystem;
using common_test::contents;
using common_test::Folder;

}  // namespace

TEST_CASE("An output folder that cannot be is an error that names it, before any work") {
  const Folder folder;
  const fs::path file = folder.path / "file";
  std::ofstream(file) << "x";
  CHECK_THROWS_AS(common::prepare_folder(file / "below"), mole::ArgumentError);
  CHECK_THROWS_AS(common::prepare_folder(file), mole::ArgumentError);
  CHECK_THROWS_AS(common::write_text(file / "results.csv", "x"), mole::Error);
  try {
    common::prepare_folder(file / "below");
  } catch (const mole::ArgumentError& error) {
    CHECK(std::string(error.what()).find((file / "below").string()) != std::string::npos);
    CHECK(std::string(error.what()).find("choose a folder") != std::string::npos);
  }
  CHECK(contents(file) == "x");
  // /proc refuses new files whoever asks, root too.
  if (fs::exists("/proc/self")) CHECK_THROWS_AS(common::prepare_folder("/proc"), mole::ArgumentError);
}

TEST_CASE("A writable output folder is made with its parents and stays empty") {
  const Folder folder;
  const fs::path deep = folder.path / "a" / "b";
  common::prepare_folder(deep);
  common::prepare_folder(deep);
  CHECK(fs::is_directory(deep));
  CHECK(fs::is_empty(deep));
}

TEST_CASE("An output folder in which nothing was written is gone after the work, if it was made for it") {
  const Folder folder;
  const fs::path deep = folder.path / "a" / "b";
  {
    const common::OutputFolder out(deep / "");
    CHECK(fs::is_directory(deep));
  }
  CHECK(!fs::exists(folder.path / "a"));
  CHECK(fs::is_directory(folder.path));
  fs::create_directories(folder.path / "a");
  { const common::OutputFolder out(deep); }
  CHECK(fs::is_directory(folder.path / "a"));
  CHECK(!fs::exists(deep));
  {
    const common::OutputFolder out(deep);
    common::write_text(deep / "results.csv", "x");
  }
  CHECK(contents(deep / "results.csv") == "x");
  { const common::OutputFolder out(folder.path / "a"); }
  CHECK(fs::is_directory(deep));
  std::ofstream(folder.path / "file") << "x";
  CHECK_THROWS_AS(common::OutputFolder(folder.path / "file" / "below"), mole::ArgumentError);
  CHECK_THROWS_AS(common::OutputFolder(folder.path / "new" / std::string(300, 'a')), mole::ArgumentError);
  CHECK(!fs::exists(folder.path / "new"));
  CHECK(contents(folder.path / "file") == "x");
}

TEST_CASE("What lies in an output folder is left alone, links to other files among it") {
  const Folder folder;
  std::ofstream(folder.path / "precious") << "kept";
  fs::create_directories(folder.path / "out");
  // Names that a probe might have.
  for (const char* name : {".write-probe.tmp", ".write-probe", ".mole.tmp"})
    fs::create_symlink(folder.path / "precious", folder.path / "out" / name);
  common::prepare_folder(folder.path / "out");
  CHECK(contents(folder.path / "precious") == "kept");
  CHECK(std::distance(fs::directory_iterator(folder.path / "out"), fs::directory_iterator()) == 3);
}

TEST_CASE("A file that cannot be written is an error that names it and its option") {
  const Folder folder;
  const auto error_of = [](const fs::path& file) -> std::string {
    try {
      common::prepare_file(file, "--checkpoint");
    } catch (const mole::ArgumentError& error) {
      return error.what();
    }
    return "";
  };
  CHECK(error_of(folder.path / "new" / "run") == "");
  CHECK(fs::is_directory(folder.path / "new"));
  CHECK(fs::is_empty(folder.path / "new"));
  const auto error = error_of(folder.path / "new");
  CHECK(error.find("--checkpoint") != error.npos);
  CHECK(error.find((folder.path / "new").string()) != error.npos);
}
