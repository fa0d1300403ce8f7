#include "numbers/assets.hpp"

#include <algorithm>
#include <iostream>
#include <span>
#include <utility>

#include <mole/core/fingerprint.hpp>
#include <mole/io/lora_set.hpp>

namespace numbers {

std::filesystem::path shipped_base() { return std::filesystem::path(MOLE_NUMBERS_ASSETS) / "base"; }
std::filesystem::path shipped_experts() { return std::filesystem::path(MOLE_NUMBERS_ASSETS) / "experts"; }

std::string folder_name(const Task& task) { return task.source + "-" + task.target; }

std::string base_digest(const std::filesystem::path& folder) {
  const mole::SafetensorsFile file(folder / "model.safetensors");
  mole::Fingerprint digest;
  for (const auto& name : file.names()) {
    const auto& view = file.at(name);
    digest.add(std::as_bytes(std::span(name)));
    digest.add({view.data, static_cast<std::size_t>(view.bytes)});
  }
  return digest.hex();
}

std::vector<mole::LoraSet> load_experts(const std::vector<std::string>& names,
                                        const std::filesystem::path& root) {
  MOLE_CHECK_ARG(!names.empty(),
                 "the list of experts is empty; name at least one, such as --experts 'en>fr,fr>en'");
  std::vector<mole::LoraSet> sets;
  for (const auto& name : names) {
    std::filesystem::path folder = name;
    std::string title = folder.filename().string();
    if (name.find('>') != std::string::npos) {
      folder = root / folder_name(parse_task(name));
      title = name;
    } else if (const auto dash = title.find('-'); dash != std::string::npos) {
      const auto source = title.substr(0, dash), target = title.substr(dash + 1);
      const auto& known = base_languages();
      auto is_known = [&](const std::string& l) {
        return std::find(known.begin(), known.end(), l) != known.end();
      };
      if (is_known(source) && is_known(target)) title = source + ">" + target;
    }
    MOLE_CHECK_ARG(std::filesystem::is_directory(folder), "expert", name + ": there is no folder",
                   folder.string(),
                   "(make it with `numbers train-expert --task ...`, or give the folder of a PEFT adapter)");
    auto adapter = mole::load_adapter(folder, title);
    for (const auto& warning : adapter.warnings) std::cerr << "warning: " << warning << "\n";
    sets.push_back(mole::lora_set(std::move(adapter)));
  }
  return sets;
}

}  // namespace numbers
