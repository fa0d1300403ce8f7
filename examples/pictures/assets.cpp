#include "pictures/assets.hpp"

#include <algorithm>

#include <mole/core/error.hpp>

namespace pictures {

std::filesystem::path shipped() { return MOLE_PICTURES_ASSETS; }

std::string folder_name(std::string subject) {
  std::replace(subject.begin(), subject.end(), ' ', '-');
  return subject;
}

ExpertPlace expert_place(const std::string& name) {
  std::filesystem::path path = name;
  if (const auto own = shipped() / "experts" / folder_name(name);
      name.find('/') == name.npos && std::filesystem::is_directory(own))
    path = own;
  MOLE_CHECK_ARG(std::filesystem::exists(path),
                 "expert \"" + name + "\": no expert of that name is shipped, and there is no", path,
                 "(make one with `pictures train-expert --subject ..`, or give the folder of a LoRA)");
  auto title = (path.has_filename() ? path : path.parent_path()).stem().string();
  std::replace(title.begin(), title.end(), '-', ' ');
  return {title, path};
}

void check_part(const std::filesystem::path& folder, const std::string& file, const std::string& command,
                const std::string& option) {
  MOLE_CHECK_AS(mole::Error, std::filesystem::exists(folder / file), folder, "holds no",
                file + "; make it with `pictures", command + "`, or give another", option);
}

}  // namespace pictures
