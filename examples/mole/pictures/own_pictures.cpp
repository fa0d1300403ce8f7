#include "mole/pictures/own_pictures.hpp"

#include <algorithm>
#include <fstream>
#include <iterator>
#include <map>

#include <mole/backends/cpu.hpp>
#include <mole/core/error.hpp>
#include <mole/io/json.hpp>
#include <mole/ops/resize.hpp>

namespace program {

namespace {

namespace fs = std::filesystem;

/// Without blanks and line breaks around it.
std::string trimmed(const std::string& text) {
  const char* blank = " \t\r\n";
  const auto first = text.find_first_not_of(blank);
  return first == text.npos ? "" : text.substr(first, text.find_last_not_of(blank) - first + 1);
}

std::string contents(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  MOLE_CHECK_AS(mole::Error, file.good(), path, "cannot be read");
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

/// The pictures that metadata.jsonl names, with their captions; none without such a file.
std::map<fs::path, std::string> listed_captions(const fs::path& folder) {
  std::map<fs::path, std::string> captions;
  const auto path = folder / "metadata.jsonl";
  if (!fs::exists(path)) return captions;
  const auto text = contents(path);
  std::size_t from = 0, number = 0;
  while (from < text.size()) {
    const auto end = std::min(text.find('\n', from), text.size());
    const auto line = trimmed(text.substr(from, end - from));
    from = end + 1;
    ++number;
    if (line.empty()) continue;
    const auto where = path.string() + ": line " + std::to_string(number);
    const auto json = mole::detail::parse_json(line, where + ":");
    const auto field = [&](const char* key) {
      const auto found = json.is_object() ? json.find(key) : json.end();
      MOLE_CHECK_FORMAT(json.is_object() && found != json.end() && found->is_string(), where,
                        "should be {\"file_name\": .., \"text\": ..}; it lacks the text", key);
      return trimmed(found->get<std::string>());
    };
    const auto file = (folder / field("file_name")).lexically_normal();
    MOLE_CHECK_FORMAT(fs::exists(file), where, "names", file, "which is not there");
    MOLE_CHECK_FORMAT(captions.emplace(file, field("text")).second, where, "names", file, "a second time");
  }
  return captions;
}

/// The caption in the text file beside a picture; empty where there is none.
std::string caption_beside(fs::path file) {
  file.replace_extension(".txt");
  return fs::exists(file) ? trimmed(contents(file)) : "";
}

/// Resized to cover the sides, and cut to its middle.
common::Image covering(const common::Image& image, Index width, Index height) {
  using Pixels = mole::Tensor<float, mole::Cpu>;
  const mole::NoGrad off;
  const double scale = std::max(static_cast<double>(width) / static_cast<double>(image.width),
                                static_cast<double>(height) / static_cast<double>(image.height));
  const auto scaled = [&](Index side, Index least) {
    return std::max(least, static_cast<Index>(static_cast<double>(side) * scale + 0.5));
  };
  auto pixels = Pixels::from({1, image.height, image.width, 3},
                             std::vector<float>(image.pixels.begin(), image.pixels.end()));
  const Index H = scaled(image.height, height), W = scaled(image.width, width);
  if (H != image.height || W != image.width) pixels = resize_bicubic(pixels, H, W);
  pixels = crop(pixels, (H - height) / 2, (W - width) / 2, height, width);
  auto values = pixels.to_host();
  for (float& value : values) value /= 255;
  return common::image01(values.data(), width, height);
}

}  // namespace

std::vector<CaptionedPicture> read_own_pictures(const fs::path& folder, Index width, Index height) {
  MOLE_CHECK_AS(mole::Error, fs::is_directory(folder), "--pictures", folder,
                "is no folder; give one with PNG files and their captions");
  auto captions = listed_captions(folder);
  for (const auto& entry : fs::directory_iterator(folder)) {
    const auto file = entry.path().lexically_normal();
    if (file.extension() == ".png" && !captions.contains(file)) captions[file] = caption_beside(file);
  }
  MOLE_CHECK_AS(mole::Error, !captions.empty(), "--pictures", folder,
                "holds no PNG files; other pictures must be converted first");
  std::vector<CaptionedPicture> pictures;
  for (const auto& [file, caption] : captions) {
    MOLE_CHECK_AS(mole::Error, !caption.empty(), "--pictures", file,
                  "has no caption; write one into a text file beside it, or into metadata.jsonl as "
                  "{\"file_name\": .., \"text\": ..}");
    pictures.push_back({file, caption, covering(common::read_png(file), width, height)});
  }
  return pictures;
}

}  // namespace program
