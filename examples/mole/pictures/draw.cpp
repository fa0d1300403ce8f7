// `mole draw`: pictures of a prompt by a Stable Diffusion, with LoRAs by weights or by saved gates.

#include <iostream>
#include <optional>

#include <mole/compose/linear.hpp>
#include <mole/io/safetensors.hpp>

#include "common/files.hpp"
#include "common/gates.hpp"
#include "common/progress.hpp"
#include "common/tiles.hpp"
#include "mole/pictures/commands.hpp"
#include "mole/pictures/experts.hpp"
#include "mole/pictures/painting.hpp"

namespace program {

namespace {

namespace fs = std::filesystem;

/// The file of one of several pictures: NAME.png, or NAME-1.png and so on.
fs::path numbered(const fs::path& out, Index number, Index count) {
  if (count == 1) return out;
  return out.parent_path() /
         (out.stem().string() + "-" + std::to_string(number + 1) + out.extension().string());
}

void check(const DrawOptions& options) {
  MOLE_CHECK_ARG(!options.prompt.empty(), "--prompt: say what to draw");
  MOLE_CHECK_ARG(options.out.extension() == ".png", "--out",
                 options.out.string() + ": expected a name that ends in .png");
  check_png();
  MOLE_CHECK_ARG(
      !options.base.empty() || !options.gates.empty(),
      "give --base FOLDER, a Stable Diffusion in diffusers' layout, or --gates FILE, which names one");
  MOLE_CHECK_ARG(options.gates.empty() || options.weights.empty(),
                 "--gates weigh the experts themselves; leave --weights out");
  MOLE_CHECK_ARG(options.weights.empty() || options.weights.size() == options.experts.size(),
                 "--weights names", options.weights.size(), "weights and --experts", options.experts.size(),
                 "experts");
  MOLE_CHECK_ARG(!options.gates.empty() || (options.mask.empty() && !options.show_gates),
                 "--mask and --show-gates are of gates; give --gates FILE");
  common::prepare_file(options.out, "--out");
}

/// The latents of all pictures, [count, channels, height, width] in the file as PyTorch has them, one list a picture
/// with the channels last.
std::vector<std::vector<float>> read_noise(const fs::path& path, Index count, Index channels,
                                           const PictureJob& job) {
  const mole::SafetensorsFile file(path);
  const std::string source = mole::message(path) + ":";
  MOLE_CHECK_FORMAT(file.contains("latents"), source, "there is no tensor latents");
  const mole::Shape wanted{count, channels, job.height, job.width};
  MOLE_CHECK_FORMAT(file.at("latents").shape == wanted, source, "latents are", file.at("latents").shape,
                    "and --size and --count ask for", wanted);
  const auto all = file.read<float>("latents");
  const auto pixels = static_cast<std::size_t>(job.height * job.width),
             C = static_cast<std::size_t>(channels);
  std::vector<std::vector<float>> noises;
  for (std::size_t i = 0; i < static_cast<std::size_t>(count); ++i) {
    noises.emplace_back(pixels * C);
    for (std::size_t c = 0; c < C; ++c)
      for (std::size_t p = 0; p < pixels; ++p) noises[i][p * C + c] = all[(i * C + c) * pixels + p];
  }
  return noises;
}

void show_gates(const fs::path& out, const std::string& prompt, const common::Image& picture,
                const common::GateMap& map, const std::vector<std::string>& experts) {
  if (map.empty()) {
    std::cout << "\nThese gates are of whole pictures: no part of one has its own.\n";
    return;
  }
  std::cout << "\n" << common::quarters_text(map, experts);
  common::Tiles tiles{{""}, {"picture"}, {common::thumbnail(picture, 128)}, 128, 10, 54};
  for (const auto& [name, grid] : map) {
    tiles.columns.push_back(common::layer_label(name));
    tiles.pictures.push_back(common::map_image(grid, experts.size()));
  }
  const auto folder = out.has_parent_path() ? out.parent_path() : fs::path(".");
  common::report(common::draw_tiles(folder, out.stem().string() + "-gates", tiles));
  std::cout << "(" << prompt << "; red, green and blue are the weights of";
  for (std::size_t i = 0; i < std::min<std::size_t>(3, experts.size()); ++i)
    std::cout << (i == 0 ? " " : ", ") << experts[i];
  std::cout << ")\n";
}

}  // namespace

void draw(const DrawOptions& options) {
  check(options);
  std::optional<mole::GatesFile> gates;
  if (!options.gates.empty()) gates = mole::read_gates(options.gates);
  const auto base = gates ? base_of(*gates, options.base) : options.base;
  const auto files = read_picture_files(base, options.variant);
  const Painting painting(files, options.painting);
  auto job = painting.job(options.prompt);
  std::vector<std::vector<float>> noises;
  if (!options.noise.empty()) noises = read_noise(options.noise, options.count, files.unet.in_channels, job);

  std::vector<ExpertPath> paths;
  if (gates)
    paths = experts_of(*gates, options.experts);
  else if (!options.experts.empty())
    paths = expert_paths(options.experts);
  const auto experts = load_picture_experts(paths, files, gates.has_value());
  if (gates) {
    std::vector<mole::LoraSet> sets;
    for (const auto& expert : experts) sets.push_back(expert.unet);
    mole::check_gates_match(*gates, sets);
    const auto digest = gates->notes.find("base_digest");
    if (digest != gates->notes.end() && digest->second != files.digest)
      std::cerr << "warning: the gates were trained on another base than " << base.string()
                << ", or on other weights of it\n";
  }

  const auto model = load_pictures(files, options.backend, options.bf16);
  if (gates) {
    model->attach(experts, *gates);
    if (!options.mask.empty()) model->mask(common::all_but(options.mask, model->experts()));
  } else if (!experts.empty()) {
    model->merge(experts, options.weights.empty() ? mole::mean_weights(experts.size()) : options.weights,
                 true);
  }

  common::Progress bar("draw", options.count * painting.ticks());
  Index done = 0;
  job.seed = options.seed;
  job.watch_gates = options.show_gates && model->has_token_gates();
  job.tick = [&] { bar.update(++done); };
  std::vector<std::pair<fs::path, PaintedPicture>> pictures;
  for (Index i = 0; i < options.count; ++i) {
    job.number = static_cast<std::uint64_t>(i);
    if (!noises.empty()) job.noise = noises[static_cast<std::size_t>(i)];
    auto painted = model->paint(job);
    const auto path = numbered(options.out, i, options.count);
    common::write_png(path, common::image01(painted.pixels.data(), painted.width, painted.height));
    pictures.emplace_back(path, std::move(painted));
  }
  bar.finish();
  for (const auto& [path, painted] : pictures) {
    std::cout << options.prompt << ": " << path.string() << "\n";
    if (options.show_gates)
      show_gates(path, options.prompt, common::image01(painted.pixels.data(), painted.width, painted.height),
                 painted.gates, model->experts());
  }
}

}  // namespace program
