#include <doctest/doctest.h>
#include <sys/stat.h>

#include <stdexcept>
#include <string>

#include <mole/io/atomic_file.hpp>

#include "io/folder.hpp"

using namespace mole;
using namespace io_test;

TEST_CASE("a file is replaced whole and no temporary file stays") {
  const Folder folder;
  write_atomically(folder / "x", "first");
  write_atomically(folder / "x", [](AtomicFile& file) {
    file.write("sec");
    file.write("ond");
  });
  CHECK(read_text(folder / "x") == "second");
  CHECK(folder.count() == 1);
}

TEST_CASE("a failure while writing leaves the old file and nothing else") {
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

TEST_CASE("what cannot be written is named with the system's reason") {
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

TEST_CASE("permissions and symbolic links survive the replacement") {
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
