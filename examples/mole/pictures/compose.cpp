// `mole compose --prompts`: gates over LoRAs of a Stable Diffusion, trained by CLIP on pictures in flight, and what they
// are worth beside the usual ways.

#include <algorithm>
#include <iostream>
#include <optional>
#include <utility>

#include <mole/compose/linear.hpp>
#include <mole/io/csv.hpp>

#include "common/files.hpp"
#include "common/plots.hpp"
#include "common/progress.hpp"
#include "common/table.hpp"
#include "common/tiles.hpp"
#include "mole/examples.hpp"
#include "mole/inspecting.hpp"
#include "mole/pictures/commands.hpp"
#include "mole/pictures/experts.hpp"
#include "mole/pictures/guide.hpp"
#include "mole/pictures/painting.hpp"

namespace program {

namespace {

namespace fs = std::filesystem;

/// A row of the table: a way to combine the experts, and what it drew of each prompt.
struct Row {
  std::string method;
  std::vector<common::Image> pictures = {};
  std::vector<double> text = {};            ///< cosine of picture and prompt, by prompt
  std::vector<common::GateMap> gates = {};  ///< of token gates, by prompt
};

std::vector<std::string> prompts_in(const fs::path& file) {
  std::vector<std::string> prompts;
  for (const auto& example : read_examples(file, Answers::optional)) prompts.push_back(example.prompt);
  return prompts;
}

/// A name for files: letters and digits, the rest a '-'.
std::string file_name(const std::string& text) {
  std::string name;
  for (const char c : text) {
    const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
    if (plain || (!name.empty() && name.back() != '-')) name += plain ? c : '-';
  }
  while (name.ends_with('-')) name.pop_back();
  return name;
}

/// A label of a few short lines.
std::string in_lines(const std::string& text, std::size_t width = 26, std::size_t most = 3) {
  std::string lines, word;
  std::size_t used = 0, count = 1;
  for (const char c : text + " ") {
    if (c != ' ') {
      word += c;
      continue;
    }
    if (used > 0 && used + 1 + word.size() > width) {
      if (++count > most) return lines + " ..";
      lines += "\n";
      used = 0;
    }
    lines += (used > 0 ? " " : "") + word;
    used += word.size() + 1;
    word.clear();
  }
  return lines;
}

/// All that a run reads before it loads any weights.
struct Plan {
  PictureFiles files;
  std::vector<ExpertPath> paths;
  std::vector<mole::DiffusionLora> experts;
  std::vector<std::string> train, test;
  Guide guide;
  std::vector<PictureJob> train_jobs, test_jobs;
  std::vector<std::vector<Index>> train_texts, test_texts;  ///< as CLIP reads them
};

Plan plan_of(const ComposePicturesOptions& options, const Painting& painting, PictureFiles files) {
  Plan plan{std::move(files),
            expert_paths(options.experts),
            {},
            prompts_in(options.prompts),
            {},
            Guide(options.clip),
            {},
            {},
            {},
            {}};
  MOLE_CHECK_ARG(plan.paths.size() >= 2, "--experts names one expert; there is nothing to combine");
  plan.experts = load_picture_experts(plan.paths, plan.files, true);
  plan.test = options.test.empty() ? plan.train : prompts_in(options.test);
  if (static_cast<Index>(plan.test.size()) > options.sheet)
    plan.test.resize(static_cast<std::size_t>(options.sheet));
  const auto add = [&](const std::vector<std::string>& prompts, const fs::path& file,
                       std::vector<PictureJob>& jobs, std::vector<std::vector<Index>>& texts) {
    for (const auto& prompt : prompts) {
      jobs.push_back(painting.job(prompt, file.string() + ": \"" + prompt + "\""));
      texts.push_back(plan.guide.tokens(prompt));
    }
  };
  add(plan.train, options.prompts, plan.train_jobs, plan.train_texts);
  add(plan.test, options.test.empty() ? options.prompts : options.test, plan.test_jobs, plan.test_texts);
  return plan;
}

void describe(const ComposePicturesOptions& options, const Plan& plan, const Painting& painting) {
  const auto bytes = (plan.files.parameters + plan.guide.parameters()) * (options.bf16 ? 2 : 4);
  std::cout << "base      " << plan.files.path.string() << ", " << plan.files.parameters << " parameters\n"
            << "guide     " << options.clip.string() << ", " << plan.guide.parameters() << " parameters\n"
            << "experts  ";
  for (const auto& expert : plan.experts)
    std::cout << " " << expert.unet.name << " (" << expert.unet.slots.size() << " layers of the UNet, "
              << expert.text.slots.size() << " of the text encoder)";
  std::cout << "\nprompts   " << plan.train.size() << " to train on, " << plan.test.size() << " to judge by"
            << (options.test.empty() ? " (the first of these)" : "") << "\npictures  "
            << painting.pixel_width() << " x " << painting.pixel_height() << ", " << options.run.batch
            << " a training step\ngates     "
            << common::method_name(options.router.router, options.router.gates) << "\nmemory    "
            << size_text(bytes) << " of weights, and what a training step takes\n";
}

std::map<std::string, std::string> notes_of(const fs::path& gates, const Plan& plan) {
  auto notes = gate_notes(gates, plan.files.path, plan.files.digest, plan.paths, {});
  notes.erase("template");
  return notes;
}

/// Draws and judges the test's prompts with the model as it is set up.
Row judged(const PictureModel& model, const std::string& method, const Plan& plan,
           const ComposePicturesOptions& options, const std::function<void()>& tick) {
  Row row{method};
  for (std::size_t i = 0; i < plan.test.size(); ++i) {
    auto job = plan.test_jobs[i];
    job.seed = options.run.seed;
    job.number = i;
    job.watch_gates = model.has_token_gates();
    job.tick = tick;
    auto painted = model.paint(job);
    row.text.push_back(model.text_alignment(painted, plan.test_texts[i]));
    row.pictures.push_back(common::image01(painted.pixels.data(), painted.width, painted.height));
    row.gates.push_back(std::move(painted.gates));
    common::write_png(
        options.run.out / "pictures" / (file_name(method) + "-" + std::to_string(i + 1) + ".png"),
        row.pictures.back());
  }
  return row;
}

std::string cell(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.3f", value);
  return text;
}

std::vector<std::vector<std::string>> table_of(const std::vector<Row>& rows) {
  std::vector<std::vector<std::string>> cells{{"method"}};
  for (std::size_t i = 0; i < rows.front().text.size(); ++i)
    cells[0].push_back("prompt " + std::to_string(i + 1));
  cells[0].push_back("average");
  for (const auto& row : rows) {
    cells.push_back({row.method});
    double sum = 0;
    for (const double value : row.text) {
      cells.back().push_back(cell(value));
      sum += value;
    }
    cells.back().push_back(cell(sum / static_cast<double>(row.text.size())));
  }
  return cells;
}

void draw_sheet(const std::vector<Row>& rows, const Plan& plan, const fs::path& out) {
  common::Tiles tiles;
  tiles.tile = 192;
  for (const auto& prompt : plan.test) tiles.columns.push_back(in_lines(prompt));
  for (const auto& row : rows) {
    tiles.rows.push_back(row.method);
    for (const auto& picture : row.pictures) tiles.pictures.push_back(common::thumbnail(picture, tiles.tile));
  }
  common::report(common::draw_tiles(out, "grid", tiles));
}

void draw_gates(const Row& row, const Plan& plan, const fs::path& out) {
  if (row.gates.front().empty()) return;
  const auto layers = common::most_varied(row.gates, plan.experts.size(), 6);
  common::Tiles tiles;
  tiles.tile = 128;
  tiles.columns = {"picture"};
  for (const auto& layer : layers) tiles.columns.push_back(common::layer_label(layer));
  for (std::size_t i = 0; i < plan.test.size(); ++i) {
    tiles.rows.push_back(in_lines(plan.test[i]));
    tiles.pictures.push_back(common::thumbnail(row.pictures[i], tiles.tile));
    for (const auto& layer : layers)
      tiles.pictures.push_back(common::map_image(row.gates[i].at(layer), plan.experts.size()));
  }
  common::report(common::draw_tiles(out, "gatemap", tiles));
}

}  // namespace

void compose_pictures(const ComposePicturesOptions& options) {
  check_png();
  auto files = read_picture_files(options.base, options.variant);
  const Painting painting(files, options.painting);
  const auto plan = plan_of(options, painting, std::move(files));
  describe(options, plan, painting);
  if (options.dry_run) return;
  common::prepare_folder(options.run.out / "pictures");

  const auto model = load_pictures(plan.files, options.backend, options.bf16);
  model->load_clip(options.clip, plan.guide.image());
  model->attach(plan.experts, common::router_of(options.router));
  GuidedTraining training{.run = options.run,
                          .steps = options.painting.steps,
                          .alpha = options.router.alpha,
                          .balanced = common::has_shares(options.router) || options.router.alpha != 0};
  for (const auto& job : plan.train_jobs) training.prompts.push_back(job.prompt);
  training.texts = plan.train_texts;
  training.height = plan.train_jobs.front().height;
  training.width = plan.train_jobs.front().width;
  const auto curves = model->train_gates(training);
  const auto gates = options.run.out / "gates.safetensors";
  model->save_gates(gates, notes_of(gates, plan));

  const auto N = plan.experts.size();
  const Index n_rows = options.only_mole ? 1 : static_cast<Index>(N) + 4;
  common::Progress bar("draw", n_rows * static_cast<Index>(plan.test.size()) * painting.ticks());
  Index done = 0;
  const auto tick = [&] { bar.update(++done); };
  auto mole_row =
      judged(*model, common::method_name(options.router.router, options.router.gates), plan, options, tick);
  std::vector<Row> rows;
  const auto add = [&](const std::string& method, const std::vector<double>& weights) {
    model->merge(plan.experts, weights, false);
    rows.push_back(judged(*model, method, plan, options, tick));
  };
  if (!options.only_mole) {
    model->detach();
    rows.push_back(judged(*model, "base", plan, options, tick));
    for (std::size_t i = 0; i < N; ++i) {
      std::vector<double> weights(N, 0);
      weights[i] = 1;
      add("expert " + plan.experts[i].unet.name, weights);
    }
    add("sum (eq. 1)", mole::sum_weights(N));
    add("mean (eq. 2; NLA)", mole::mean_weights(N));
  }
  bar.finish();
  rows.push_back(std::move(mole_row));

  const auto cells = table_of(rows);
  std::string csv;
  for (const auto& line : cells)
    for (std::size_t i = 0; i < line.size(); ++i)
      csv += mole::csv_field(line[i]) + (i + 1 < line.size() ? "," : "\n");
  common::write_text(options.run.out / "table.csv", csv);
  std::cout << "\n"
            << common::aligned_text(cells)
            << "\nCosine of picture and prompt by the CLIP that guided the gates, "
            << "which therefore pleases them most.\n";
  for (std::size_t i = 0; i < plan.test.size(); ++i)
    std::cout << "prompt " << i + 1 << ": " << plan.test[i] << "\n";
  std::cout << "\nGates, table and pictures:\n  " << gates.string() << "\n  "
            << (options.run.out / "table.csv").string() << "\n  " << (options.run.out / "pictures").string()
            << "\n";
  draw_sheet(rows, plan, options.run.out);
  draw_gates(rows.back(), plan, options.run.out);
  if (!curves.step.empty())
    common::report(common::plot_loss(options.run.out, "loss", curves, static_cast<int>(N)));
}

}  // namespace program
