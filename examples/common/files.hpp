#pragma once
// Output files: a folder that is known to be writable before hours of work, texts that are whole or absent,
// and what they hold.

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace common {

/// Replaces the file at `path` by `text`, or leaves it as it was and throws mole::Error, naming the file and
/// the system's reason.
void write_text(const std::filesystem::path& path, std::string_view text);

/// Creates `folder` with its parents and proves that a file can be written there; call it before the work
/// whose results go there. Throws mole::ArgumentError, naming the folder and the system's reason.
void prepare_folder(const std::filesystem::path& folder);

/// prepare_folder() for work that may be refused before it writes anything: at its end the folder and its parents are
/// removed, where they were made here and nothing lies in them.
class OutputFolder {
 public:
  /// Throws as prepare_folder().
  explicit OutputFolder(const std::filesystem::path& folder);
  OutputFolder(const OutputFolder&) = delete;
  OutputFolder& operator=(const OutputFolder&) = delete;
  ~OutputFolder();

 private:
  /// Those of made_; others are left.
  void remove_empty() const;

  std::vector<std::filesystem::path> made_;  ///< the innermost first
};

/// Makes sure, before any work, that `file` can be written or replaced; its folder is made where there is
/// none. Throws mole::ArgumentError, naming the file and `option`, which gave it.
void prepare_file(const std::filesystem::path& file, const std::string& option);

/// `value` in the fewest digits that read back within 1e-6 of it, in the C locale's style; empty for NaN.
std::string csv_number(double value);

/// The columns a UTF-8 text takes on a terminal, one a character: accents and arrows, not East Asian wide
/// ones.
std::size_t text_width(std::string_view text);

}  // namespace common
