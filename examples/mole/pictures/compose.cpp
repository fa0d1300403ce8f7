// `mole compose --prompts`: gates over LoRAs of a Stable Diffusion, trained by CLIP on pictures in flight and by the
// experts' own pictures, and what they are worth beside the usual ways.

#include <algorithm>
#include <iostream>
#include <optional>
#include <span>
#include <string_view>
#include <utility>

#include <mole/compose/linear.hpp>
#include <mole/core/fingerprint.hpp>
#include <mole/core/quote.hpp>
#include <mole/io/csv.hpp>

#include "common/files.hpp"
#include "common/plots.hpp"
#include "common/progress.hpp"
#include "common/table.hpp"
#include "common/tiles.hpp"
#include "mole/examples.hpp"
#include "mole/inspecting.hpp"
#include "mole/language_model.hpp"
#include "mole/pictures/commands.hpp"
#include "mole/pictures/experts.hpp"
#include "mole/pictures/guide.hpp"
#include "mole/pictures/own_pictures.hpp"
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
  std::vector<TrainingPicture> own;                         ///< pictures that the experts were trained on
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
      jobs.push_back(painting.job(prompt, file.string() + ": " + mole::quote(prompt)));
      texts.push_back(plan.guide.tokens(prompt));
    }
  };
  add(plan.train, options.prompts, plan.train_jobs, plan.train_texts);
  add(plan.test, options.test.empty() ? options.prompts : options.test, plan.test_jobs, plan.test_texts);
  for (const auto& folder : options.pictures)
    for (auto& own : read_own_pictures(folder, painting.pixel_width(), painting.pixel_height()))
      plan.own.push_back({std::move(own.image), painting.job(own.caption, own.file.string()).prompt});
  return plan;
}

/// All that the gates depend on. The checkpoint of a run with another one is refused.
std::string fingerprint(const ComposePicturesOptions& options, const Plan& plan, const Painting& painting) {
  mole::Fingerprint examples;
  const auto add = [&](const std::vector<Index>& tokens) {
    for (const Index token : tokens) examples.add(static_cast<std::uint64_t>(token));
    examples.add(std::string_view("end"));
  };
  for (const auto& job : plan.train_jobs) add(job.prompt);
  for (const auto& text : plan.train_texts) add(text);
  for (const auto& own : plan.own) {
    add(own.caption);
    examples.add(std::as_bytes(std::span(own.image.pixels)));
  }
  const auto& g = options.router.gates;
  auto text = mole::message(
      "mole compose pictures router", options.router.router, "scope", to_string(g.scope), "input",
      to_string(g.input), "pooling", to_string(g.pooling), "length", g.length, "top-k", g.top_k, "gate rank",
      g.gate_rank, "temperature", g.temperature, "input scale", to_string(g.input_scale), "alpha",
      options.router.alpha, "steps", options.run.steps, "batch", options.run.batch, "rate", options.run.rate,
      "seed", options.run.seed, "sampler steps", options.painting.steps, "size", painting.pixel_width(), "x",
      painting.pixel_height(), "base", plan.files.digest, plan.files.vae_digest, plan.files.text_digest,
      "clip", plan.guide.digest(), "prompts and pictures", examples.hex());
  if (!plan.own.empty()) text += mole::message(" weight of the pictures", options.pictures_weight);
  if (options.ranks.fixed_shards > 0) text += mole::message(" fixed shards", options.ranks.fixed_shards);
  if (options.bf16) text += " in bf16";
  for (const auto& expert : plan.experts)
    text += "\n" + expert.unet.name + "=" + expert.unet.digest + " " + expert.text.digest;
  return text;
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
            << " a training step";
  if (!plan.own.empty())
    std::cout << ", and " << options.run.batch << " of the " << plan.own.size() << " in "
              << options.pictures.size() << (options.pictures.size() == 1 ? " folder" : " folders");
  std::cout << "\ngates     " << common::method_name(options.router.router, options.router.gates)
            << "\nmemory    " << size_text(bytes) << " of weights, and what a training step takes\n";
}

std::map<std::string, std::string> notes_of(const fs::path& gates, const Plan& plan) {
  ModelOptions model;
  model.base = plan.files.path;
  auto notes = gate_notes(gates, model, plan.files.digest, plan.paths, {});
  notes.erase("template");
  return notes;
}

mole::Curves train(PictureModel& model, const ComposePicturesOptions& options, const Plan& plan,
                   const std::string& fingerprint) {
  GuidedTraining training{.run = options.run,
                          .steps = options.painting.steps,
                          .alpha = options.router.alpha,
                          .balanced = common::has_shares(options.router) || options.router.alpha != 0,
                          .texts = plan.train_texts,
                          .height = plan.train_jobs.front().height,
                          .width = plan.train_jobs.front().width,
                          .own = plan.own,
                          .own_weight = options.pictures_weight,
                          .fingerprint = fingerprint,
                          .ranks = options.ranks};
  for (const auto& job : plan.train_jobs) training.prompts.push_back(job.prompt);
  if (options.router.gates.input_scale != mole::InputScale::unit) {
    common::Progress bar("measure", training.measuring());
    model.standardise(training, [&](Index done) { bar.update(done); });
  }
  return model.train_gates(training);
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
  const common::QuietRank quiet(options.ranks);
  check_png();
  MOLE_CHECK_ARG(!(options.bf16 && options.ranks.in_shares()), shares_in_bf16);
  auto files = read_picture_files(options.base, options.variant);
  const Painting painting(files, options.painting);
  const auto plan = plan_of(options, painting, std::move(files));
  describe(options, plan, painting);
  if (options.dry_run) return;
  std::optional<common::OutputFolder> out;
  if (options.ranks.first()) out.emplace(options.run.out / "pictures");

  const auto model = load_pictures(plan.files, options.backend, options.bf16);
  model->load_clip(options.clip, plan.guide.image());
  model->attach(plan.experts, common::router_of(options.router));
  const auto curves = train(*model, options, plan, fingerprint(options, plan, painting));
  if (!options.ranks.first()) return;
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
    std::cout << "prompt " << i + 1 << ": " << mole::printable(plan.test[i]) << "\n";
  std::cout << "\nGates, table and pictures:\n  " << gates.string() << "\n  "
            << (options.run.out / "table.csv").string() << "\n  " << (options.run.out / "pictures").string()
            << "\n";
  draw_sheet(rows, plan, options.run.out);
  draw_gates(rows.back(), plan, options.run.out);
  if (!curves.step.empty())
    common::report(common::plot_loss(options.run.out, "loss", curves, static_cast<int>(N)));
}

}  // namespace program
