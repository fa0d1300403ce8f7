#pragma once
// What the fuzz targets share. A target reads hostile bytes as one of the library's file formats. It passes where
// the reader either accepts them, and reads again what it writes, or throws what its comment says with a message
// that can be printed. Anything else ends the process, which libFuzzer reports with the input.

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <typeinfo>
#include <vector>

#include <mole/core/error.hpp>

namespace mole_fuzz {

/// What a part of an input is, which says how it is mutated.
enum class Part { json, safetensors, gguf, lines, bytes };

/// A reader under test. An input is one string of bytes that holds these parts (pack()).
struct Target {
  const char* name;
  std::vector<Part> parts;
  void (*test)(const std::vector<std::string>& parts);
  std::function<void(const std::function<void(const std::vector<std::string>&)>& add)> seeds;
  /// May make a mutated input fit again what a checksum guards.
  void (*repair)(std::vector<std::string>& parts) = nullptr;
};

/// All targets, by the file that holds them. Those of texts need ICU and are fewer without it.
std::vector<Target> file_targets();
std::vector<Target> model_targets();
std::vector<Target> expert_targets();
std::vector<Target> causal_targets();
std::vector<Target> gguf_targets();
std::vector<Target> diffusion_targets();
std::vector<Target> text_targets();

/// A folder of this process, in memory where the system has one.
const std::filesystem::path& folder();

/// Replaces the file: one that is still mapped keeps its old bytes.
void write_bytes(const std::filesystem::path& path, const std::string& bytes);
std::string read_bytes(const std::filesystem::path& path);
/// A model's folder of Hugging Face: config.json, generation_config.json unless it is empty, model.safetensors.
void write_model(const std::filesystem::path& to, const std::vector<std::string>& parts);

/// Parts as one input: before each but the last its length in four bytes. Any bytes unpack to some parts.
std::string pack(const std::vector<std::string>& parts);
std::vector<std::string> unpack(const std::string& bytes, std::size_t count);

/// Ends the process with what is wrong.
[[noreturn]] void fail(const std::string& what);

inline void require(bool holds, const std::string& what) {
  if (!holds) fail(what);
}

/// Whether a message may be printed: under 4 KB, UTF-8, no control character but line breaks.
void check_message(const std::string& text);

/// Whether f() ends without an exception. FormatError and Error are documented of every reader; any other ends
/// the process.
template <class F>
bool accepts(F f) {
  try {
    f();
    return true;
  } catch (const mole::Error& error) {
    const bool documented =
        typeid(error) == typeid(mole::Error) || dynamic_cast<const mole::FormatError*>(&error) != nullptr;
    if (!documented) fail(std::string("undocumented ") + typeid(error).name() + ": " + error.what());
    check_message(error.what());
    return false;
  }
}

/// The same for a call that is documented to throw each E too.
template <class... E, class F>
bool accepts_or(F f) {
  return accepts([&] {
    try {
      f();
    } catch (const mole::Error& error) {
      if ((... || (dynamic_cast<const E*>(&error) != nullptr))) throw mole::Error(error.what());
      throw;
    }
  });
}

}  // namespace mole_fuzz
