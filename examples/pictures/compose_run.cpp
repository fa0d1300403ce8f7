#include "pictures/compose_run.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <iostream>

#include <mole/core/error.hpp>
#include <mole/core/scalar.hpp>
#include <mole/io/csv.hpp>
#include <mole/io/json.hpp>

#include "common/files.hpp"
#include "common/table.hpp"
#include "common/tiles.hpp"

namespace pictures {

namespace {

const std::vector<std::string> columns{"method",   "text, 2",      "text, 3",  "halves, 2",
                                       "there, 2", "all there, 2", "there, 3", "all there, 3"};

std::string shown(double value, const char* format) {
  if (mole::is_nan(value)) return "-";
  char text[32];
  std::snprintf(text, sizeof text, format, value);
  return text;
}

std::vector<std::vector<std::string>> table_of(const std::vector<Row>& rows) {
  std::vector<std::vector<std::string>> cells{columns};
  for (const auto& row : rows) {
    const auto &two = row.measured_two, &three = row.measured_three;
    const bool triples = !row.three.empty();
    const double none = std::nan("");
    cells.push_back({row.method.name, shown(two.text, "%.3f"), shown(three.text, "%.3f"),
                     shown(two.half, "%.3f"), shown(100 * two.present, "%.0f"),
                     shown(100 * two.all_present, "%.0f"),
                     shown(triples ? 100 * three.present : none, "%.0f"),
                     shown(triples ? 100 * three.all_present : none, "%.0f")});
  }
  return cells;
}

/// A caption over a tile: without articles, a line break before each relation.
std::string column_label(const std::string& caption) {
  std::string text;
  std::size_t at = 0;
  while (at < caption.size()) {
    const auto end = std::min(caption.find(' ', at), caption.size());
    const auto word = caption.substr(at, end - at);
    at = end + 1;
    if (word == "a" || word == "an" || word == "face") continue;
    const bool breaks = word == "left" || word == "above" || word == "on";
    text += (text.empty() ? "" : breaks ? "\n" : " ") + word;
  }
  return text;
}

/// A row's name as part of a file's: "mean (eq. 2; NLA)" -> "mean-eq-2-NLA".
std::string file_name(const std::string& row) {
  std::string name;
  for (const char c : row) {
    const bool plain = (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
    if (plain)
      name += c;
    else if (!name.empty() && name.back() != '-')
      name += '-';
  }
  if (!name.empty() && name.back() == '-') name.pop_back();
  return name;
}

/// Some of n, evenly spread.
std::vector<std::size_t> some_of(std::size_t n, std::size_t most) {
  std::vector<std::size_t> list;
  const std::size_t count = std::min(n, most);
  for (std::size_t i = 0; i < count; ++i) list.push_back(i * n / count);
  return list;
}

void draw_grid(const ComposeOptions& options, const std::vector<Row>& rows, const Prompts& prompts,
               const Sprites& sprites) {
  common::Tiles tiles;
  tiles.row_label = 190;
  tiles.column_label = 66;
  const auto two = some_of(prompts.two.size(), 7), three = some_of(prompts.three.size(), 2);
  for (const auto i : two) tiles.columns.push_back(column_label(caption(prompts.two[i], sprites)));
  for (const auto i : three) tiles.columns.push_back(column_label(caption(prompts.three[i], sprites)));
  for (const auto& row : rows) {
    tiles.rows.push_back(row.method.name);
    for (const auto i : two) tiles.pictures.push_back(to_image(row.two[i].data()));
    for (const auto i : three) tiles.pictures.push_back(to_image(row.three[i].data()));
  }
  common::report(common::draw_tiles(options.out, "grid", tiles));
}

/// The gates of one row over some of its pictures, at the layers where they differ most from pixel to pixel.
void draw_gate_map(const ComposeOptions& options, const Row& row, const Prompts& prompts,
                   std::size_t n_experts, const Sprites& sprites) {
  const auto layers = common::most_varied(row.maps, n_experts, 6);
  common::Tiles tiles;
  tiles.row_label = 90;
  tiles.column_label = 40;
  tiles.tile = 96;
  tiles.columns = {"picture"};
  for (const auto& name : layers) tiles.columns.push_back(common::layer_label(name));
  const auto add = [&](const Scene& scene, const std::vector<float>& picture, const common::GateMap& map) {
    tiles.rows.push_back(column_label(caption(scene, sprites)));
    tiles.pictures.push_back(to_image(picture.data()));
    for (const auto& name : layers) tiles.pictures.push_back(common::map_image(map.at(name), n_experts));
  };
  for (const auto i : some_of(prompts.two.size(), 4)) add(prompts.two[i], row.two[i], row.maps[i]);
  for (const auto i : some_of(prompts.three.size(), 1))
    add(prompts.three[i], row.three[i], row.maps[prompts.two.size() + i]);
  common::report(common::draw_tiles(options.out, "gatemap", tiles));
}

}  // namespace

std::vector<Method> chosen_methods(const std::vector<std::string>& experts, const ComposeOptions& options) {
  const auto set = [&](Method& method) {
    if (!method.trains()) return;
    if (options.rate > 0) method.training.rate = options.rate;
    if (options.batch > 0) method.training.pictures = options.batch;
    if (options.own >= 0 && method.name == best_method) method.training.own = options.own;
  };
  auto all = methods_of(experts, options.effort);
  for (auto& method : all) set(method);
  if (options.methods.empty()) return all;
  const std::size_t usual = all.size();
  for (auto& method : further_methods(options.effort)) {
    set(method);
    all.push_back(std::move(method));
  }
  std::vector<bool> chosen(all.size(), false);
  for (const auto& wanted : options.methods) {
    // A whole name means that row alone; a beginning means usual rows.
    const bool whole =
        std::any_of(all.begin(), all.end(), [&](const Method& method) { return method.name == wanted; });
    bool found = false;
    std::string names;
    for (std::size_t i = 0; i < all.size(); ++i) {
      const auto& name = all[i].name;
      names += (i == 0 ? "" : ", ") + name;
      if (whole ? name != wanted : i >= usual || !name.starts_with(wanted)) continue;
      chosen[i] = found = true;
    }
    MOLE_CHECK_ARG(found, "--methods", wanted + ": no row begins so; there are", names);
  }
  std::vector<Method> kept;
  for (std::size_t i = 0; i < all.size(); ++i)
    if (chosen[i]) kept.push_back(all[i]);
  return kept;
}

void limit(Prompts& prompts, Index most) {
  if (most <= 0) return;
  for (auto* list : {&prompts.two, &prompts.three}) {
    std::vector<Scene> kept;
    // Lists alternate between layouts: every other one goes a place on, so that both stay.
    const auto some = some_of(list->size(), static_cast<std::size_t>(most));
    for (std::size_t i = 0; i < some.size(); ++i)
      kept.push_back((*list)[2 * some.size() <= list->size() ? some[i] + i % 2 : some[i]]);
    *list = std::move(kept);
  }
}

std::string gates_file(const Method& method) {
  if (method.name == best_method) return "gates.safetensors";
  return "gates-" + file_name(method.name.substr(method.name.find(' ') + 1)) + ".safetensors";
}

void save_pictures(const ComposeOptions& options, const Row& row, const Prompts& prompts,
                   const Sprites& sprites) {
  const auto folder = options.out / "pictures" / file_name(row.method.name);
  common::prepare_folder(folder);
  std::string lines;
  std::size_t number = 0;
  const auto save = [&](const std::vector<Scene>& scenes, const std::vector<std::vector<float>>& pictures) {
    for (std::size_t i = 0; i < scenes.size(); ++i) {
      char name[32];
      std::snprintf(name, sizeof name, "%04zu.png", number++);
      common::write_png(folder / name, to_image(pictures[i].data()));
      lines +=
          mole::Json{{"file_name", std::string(name)}, {"text", caption(scenes[i], sprites)}}.dump() + "\n";
    }
  };
  save(prompts.two, row.two);
  save(prompts.three, row.three);
  common::write_text(folder / "metadata.jsonl", lines);
}

void report(const ComposeOptions& options, const std::vector<Row>& rows, const Prompts& prompts,
            const std::vector<std::string>& experts, const Sprites& sprites) {
  const auto cells = table_of(rows);
  std::string csv;
  for (const auto& line : cells)
    for (std::size_t i = 0; i < line.size(); ++i)
      csv += mole::csv_field(line[i] == "-" ? "" : line[i]) + (i + 1 < line.size() ? "," : "\n");
  common::write_text(options.out / "table.csv", csv);
  std::cout
      << "\nPictures of " << prompts.two.size() << " prompts with two objects and " << prompts.three.size()
      << " with three" << (options.validation ? ", on colours set aside" : ", on colours that no gate saw")
      << ":\n\n"
      << common::aligned_text(cells)
      << "\ntext: cosine of picture and prompt by a CLIP that trained nothing. halves: cosine of each half of a\n"
         "picture of two and its own subject. there, all there: per cent of subjects found, and of pictures with\n"
         "all of them, by comparison with the sprites.\n\nTable, gates and pictures:\n  "
      << (options.out / "table.csv").string() << "\n";
  for (const auto& row : rows)
    if (row.method.trains()) std::cout << "  " << (options.out / gates_file(row.method)).string() << "\n";
  if (options.save_pictures) std::cout << "  " << (options.out / "pictures").string() << "\n";
  draw_grid(options, rows, prompts, sprites);
  for (const auto& row : rows) {
    if (row.method.name != best_method) continue;
    draw_gate_map(options, row, prompts, experts.size(), sprites);
    common::report(common::plot_loss(options.out, "loss", row.curves, static_cast<int>(experts.size())));
  }
}

}  // namespace pictures
