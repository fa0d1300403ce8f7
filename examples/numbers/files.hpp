#pragma once
// Output files: a folder that is known to be writable before hours of work, and texts that are whole or
// absent.

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>
#include <system_error>

#include <mole/core/error.hpp>
#include <mole/io/atomic_file.hpp>

namespace numbers {

/// Replaces the file at `path` by `text`, or leaves it as it was and throws mole::Error, naming the file and
/// the system's reason.
inline void write_text(const std::filesystem::path& path, std::string_view text) {
  mole::write_atomically(path, text);
}

/// Creates `folder` with its parents and proves that a file can be written there; call it before the work
/// whose results go there. Throws mole::ArgumentError, naming the folder and the system's reason.
inline void prepare_folder(const std::filesystem::path& folder) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  MOLE_CHECK_ARG(!error && std::filesystem::is_directory(folder), "output folder", folder.string() + ":",
                 (error ? error.message() : "not a folder") + "; choose a folder you may write to");
  const std::filesystem::path probe = folder / ".write-probe.tmp";
  errno = 0;
  const bool writable = static_cast<bool>(std::ofstream(probe));
  const int reason = errno;
  std::filesystem::remove(probe, error);
  MOLE_CHECK_ARG(
      writable, "output folder", folder.string() + ":",
      std::string(std::strerror(reason != 0 ? reason : EACCES)) + "; choose a folder you may write to");
}

/// `value` in the fewest digits that read back within 1e-6 of it, in the C locale's style; empty for NaN.
inline std::string csv_number(double value) {
  if (value != value) return "";
  char text[32];
  std::snprintf(text, sizeof text, "%.7g", value);
  return text;
}

/// The columns a UTF-8 text takes on a terminal, one a character: accents and arrows, not East Asian wide
/// ones.
inline std::size_t text_width(std::string_view text) {
  std::size_t width = 0;
  for (const char byte : text) width += (static_cast<unsigned char>(byte) & 0xc0) != 0x80;
  return width;
}

}  // namespace numbers
