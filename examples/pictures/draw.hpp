#pragma once
// `pictures draw`: one prompt with saved gates, and which expert each part of the picture used.

#include <iostream>
#include <string>
#include <vector>

#include <mole/io/gates.hpp>

#include "common/files.hpp"
#include "common/gate_maps.hpp"
#include "common/tiles.hpp"
#include "pictures/commands.hpp"
#include "pictures/compose.hpp"

namespace pictures {

/// See commands.hpp.
template <class B>
void draw(const DrawOptions& options) {
  MOLE_CHECK_ARG(!options.out.has_parent_path() || !options.out.filename().empty(), "--out",
                 options.out.string() + ": expected the name of a PNG file");
  common::prepare_file(options.out, "--out");
  auto painter = load_painter<B>(options.base);
  const auto sprites = read_sprites(shipped());
  // Text that is no scene is painted as it is, if the model knows its words.
  std::string prompt = options.prompt;
  MOLE_CHECK_ARG(!options.prompt.empty(), "the prompt is empty; `pictures words` says what prompts may say");
  try {
    prompt = caption(parse_scene(options.prompt, sprites), sprites);
  } catch (const mole::ArgumentError&) {
    try {
      painter.words.encode(options.prompt, painter.length(), options.truncate);
    } catch (const mole::ArgumentError&) {
      painter.words.encode(options.prompt, 1000);  // an unknown word is the better message
      throw;
    }
  }
  const auto states = painter.states({prompt}, options.truncate);
  std::vector<std::string> names = options.experts;
  if (!options.gates.empty()) {
    const auto file = mole::read_gates(options.gates);
    mole::attach_gates(painter.unet, load_experts(painter, names.empty() ? file.experts : names), file);
  } else if (!names.empty()) {
    mole::merge(painter.unet.layers().table, load_experts(painter, names), mole::sum_weights(names.size()));
  }
  MOLE_CHECK_ARG(!options.show_gates || !options.gates.empty(), "--show-gates needs --gates FILE");
  std::vector<common::GateMap> maps(1);
  const auto painted = mole::sample(
      painter.unet, painter.schedule, noise_of<B>(options.seed, 0), states, states,
      paint_options(options.steps), [](std::size_t) {},
      [&](const auto& step) {
        if (options.show_gates) common::gather_maps(painter.unet.mixer(), 0, step, options.steps, maps);
      });
  const auto picture = to_image(as_pictures(painted).front().data());
  Image large = Image::filled(side * 8, side * 8, 255);
  large.paste(picture, 0, 0, 8);
  common::write_png(options.out, large);
  std::cout << prompt << ": " << options.out.string() << "\n";
  if (!options.show_gates) return;
  const auto& experts = painter.unet.mixer().names();
  if (maps.front().empty()) {
    std::cout << "\nThese gates are of whole pictures: no part of one has its own.\n";
    return;
  }
  std::cout << "\n" << common::quarters_text(maps.front(), experts);
  common::Tiles tiles{{prompt}, {"picture"}, {picture}, 96, 10, 54};
  tiles.rows.front() = "";
  for (const auto& [name, grid] : maps.front()) {
    tiles.columns.push_back(common::layer_label(name));
    tiles.pictures.push_back(common::map_image(grid, experts.size()));
  }
  const auto folder = options.out.has_parent_path() ? options.out.parent_path() : std::filesystem::path(".");
  common::report(common::draw_tiles(folder, options.out.stem().string() + "-gates", tiles));
}

}  // namespace pictures
