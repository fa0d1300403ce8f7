// The entry points of libFuzzer. MOLE_FUZZ_TARGET names the reader under test; with MOLE_FUZZ_SEEDS=FOLDER its
// seeds are written there, and nothing else is done.

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string_view>
#include <system_error>

#include <mole/core/quote.hpp>

#include "harness.hpp"
#include "mutator.hpp"

namespace mole_fuzz {

const std::filesystem::path& folder() {
  static const std::filesystem::path path = [] {
    std::error_code ignored;
    const std::filesystem::path memory = "/dev/shm";
    const auto base =
        ::access(memory.c_str(), W_OK) == 0 ? memory : std::filesystem::temp_directory_path(ignored);
    auto own = base / ("mole-fuzz-" + std::to_string(::getpid()));
    std::filesystem::create_directories(own);
    return own;
  }();
  return path;
}

void write_bytes(const std::filesystem::path& path, const std::string& bytes) {
  std::error_code ignored;
  std::filesystem::remove(path, ignored);
  std::ofstream out(path, std::ios::binary | std::ios::trunc);
  if (!out) {
    std::filesystem::create_directories(path.parent_path());
    out.open(path, std::ios::binary | std::ios::trunc);
  }
  out << bytes;
}

void write_model(const std::filesystem::path& to, const std::vector<std::string>& parts) {
  write_bytes(to / "config.json", parts[0]);
  const auto generation = to / "generation_config.json";
  std::error_code ignored;
  std::filesystem::remove(generation, ignored);
  if (!parts[1].empty()) write_bytes(generation, parts[1]);
  write_bytes(to / "model.safetensors", parts[2]);
}

std::string read_bytes(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

std::string pack(const std::vector<std::string>& parts) {
  std::string bytes;
  for (std::size_t i = 0; i < parts.size(); ++i) {
    if (i + 1 < parts.size()) {
      const auto length = static_cast<std::uint32_t>(parts[i].size());
      bytes.append(reinterpret_cast<const char*>(&length), 4);
    }
    bytes += parts[i];
  }
  return bytes;
}

std::vector<std::string> unpack(const std::string& bytes, std::size_t count) {
  std::vector<std::string> parts;
  std::size_t at = 0;
  while (parts.size() + 1 < count) {
    std::uint32_t length = 0;
    if (bytes.size() - at >= 4) {
      std::memcpy(&length, bytes.data() + at, 4);
      at += 4;
    }
    const std::size_t taken = std::min<std::size_t>(length, bytes.size() - at);
    parts.push_back(bytes.substr(at, taken));
    at += taken;
  }
  parts.push_back(bytes.substr(at));
  return parts;
}

void fail(const std::string& what) {
  std::fprintf(stderr, "FINDING: %s\n", what.c_str());
  std::abort();
}

void check_message(const std::string& text) {
  require(text.size() < 4096, "a message of " + std::to_string(text.size()) + " bytes");
  std::string plain = text;
  plain.erase(std::remove(plain.begin(), plain.end(), '\n'), plain.end());
  require(mole::printable(plain) == plain, "a message that cannot be printed: " + mole::printable(text));
}

namespace {

const Target& chosen() {
  static const Target target = [] {
    const char* const name = std::getenv("MOLE_FUZZ_TARGET");
    std::vector<Target> all;
    for (const auto targets : {file_targets, model_targets, expert_targets, causal_targets, gguf_targets,
                               diffusion_targets, text_targets})
      for (auto& one : targets()) all.push_back(std::move(one));
    for (const auto& one : all)
      if (name && std::string_view(one.name) == name) return one;
    std::fprintf(stderr, "MOLE_FUZZ_TARGET should be one of");
    for (const auto& one : all) std::fprintf(stderr, " %s", one.name);
    std::fprintf(stderr, "\n");
    std::exit(2);
  }();
  return target;
}

std::string mutated(Mutator& mutator, Part part, const std::string& bytes) {
  switch (part) {
    case Part::json:
      return mutator.json(bytes);
    case Part::safetensors:
      return mutator.safetensors(bytes);
    case Part::gguf:
      return mutator.gguf(bytes);
    case Part::lines:
      return mutator.lines(bytes);
    default:
      return mutator.bytes(bytes, 64);
  }
}

void write_seeds(const std::filesystem::path& to) {
  int count = 0;
  chosen().seeds([&](const std::vector<std::string>& parts) {
    write_bytes(to / ("seed-" + std::to_string(count++)), pack(parts));
  });
}

}  // namespace

}  // namespace mole_fuzz

extern "C" int LLVMFuzzerInitialize(int*, char***) {
  std::atexit([] {
    std::error_code ignored;
    std::filesystem::remove_all(mole_fuzz::folder(), ignored);
  });
  const char* const seeds = std::getenv("MOLE_FUZZ_SEEDS");
  mole_fuzz::chosen();
  if (seeds) {
    mole_fuzz::write_seeds(seeds);
    std::exit(0);
  }
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto& target = mole_fuzz::chosen();
  target.test(mole_fuzz::unpack({reinterpret_cast<const char*>(data), size}, target.parts.size()));
  return 0;
}

extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t most,
                                               unsigned seed) {
  const auto& target = mole_fuzz::chosen();
  mole_fuzz::Mutator mutator(seed);
  auto parts = mole_fuzz::unpack({reinterpret_cast<const char*>(data), size}, target.parts.size());
  // One part, now and then two.
  for (std::size_t n = mutator.pick(5) ? 1 : 2; n > 0; --n) {
    const std::size_t at = mutator.pick(parts.size());
    parts[at] = mole_fuzz::mutated(mutator, target.parts[at], parts[at]);
  }
  if (target.repair && mutator.pick(4)) target.repair(parts);
  const std::string made = mole_fuzz::pack(parts);
  const std::size_t length = std::min(made.size(), most);
  std::memcpy(data, made.data(), length);
  return length;
}
