#include "mole/experts.hpp"

#include <algorithm>
#include <iostream>
#include <utility>

#include <mole/core/error.hpp>
#include <mole/core/quote.hpp>
#include <mole/io/json.hpp>
#include <mole/io/lora_set.hpp>

namespace program {

namespace {

namespace fs = std::filesystem;

/// The way from the folder of `file` to `target`, or the whole path where there is none.
std::string seen_from(const fs::path& file, const fs::path& target) {
  const auto from = fs::absolute(file).parent_path().lexically_normal(),
             to = fs::absolute(target).lexically_normal();
  const auto way = to.lexically_relative(from);
  return utf8_name(way.empty() ? to : way);
}

fs::path from_gates(const mole::GatesFile& gates, const std::string& way) {
  return (gates.stored->path().parent_path() / way).lexically_normal();
}

const std::string* note(const mole::GatesFile& gates, const std::string& key) {
  const auto found = gates.notes.find(key);
  return found == gates.notes.end() ? nullptr : &found->second;
}

std::string text_of(const mole::Json& object, const char* name) {
  const auto found = object.find(name);
  return found != object.end() && found->is_string() ? found->get<std::string>() : std::string();
}

}  // namespace

std::vector<ExpertPath> expert_paths(const std::vector<std::string>& texts) {
  MOLE_CHECK_ARG(!texts.empty(), "--experts: the list is empty; name LoRA adapters, by comma");
  std::vector<ExpertPath> paths;
  for (const auto& text : texts) {
    ExpertPath path;
    const auto equals = text.find('=');
    // A folder whose name holds a '=' is meant where it is there.
    if (equals == text.npos || equals == 0 || fs::exists(text)) {
      path.folder = text;
      path.name = path.folder.extension() == ".safetensors" ? path.folder.stem().string()
                                                            : mole::detail::folder_name(path.folder);
    } else {
      path.name = text.substr(0, equals);
      path.folder = text.substr(equals + 1);
    }
    for (const auto& other : paths)
      MOLE_CHECK_ARG(other.name != path.name, "--experts: two are called", path.name + ":", other.folder,
                     "and", path.folder, "- name one by NAME=FOLDER");
    paths.push_back(std::move(path));
  }
  return paths;
}

std::vector<mole::LoraSet> load_experts(const std::vector<ExpertPath>& paths) {
  std::vector<mole::LoraSet> sets;
  for (const auto& path : paths) {
    MOLE_CHECK_AS(mole::Error, fs::is_directory(path.folder), "expert", path.name + ": there is no folder",
                  path.folder, "- give the folder of a PEFT adapter (mole train-expert makes one)");
    auto adapter = mole::load_adapter(path.folder, path.name);
    for (const auto& warning : adapter.warnings) std::cerr << "warning: " << warning << "\n";
    sets.push_back(mole::lora_set(std::move(adapter)));
  }
  return sets;
}

std::string utf8_name(const fs::path& path) {
  auto text = path.string();
  MOLE_CHECK_ARG(mole::utf8_bytes(text) == text.size(), path,
                 "is no UTF-8 name, and files that are written here would name it; rename it");
  return text;
}

void check_adapter_folder(const fs::path& folder, const std::vector<ExpertPath>& experts) {
  for (const char* name : {"config.json", "model_index.json"})
    MOLE_CHECK_ARG(!fs::exists(folder / name), "--out", folder,
                   "holds a model; choose another folder for the adapter");
  for (const auto& expert : experts) {
    std::error_code error;
    MOLE_CHECK_ARG(!fs::equivalent(folder, expert.folder, error), "--out", folder, "is the expert",
                   expert.name + ", which would be replaced; choose another folder");
  }
}

std::map<std::string, std::string> gate_notes(const fs::path& gates, const ModelOptions& model,
                                              const std::string& base_digest,
                                              const std::vector<ExpertPath>& experts,
                                              const PromptTemplate& form) {
  auto folders = mole::Json::object();
  for (const auto& expert : experts) folders[expert.name] = seen_from(gates, expert.folder);
  const mole::Json text{{"name", form.name},
                        {"before", form.before},
                        {"between", form.between},
                        {"after", form.after},
                        {"system", form.system}};
  std::map<std::string, std::string> notes{{"base", seen_from(gates, model.base)},
                                           {"base_digest", base_digest},
                                           {"expert_folders", mole::detail::json_text(folders)},
                                           {"template", mole::detail::json_text(text)}};
  if (!model.tokenizer.empty()) notes["tokenizer"] = seen_from(gates, model.tokenizer);
  return notes;
}

std::vector<ExpertPath> experts_of(const mole::GatesFile& gates, const std::vector<std::string>& given) {
  if (!given.empty()) {
    auto paths = expert_paths(given);
    MOLE_CHECK_ARG(paths.size() == gates.experts.size(), "--experts names", paths.size(),
                   "experts and the gates know", gates.experts.size());
    // Folders may have been renamed since: their order says which is which, unless their names do.
    std::vector<ExpertPath> ordered;
    for (std::size_t i = 0; i < gates.experts.size(); ++i) {
      const auto named = std::find_if(paths.begin(), paths.end(),
                                      [&](const auto& path) { return path.name == gates.experts[i]; });
      ordered.push_back({gates.experts[i], named == paths.end() ? paths[i].folder : named->folder});
    }
    return ordered;
  }
  const auto* folders = note(gates, "expert_folders");
  MOLE_CHECK_ARG(folders, gates.source(), "the gates do not say where their experts lie; give --experts");
  const auto json = mole::detail::parse_json(*folders, gates.source() + " note expert_folders:");
  std::vector<ExpertPath> paths;
  for (const auto& name : gates.experts) {
    const auto way = json.is_object() ? text_of(json, name.c_str()) : std::string();
    MOLE_CHECK_ARG(!way.empty(), gates.source(), "the gates do not say where the expert", name,
                   "lies; give --experts");
    paths.push_back({name, from_gates(gates, way)});
    MOLE_CHECK_AS(mole::Error, fs::exists(paths.back().folder), gates.source(), "the expert", name, "lay in",
                  paths.back().folder, "which is not there; give --experts");
  }
  return paths;
}

fs::path base_of(const mole::GatesFile& gates, const fs::path& given) {
  if (!given.empty()) return given;
  const auto* way = note(gates, "base");
  MOLE_CHECK_ARG(way, gates.source(), "the gates do not say where their base lies; give --base");
  return from_gates(gates, *way);
}

fs::path tokenizer_of(const mole::GatesFile& gates, const fs::path& given) {
  const auto* way = note(gates, "tokenizer");
  if (!given.empty() || !way) return given;
  const auto path = from_gates(gates, *way);
  MOLE_CHECK_AS(mole::Error, fs::exists(path), gates.source(),
                "the tokenizer that the gates were trained with lay in", path,
                "which is not there; give --tokenizer");
  return path;
}

PromptTemplate template_of(const mole::GatesFile& gates) {
  const auto* stored = note(gates, "template");
  if (!stored) return {};
  const auto json = mole::detail::parse_json(*stored, gates.source() + " note template:");
  MOLE_CHECK_FORMAT(json.is_object(), gates.source(), "its template should be an object");
  PromptTemplate form;
  form.name = text_of(json, "name");
  form.before = text_of(json, "before");
  form.between = text_of(json, "between");
  form.after = text_of(json, "after");
  form.system = text_of(json, "system");
  return form;
}

}  // namespace program
