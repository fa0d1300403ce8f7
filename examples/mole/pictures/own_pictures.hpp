#pragma once
// Pictures that the experts were trained on, each with its caption: PNG files in a folder. Captions stand in
// metadata.jsonl, a line {"file_name": "1.png", "text": ".."} for each, or in a file beside each picture, 1.txt beside
// 1.png. Both are UTF-8.

#include <filesystem>
#include <string>
#include <vector>

#include <mole/core/shape.hpp>

#include "common/image.hpp"

namespace program {

using mole::Index;

/// A picture and what it shows.
struct CaptionedPicture {
  std::filesystem::path file;
  std::string caption;
  common::Image image;  ///< RGB
};

/// The pictures of a folder by name, each resized so that it covers `width` x `height` pixels, and cut to its middle.
/// Throws mole::Error for a folder that is not there or holds no PNG files, for a picture in another format or without a
/// caption; mole::FormatError, naming file and line, for other lines than these, a picture outside the folder, a
/// caption that is no UTF-8 or has more than 100000 bytes, and a picture so narrow that it would cover those sides by
/// more than 16 million pixels, or that its resizing takes more than 32 million weights; and as common::read_png().
std::vector<CaptionedPicture> read_own_pictures(const std::filesystem::path& folder, Index width,
                                                Index height);

}  // namespace program
