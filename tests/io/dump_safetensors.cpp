// Reads safetensors files for check_safetensors_with_python.py: for each path, a line on its input, it answers
// "refused" or a line a tensor: the name in hexadecimal, the type, the extents with commas, the digest of the bytes
// (- where the library does not read the type); then the metadata, keys and texts in hexadecimal; then "end".

#include <cstddef>
#include <iostream>
#include <span>
#include <string>

#include <mole/core/fingerprint.hpp>
#include <mole/io/safetensors.hpp>

namespace {

std::string hexadecimal(const std::string& text) {
  constexpr const char* digits = "0123456789abcdef";
  std::string shown = "x";
  for (const char c : text) {
    shown += digits[static_cast<unsigned char>(c) >> 4];
    shown += digits[static_cast<unsigned char>(c) & 15U];
  }
  return shown;
}

std::string extents(const mole::Shape& shape) {
  std::string text = "s";
  for (const mole::Index extent : shape) text += std::to_string(extent) + ",";
  return text;
}

std::string answer(const std::string& path) {
  try {
    const mole::SafetensorsFile file(path);
    std::string text;
    for (const auto& name : file.names()) {
      const auto unread = file.unread().find(name);
      if (unread != file.unread().end()) {
        text += hexadecimal(name) + " " + std::string(unread->second.dtype) + " " +
                extents(unread->second.shape) + " -\n";
        continue;
      }
      const auto& view = file.at(name);
      mole::Fingerprint digest;
      digest.add(std::span(view.data, static_cast<std::size_t>(view.bytes)));
      text += hexadecimal(name) + " " + std::string(mole::dtype_name(view.dtype)) + " " +
              extents(view.shape) + " " + digest.hex() + "\n";
    }
    for (const auto& [key, value] : file.metadata())
      text += "meta " + hexadecimal(key) + " " + hexadecimal(value) + "\n";
    return text;
  } catch (const mole::Error&) {
    return "refused\n";
  }
}

}  // namespace

int main() {
  for (std::string path; std::getline(std::cin, path);) std::cout << answer(path) << "end" << std::endl;
}
