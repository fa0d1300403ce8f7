#include "mole/pictures/own_pictures.hpp"

#include <algorithm>
#include <array>
#include <map>
#include <string_view>

#include <mole/backends/cpu.hpp>
#include <mole/core/error.hpp>
#include <mole/core/quote.hpp>
#include <mole/io/mapped_file.hpp>
#include <mole/ops/resize.hpp>

#include "mole/examples.hpp"
#include "mole/text_metrics.hpp"

namespace program {

namespace {

namespace fs = std::filesystem;

/// Of a picture that covers the sides: as many as the largest that is read has.
constexpr Index most_pixels = Index{4096} * 4096;

/// Of the resizing of a side, which takes a weight for each of its pixels and of those that become of it. A picture of
/// 4096 x 1 pixels keeps to most_pixels and would take 4 GB of weights.
constexpr Index most_weights = Index{8192} * 4096;

/// Of a caption. A text encoder reads less than a thousand; more takes long to be cut into tokens.
constexpr std::size_t most_bytes = 100'000;

/// What a text file holds, without the mark that some editors put before UTF-8.
std::string contents(const fs::path& path) {
  const mole::detail::MappedFile file(path);
  const std::string_view text(reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size());
  constexpr std::string_view mark = "\xef\xbb\xbf";
  mole::detail::check_no_lfs_pointer(text, mole::message(path) + ":");
  return std::string(text.starts_with(mark) ? text.substr(mark.size()) : text);
}

/// The picture that a line of metadata.jsonl names. It lies in the folder or below it.
fs::path named_picture(const fs::path& folder, const std::string& name, const std::string& where) {
  const auto relative = fs::path(name).lexically_normal();
  const bool inside = relative.is_relative() && !relative.empty() && *relative.begin() != "..";
  MOLE_CHECK_FORMAT(inside, where, "names", mole::quote(name) + ", which does not lie in the folder");
  auto file = (folder / relative).lexically_normal();
  std::error_code error;
  MOLE_CHECK_FORMAT(name.find('\0') == name.npos && fs::is_regular_file(file, error), where, "names",
                    mole::quote(name) + ", which is not there");
  return file;
}

/// The pictures that metadata.jsonl names, with their captions; none without such a file.
std::map<fs::path, std::string> listed_captions(const fs::path& folder) {
  std::map<fs::path, std::string> captions;
  const auto path = folder / "metadata.jsonl";
  if (!fs::exists(path)) return captions;
  each_json_line(path, [&](const mole::Json& object, const std::string& where) {
    const auto field = [&](const char* key) {
      const auto found = object.find(key);
      MOLE_CHECK_FORMAT(found != object.end() && found->is_string(), where,
                        "should be {\"file_name\": .., \"text\": ..}; it lacks the text", key);
      return trimmed(found->get<std::string>());
    };
    const auto file = named_picture(folder, field("file_name"), where);
    MOLE_CHECK_FORMAT(captions.emplace(file, field("text")).second, where, "names", file, "a second time");
  });
  return captions;
}

/// The caption in the text file beside a picture; empty where there is none.
std::string caption_beside(fs::path file) {
  file.replace_extension(".txt");
  if (!fs::exists(file)) return "";
  auto caption = trimmed(contents(file));
  for (std::size_t at = 0; at < caption.size();) {
    const auto bytes = mole::first_code_point(std::string_view(caption).substr(at)).bytes;
    MOLE_CHECK_FORMAT(bytes > 0, file, "is not UTF-8 at byte", at, "of the caption; save it as UTF-8");
    at += bytes;
  }
  return caption;
}

/// The ending of a file's name in small letters, such as ".png".
std::string ending(const fs::path& file) {
  auto text = file.extension().string();
  for (char& c : text)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  return text;
}

/// Whether a file's name is that of a picture in another format than PNG.
bool is_other_picture(const fs::path& file) {
  constexpr std::array<std::string_view, 8> others{".jpg", ".jpeg", ".webp", ".bmp",
                                                   ".gif", ".tif",  ".tiff", ".avif"};
  return std::find(others.begin(), others.end(), ending(file)) != others.end();
}

/// Resized to cover the sides, and cut to its middle. `file` is named where the picture is too narrow for that.
common::Image covering(const common::Image& image, Index width, Index height, const fs::path& file) {
  using Pixels = mole::Tensor<float, mole::Cpu>;
  const mole::NoGrad off;
  const double scale = std::max(static_cast<double>(width) / static_cast<double>(image.width),
                                static_cast<double>(height) / static_cast<double>(image.height));
  const auto scaled = [&](Index side, Index least) {
    return std::max(least, static_cast<Index>(static_cast<double>(side) * scale + 0.5));
  };
  const Index H = scaled(image.height, height), W = scaled(image.width, width);
  const auto fits = [](Index from, Index to) { return from == to || from * to <= most_weights; };
  MOLE_CHECK_FORMAT(H * W <= most_pixels && fits(image.height, H) && fits(image.width, W), file, "is",
                    image.width, "x", image.height, "pixels, which is too narrow to fill", width, "x", height,
                    "pixels; cut it to that shape");
  auto pixels = Pixels::from({1, image.height, image.width, 3},
                             std::vector<float>(image.pixels.begin(), image.pixels.end()));
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
  std::error_code reason;
  const auto entries = mole::detail::entries_of(folder, reason);
  MOLE_CHECK_AS(mole::Error, !reason, "--pictures", folder, "cannot be listed:", reason.message());
  for (const auto& entry : entries) {
    const auto file = entry.lexically_normal();
    MOLE_CHECK_AS(mole::Error, !is_other_picture(file), "--pictures", file,
                  "is no PNG file; convert it, or take it out of the folder");
    if (ending(file) == ".png" && !captions.contains(file)) captions[file] = caption_beside(file);
  }
  MOLE_CHECK_AS(mole::Error, !captions.empty(), "--pictures", folder,
                "holds no PNG files; other pictures must be converted first");
  std::vector<CaptionedPicture> pictures;
  for (const auto& [file, caption] : captions) {
    MOLE_CHECK_AS(mole::Error, !caption.empty(), "--pictures", file,
                  "has no caption; write one into a text file beside it, or into metadata.jsonl as "
                  "{\"file_name\": .., \"text\": ..}");
    MOLE_CHECK_FORMAT(caption.size() <= most_bytes, file, "has a caption of", caption.size(),
                      "bytes; at most", most_bytes, "are read");
    pictures.push_back({file, caption, covering(common::read_png(file), width, height, file)});
  }
  return pictures;
}

}  // namespace program
