#pragma once
// The LoRA experts of a command line, and what gates remember of how they were made.

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include <mole/io/gates.hpp>
#include <mole/nn/lora.hpp>

#include "mole/commands.hpp"
#include "mole/prompt.hpp"

namespace program {

/// An expert as it is named: a folder, of pictures also a file, and what it is called.
struct ExpertPath {
  std::string name;
  std::filesystem::path folder;
};

/// Experts from texts such as "french" or "NAME=FOLDER"; the name is the folder's, or the file's without .safetensors,
/// unless given. Throws mole::ArgumentError for an empty list, or two of one name.
std::vector<ExpertPath> expert_paths(const std::vector<std::string>& texts);

/// The PEFT adapters in these folders, in order; warnings go to stderr. Throws as mole::load_adapter(); mole::Error for
/// a folder that is not there, with what to do about it.
std::vector<mole::LoraSet> load_experts(const std::vector<ExpertPath>& paths);

/// A path as gates and adapters name it. Throws mole::ArgumentError for one that is no UTF-8, which they cannot hold.
std::string utf8_name(const std::filesystem::path& path);

/// Throws mole::ArgumentError where a new adapter in this folder would replace one of the experts, or lie among a
/// model's files.
void check_adapter_folder(const std::filesystem::path& folder, const std::vector<ExpertPath>& experts);

/// What gates remember beside themselves: where base, experts and a tokenizer of its own lie, seen from the gates' file,
/// the base's digest and the template. Throws mole::ArgumentError for a path that is no UTF-8.
std::map<std::string, std::string> gate_notes(const std::filesystem::path& gates, const ModelOptions& model,
                                              const std::string& base_digest,
                                              const std::vector<ExpertPath>& experts,
                                              const PromptTemplate& form);

/// The experts that gates were trained with, by name: where their notes say, unless `given` has other paths. Throws
/// mole::ArgumentError where neither says.
std::vector<ExpertPath> experts_of(const mole::GatesFile& gates, const std::vector<std::string>& given);

/// The base that gates were trained on, unless `given`. Throws mole::ArgumentError where neither says.
std::filesystem::path base_of(const mole::GatesFile& gates, const std::filesystem::path& given);

/// The tokenizer that gates were trained with, unless `given`; empty where it is the base's own. Throws mole::Error where
/// it is no longer there.
std::filesystem::path tokenizer_of(const mole::GatesFile& gates, const std::filesystem::path& given);

/// The template that gates were trained with; none where they do not say.
PromptTemplate template_of(const mole::GatesFile& gates);

}  // namespace program
