#pragma once
// Where the shipped models lie, and how experts are named.

#include <filesystem>
#include <string>

namespace pictures {

/// The folder of the shipped sprites, base, experts and judging CLIP.
std::filesystem::path shipped();

/// An expert by its name and where its LoRA lies.
struct ExpertPlace {
  std::string name;  ///< of the subject: "dog face"
  std::filesystem::path path;
};

/// Of "dog face" the shipped expert; of a path that exists that LoRA, called by the last part of the path, a dash
/// being a blank. Throws mole::ArgumentError for neither.
ExpertPlace expert_place(const std::string& name);

/// The folder name of a subject: "dog face" -> "dog-face".
std::string folder_name(std::string subject);

/// Throws mole::Error unless the folder of a model holds this file; the message names the command that makes the model,
/// and the option that names another.
void check_part(const std::filesystem::path& folder, const std::string& file, const std::string& command,
                const std::string& option);

}  // namespace pictures
