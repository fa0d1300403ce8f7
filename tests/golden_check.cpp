// golden_check DIR [--float] [--backend cpu|cuda] [--at-least N]: compares the library with every golden it finds in DIR.
// The formats are those of tests/data/golden; all sizes are taken from the files.

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include <golden_check/backends.hpp>
#include <golden_check/report.hpp>

namespace fs = std::filesystem;

namespace {

constexpr const char* usage =
    "usage: golden_check DIR [--float] [--backend cpu|cuda] [--at-least N]\n"
    "\n"
    "Compares this library with every golden in DIR and the folders below it, in double precision to 1e-10,\n"
    "pictures to 1e-9.\n"
    "  --float          in single precision, to 2e-5, pictures to 2e-4\n"
    "  --backend NAME   cpu (the default) or cuda\n"
    "  --at-least N     fail where fewer quantities than N were compared\n"
    "  --help           this text\n"
    "\n"
    "A golden is a safetensors file (mole_linear_KIND, sgd_trajectory, balance_loss, t5_loss, clip_loss,\n"
    "linear_composition, sampling; KIND is flatten, mean, token or hidden), a GGUF file, a folder with base/,\n"
    "adapter_*/ and expected.safetensors in Hugging Face's formats (a T5, a decoder-only model, a CLIP, or a\n"
    "pipeline of diffusers with its LoRAs), or a folder of tokenizers with texts.jsonl.\n"
    "Tolerances of pictures are shares of max(1, the largest value), others of the largest. Sizes, ranks and the\n"
    "number of experts come from the files. Each quantity has a line: golden, quantity,\n"
    "max |found - expected| / max |expected|, verdict.\n"
    "In a deep model a rounding can grow: where one rounding of the weights moves a quantity by more than "
    "the\n"
    "tolerance, ten times that much is allowed, and the line says so.\n"
    "What is not known is named as skipped. The last line counts; the exit status is 1 if anything failed\n"
    "or nothing was found.\n";

/// Files and model folders, in the order of their names.
std::vector<fs::path> find_goldens(const fs::path& folder) {
  for (const char* mark : {"base", "expected.safetensors", "texts.jsonl"})
    if (fs::exists(folder / mark)) return {folder};
  std::vector<fs::path> entries, found;
  for (const auto& entry : fs::directory_iterator(folder)) entries.push_back(entry.path());
  std::sort(entries.begin(), entries.end());
  for (const auto& path : entries) {
    if (fs::is_directory(path)) {
      const auto below = find_goldens(path);
      found.insert(found.end(), below.begin(), below.end());
    } else if (path.extension() == ".gguf") {
      found.push_back(path);
    } else if (path.extension() == ".safetensors" && !path.stem().string().ends_with("_gguf")) {
      found.push_back(path);
    }
  }
  return found;
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<std::string> folders;
  std::string backend = "cpu";
  bool single = false;
  int at_least = 1;
  const std::vector<std::string> arguments(argv + 1, argv + argc);
  for (std::size_t i = 0; i < arguments.size(); ++i) {
    const auto& argument = arguments[i];
    if (argument == "--help" || argument == "-h") {
      std::fputs(usage, stdout);
      return 0;
    }
    if (argument == "--float") {
      single = true;
    } else if (argument == "--backend" && i + 1 < arguments.size()) {
      backend = arguments[++i];
    } else if (argument == "--backend") {
      std::fprintf(stderr, "golden_check: --backend needs a name, cpu or cuda\n\n%s", usage);
      return 1;
    } else if (argument == "--at-least" && i + 1 < arguments.size()) {
      at_least = std::atoi(arguments[++i].c_str());
    } else if (argument.rfind("-", 0) == 0) {
      std::fprintf(stderr, "golden_check: unknown option %s\n\n%s", argument.c_str(), usage);
      return 1;
    } else {
      folders.push_back(argument);
    }
  }
  if (folders.size() != 1) {
    std::fprintf(stderr, "golden_check: expected one folder, got %zu\n\n%s", folders.size(), usage);
    return 1;
  }
  const fs::path folder = folders.front();
  try {
    const auto& checks = golden::checks_on(backend);
    MOLE_CHECK_FORMAT(fs::is_directory(folder), folder.string(),
                      "is not a folder; give the one that holds the goldens");
    const auto goldens = find_goldens(folder);
    MOLE_CHECK_FORMAT(!goldens.empty(), folder.string(), "holds no goldens: no .safetensors, no base/");
    golden::Report report;
    for (const auto& path : goldens) {
      auto name = path == folder ? fs::absolute(folder / "").parent_path().filename()
                                 : path.lexically_relative(folder).replace_extension();
      (single ? checks.in_float : checks.in_double)(path, name.string(), report);
    }
    std::printf("%d passed, %d failed\n", report.passed(), report.failed());
    const int compared = report.passed() + report.failed();
    if (compared < at_least)
      std::fprintf(stderr, "golden_check: compared %d quantities, expected at least %d\n", compared,
                   at_least);
    return report.failed() == 0 && compared >= at_least ? 0 : 1;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "golden_check: %s\n", error.what());
    std::printf("0 passed, 0 failed\n");
    return 1;
  }
}
