#pragma once
// The checks of any golden on backend B, and the table of them that each backend's translation unit makes.

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <string>

#include <golden_check/backends.hpp>
#include <golden_check/causal.hpp>
#include <golden_check/layer.hpp>
#include <golden_check/losses.hpp>
#include <golden_check/report.hpp>
#include <golden_check/t5.hpp>
#include <golden_check/tokenizers.hpp>
#include <golden_check/vision/baselines.hpp>
#include <golden_check/vision/clip.hpp>
#include <golden_check/vision/mixture.hpp>
#include <nlohmann/json.hpp>

namespace golden {

/// By its name, else by what only that kind holds.
template <class T, class B>
void check_file(const Golden& golden) {
  const auto stem = std::filesystem::path(golden.name()).filename().string();
  auto is = [&](const char* name, const char* tensor) {
    return stem.rfind(name, 0) == 0 || golden.contains(tensor);
  };
  if (is("sgd_trajectory", "final_e")) return check_trajectory<T, B>(golden);
  if (is("mole_linear", "dy")) return check_layer<T, B>(golden);
  if (is("balance_loss", "q")) return check_balance<T, B>(golden);
  if (is("t5_loss", "dlogits_smoothed")) return check_cross_entropy<T, B>(golden);
  if (is("clip_loss", "d_direction")) return check_clip_loss<T, B>(golden);
  if (is("linear_composition", "sum_delta")) return check_composition<T, B>(golden);
  if (is("sampling", "repetition_13")) return check_sampling(golden);
  golden.skip("this kind of file is not known");
}

/// The "model_type" of a model's configuration. Throws FormatError naming the file.
inline std::string model_type(const std::filesystem::path& folder) {
  const auto path = (folder / "base" / "config.json").string();
  std::ifstream in(path);
  MOLE_CHECK_FORMAT(in.good(), path, "cannot be read");
  const auto config = nlohmann::json::parse(in, nullptr, false);
  MOLE_CHECK_FORMAT(config.is_object() && config.contains("model_type") && config["model_type"].is_string(),
                    path, "is no configuration with a \"model_type\"");
  return config["model_type"].get<std::string>();
}

/// Compares with the golden at `path`, a file or a model's folder, called `name` in the report.
template <class T, class B>
void check(const std::filesystem::path& path, const std::string& name, Report& report) {
  try {
    if (std::filesystem::exists(path / "texts.jsonl")) return check_tokenizers(path, name, report);
    if (path.extension() == ".gguf") return check_gguf<T, B>(path, name, report);
    if (!std::filesystem::is_directory(path)) {
      const Golden golden(path.string(), name, report);
      check_file<T, B>(golden);
      golden.skip_unread();
      return;
    }
    Golden golden((path / "expected.safetensors").string(), name, report);
    if (!std::filesystem::exists(path / "base")) {
      if (golden.contains("svdiff.linear.W") || golden.contains("fusion.full.W0"))
        check_baselines<T, B>(golden);
      else
        return check_refused_adapters<T, B>(golden, path);
      golden.skip_unread();
      return;
    }
    const auto type =
        std::filesystem::exists(path / "base" / "model_index.json") ? "pipeline" : model_type(path);
    const auto& causal = mole::causal_model_types();
    if (type == "t5")
      check_t5<T, B>(golden, path);
    else if (type == "clip")
      check_clip<T, B>(golden, path);
    else if (type == "pipeline")
      check_pipeline<T, B>(golden, path, report);
    else if (std::find(causal.begin(), causal.end(), type) != causal.end())
      check_causal<T, B>(golden, path, report);
    else
      return report.skip(name, "models of type " + type + " are not known yet");
    golden.skip_unread();
  } catch (const std::exception& error) {
    report.failure(name, error.what());
  }
}

/// The checks instantiated for backend B.
template <class B>
const Checks* checks_of() {
  static constexpr Checks checks{check<float, B>, check<double, B>};
  return &checks;
}

}  // namespace golden
