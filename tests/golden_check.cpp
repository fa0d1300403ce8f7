// golden_check DIR [--float]: compares the library with every golden it finds in DIR. The formats are those
// of tests/data/golden; all sizes are taken from the files.

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include <golden_check/layer.hpp>
#include <golden_check/losses.hpp>
#include <golden_check/report.hpp>
#include <golden_check/t5.hpp>
#include <nlohmann/json.hpp>

namespace fs = std::filesystem;

namespace {

constexpr const char* usage =
    "usage: golden_check DIR [--float]\n"
    "\n"
    "Compares this library with every golden in DIR and the folders below it, in double precision to 1e-10.\n"
    "  --float   in single precision, to 2e-5\n"
    "  --help    this text\n"
    "\n"
    "A golden is a safetensors file (mole_linear_KIND, sgd_trajectory, balance_loss, t5_loss, clip_loss,\n"
    "linear_composition; KIND is flatten, mean, token or hidden), or a folder with base/, adapter_*/ and\n"
    "expected.safetensors in Hugging Face's formats. Sizes, ranks and the number of experts come from the\n"
    "files. Each quantity has a line: golden, quantity, max |found - expected| / max |expected|, verdict.\n"
    "In a deep model a rounding can grow: where one rounding of the weights moves a quantity by more than "
    "the\n"
    "tolerance, ten times that much is allowed, and the line says so.\n"
    "What is not known is named as skipped. The last line counts; the exit status is 1 if anything failed\n"
    "or nothing was found.\n";

/// Files and model folders, in the order of their names.
std::vector<fs::path> find_goldens(const fs::path& folder) {
  if (fs::exists(folder / "base") || fs::exists(folder / "expected.safetensors")) return {folder};
  std::vector<fs::path> entries, found;
  for (const auto& entry : fs::directory_iterator(folder)) entries.push_back(entry.path());
  std::sort(entries.begin(), entries.end());
  for (const auto& path : entries) {
    if (fs::is_directory(path)) {
      const auto below = find_goldens(path);
      found.insert(found.end(), below.begin(), below.end());
    } else if (path.extension() == ".safetensors") {
      found.push_back(path);
    }
  }
  return found;
}

/// By its name, else by what only that kind holds.
template <class T>
void check_file(const golden::Golden& golden) {
  const auto stem = fs::path(golden.name()).filename().string();
  auto is = [&](const char* name, const char* tensor) {
    return stem.rfind(name, 0) == 0 || golden.contains(tensor);
  };
  if (is("sgd_trajectory", "final_e")) return golden::check_trajectory<T>(golden);
  if (is("mole_linear", "dy")) return golden::check_layer<T>(golden);
  if (is("balance_loss", "q")) return golden::check_balance<T>(golden);
  if (is("t5_loss", "dlogits_smoothed")) return golden::check_cross_entropy<T>(golden);
  if (is("clip_loss", "d_direction")) return golden::check_clip_loss<T>(golden);
  if (is("linear_composition", "sum_delta")) return golden::check_composition<T>(golden);
  golden.skip("this kind of file is not known");
}

/// The "model_type" of a model's configuration. Throws FormatError naming the file.
std::string model_type(const fs::path& folder) {
  const auto path = (folder / "base" / "config.json").string();
  std::ifstream in(path);
  MOLE_CHECK_FORMAT(in.good(), path, "cannot be read");
  const auto config = nlohmann::json::parse(in, nullptr, false);
  MOLE_CHECK_FORMAT(config.is_object() && config.contains("model_type") && config["model_type"].is_string(),
                    path, "is no configuration with a \"model_type\"");
  return config["model_type"].get<std::string>();
}

template <class T>
void check(const fs::path& path, const std::string& name, golden::Report& report) {
  try {
    if (!fs::is_directory(path)) {
      check_file<T>(golden::Golden(path.string(), name, report));
      return;
    }
    const auto type = model_type(path);
    if (type != "t5") {
      report.skip(name, "models of type " + type + " are not known yet");
      return;
    }
    golden::Golden golden((path / "expected.safetensors").string(), name, report);
    golden::check_t5<T>(golden, path);
  } catch (const std::exception& error) {
    report.failure(name, error.what());
  }
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<std::string> folders;
  bool single = false;
  for (const std::string& argument : std::vector<std::string>(argv + 1, argv + argc)) {
    if (argument == "--help" || argument == "-h") {
      std::fputs(usage, stdout);
      return 0;
    }
    if (argument == "--float") {
      single = true;
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
    MOLE_CHECK_FORMAT(fs::is_directory(folder), folder.string(),
                      "is not a folder; give the one that holds the goldens");
    const auto goldens = find_goldens(folder);
    MOLE_CHECK_FORMAT(!goldens.empty(), folder.string(), "holds no goldens: no .safetensors, no base/");
    golden::Report report;
    for (const auto& path : goldens) {
      auto name = path == folder ? fs::absolute(folder / "").parent_path().filename()
                                 : path.lexically_relative(folder).replace_extension();
      single ? check<float>(path, name.string(), report) : check<double>(path, name.string(), report);
    }
    std::printf("%d passed, %d failed\n", report.passed(), report.failed());
    return report.failed() == 0 ? 0 : 1;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "golden_check: %s\n", error.what());
    std::printf("0 passed, 0 failed\n");
    return 1;
  }
}
