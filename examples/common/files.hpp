#pragma once
// Output files: a folder that is known to be writable before hours of work, texts that are whole or absent,
// and what they hold.

#include <filesystem>
#include <string>
#include <string_view>

namespace common {

/// Replaces the file at `path` by `text`, or leaves it as it was and throws mole::Error, naming the file and
/// the system's reason.
void write_text(const std::filesystem::path& path, std::string_view text);

/// Creates `folder` with its parents and proves that a file can be written there; call it before the work
/// whose results go there. Throws mole::ArgumentError, naming the folder and the system's reason.
void prepare_folder(const std::filesystem::path& folder);

/// Makes sure, before any work, that `file` can be written or replaced; its folder is made where there is
/// none. Throws mole::ArgumentError, naming the file and `option`, which gave it.
void prepare_file(const std::filesystem::path& file, const std::string& option);

/// `value` in the fewest digits that read back within 1e-6 of it, in the C locale's style; empty for NaN.
std::string csv_number(double value);

/// The columns a UTF-8 text takes on a terminal, one a character: accents and arrows, not East Asian wide
/// ones.
std::size_t text_width(std::string_view text);

}  // namespace common
