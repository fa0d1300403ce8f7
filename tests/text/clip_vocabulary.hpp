#pragma once
// The vocabulary of the goldens' CLIP tokenizer, in the two files that Stable Diffusion's folders have.

#include <filesystem>
#include <fstream>
#include <string>

#include <mole/io/json.hpp>

namespace text_test {

/// Writes vocab.json, merges.txt and tokenizer_config.json to a folder.
inline void write_clip_tokenizer(const std::filesystem::path& folder, const std::string& config = "{}") {
  const auto json =
      mole::read_json(std::filesystem::path(MOLE_TEST_DATA) / "golden/lm/tokenizers/clip.tokenizer.json",
                      mole::max_json_bytes);
  std::filesystem::create_directories(folder);
  const auto write = [&](const char* name, const std::string& text) {
    std::ofstream(folder / name, std::ios::binary) << text;
  };
  write("vocab.json", json.at("model").at("vocab").dump());
  std::string merges = "#version: 0.2\n";
  for (const auto& merge : json.at("model").at("merges"))
    merges += merge[0].get<std::string>() + " " + merge[1].get<std::string>() + "\n";
  write("merges.txt", merges);
  write("tokenizer_config.json", config);
}

}  // namespace text_test
