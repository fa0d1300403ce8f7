#include "common/files.hpp"

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <system_error>

#include <unistd.h>

#include <mole/core/error.hpp>
#include <mole/io/atomic_file.hpp>

namespace common {

void write_text(const std::filesystem::path& path, std::string_view text) {
  mole::write_atomically(path, text);
}

void prepare_folder(const std::filesystem::path& folder) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  MOLE_CHECK_ARG(!error && std::filesystem::is_directory(folder), "output folder", folder.string() + ":",
                 (error ? error.message() : "not a folder") + "; choose a folder you may write to");
  // A file of a new name: what lies in the folder, links among it, stays as it is.
  std::string probe = (folder / ".write-probe-XXXXXX").string();
  const int file = ::mkstemp(probe.data());
  const int reason = errno;
  MOLE_CHECK_ARG(file >= 0, "output folder", folder.string() + ":",
                 std::string(std::strerror(reason)) + "; choose a folder you may write to");
  ::close(file);
  ::unlink(probe.c_str());
}

OutputFolder::OutputFolder(const std::filesystem::path& folder) {
  std::error_code error;
  for (auto path = folder; !path.empty() && !std::filesystem::exists(path, error) && !error;
       path = path.parent_path())
    made_.push_back(path);
  try {
    prepare_folder(folder);
  } catch (...) {
    remove_empty();
    throw;
  }
}

OutputFolder::~OutputFolder() { remove_empty(); }

void OutputFolder::remove_empty() const {
  for (const auto& path : made_) ::rmdir(path.c_str());
}

void prepare_file(const std::filesystem::path& file, const std::string& option) {
  prepare_folder(file.has_parent_path() ? file.parent_path() : std::filesystem::path("."));
  MOLE_CHECK_ARG(!std::filesystem::exists(file) || std::filesystem::is_regular_file(file), option,
                 file.string(), "is not a regular file; choose another name");
}

std::string csv_number(double value) {
  if (value != value) return "";
  char text[32];
  std::snprintf(text, sizeof text, "%.7g", value);
  return text;
}

std::size_t text_width(std::string_view text) {
  std::size_t width = 0;
  for (const char byte : text) width += (static_cast<unsigned char>(byte) & 0xc0) != 0x80;
  return width;
}

}  // namespace common
