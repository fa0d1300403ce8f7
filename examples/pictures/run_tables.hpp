#pragma once
// `pictures tables`: the paper's tables about pictures, rerun on this study.

#include <algorithm>
#include <filesystem>
#include <iostream>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include <mole/io/safetensors.hpp>

#include "pictures/compose.hpp"
#include "pictures/tables.hpp"
#include "pictures/train.hpp"

namespace pictures {

/// The expert of a subject: a shipped one, or one that is made in `folder` if it is not there yet; with its SVDiff
/// shifts. Returns what `compose --experts` takes.
template <class B>
std::string expert_of(const std::string& subject, const TablesOptions& options) {
  const auto known = options.experts / folder_name(subject);
  if (std::filesystem::exists(known / "adapter_model.safetensors")) return known.string();
  const auto made = options.compose.out / "experts" / folder_name(subject);
  for (const bool svdiff : {false, true}) {
    if (std::filesystem::exists(made / (svdiff ? spectral_file : "adapter_model.safetensors"))) continue;
    TrainExpertOptions training;
    training.base = options.compose.base;
    training.subject = subject;
    training.svdiff = svdiff;
    if (svdiff) training.run.steps = svdiff_steps, training.run.rate = svdiff_rate;
    training.run.out = made;
    train_expert<B>(training);
  }
  return made.string();
}

/// Which base, and which experts, a row was made with.
inline std::string files_digest(const ComposeOptions& options) {
  mole::Fingerprint digest;
  const auto add = [&](const std::filesystem::path& path) {
    if (!std::filesystem::exists(path)) return;
    const mole::SafetensorsFile file(path);
    for (const auto& name : file.names()) {
      const auto& view = file.at(name);
      digest.add(std::string_view(name));
      digest.add({view.data, static_cast<std::size_t>(view.bytes)});
    }
  };
  add(options.base / "unet" / "diffusion_pytorch_model.safetensors");
  add(options.base / "clip" / "model.safetensors");
  add(options.judge / "model.safetensors");
  for (const auto& expert : options.experts) {
    add(std::filesystem::path(expert) / "adapter_model.safetensors");
    add(std::filesystem::path(expert) / spectral_file);
  }
  return digest.hex();
}

/// Measures the rows of a table with so many experts and one seed; what was measured before is read.
template <class B>
std::vector<Measures> table_rows(const Table& table, std::size_t count, std::uint64_t seed,
                                 const TablesOptions& options, const Sprites& sprites) {
  auto compose = options.compose;
  compose.seed = seed;
  for (std::size_t i = 0; i < count; ++i)
    compose.experts.push_back(expert_of<B>(table_subjects().at(i), options));
  const auto cells = options.compose.out / "cells";
  common::prepare_folder(cells);
  const auto digest = files_digest(compose);
  const auto named = table.few_named ? std::size_t{3} : count;
  const auto key = [&](const std::string& row) {
    return mole::message("row", row, "experts", count, "named", named, "seed", seed, "steps", compose.steps,
                         "effort", compose.effort, "prompts", compose.prompts, "files", digest);
  };
  for (const auto& row : table.rows)
    if (!load_measures(cells, key(row))) compose.methods.push_back(row);
  if (!compose.methods.empty()) {
    // True pictures come along with any row.
    std::erase(compose.methods, true_pictures);
    if (compose.methods.empty()) compose.methods.push_back("base");
    std::cerr << "table " << table.name << ", " << count << " experts, seed " << seed << "\n";
    compose.out =
        options.compose.out / "gates" /
        ("table-" + table.name + "-experts-" + std::to_string(count) + "-seed-" + std::to_string(seed));
    study<B>(compose, sprites, named,
             [&](const Row& row) { save_measures(cells, key(row.method.name), measures_of(row)); });
  }
  std::vector<Measures> rows;
  for (const auto& row : table.rows) {
    const auto known = load_measures(cells, key(row));
    MOLE_CHECK_ARG(known.has_value(), "tables: the row", row, "could not be made; has every expert in",
                   options.experts, "its", spectral_file, "(`pictures train-expert --svdiff`)?");
    rows.push_back(*known);
  }
  return rows;
}

/// See commands.hpp.
template <class B>
void tables(const TablesOptions& options) {
  const auto chosen = chosen_tables(options.tables);
  const auto sprites = read_sprites(shipped());
  common::prepare_folder(options.compose.out);
  for (auto table : chosen) {
    std::erase_if(table.experts, [&](std::size_t n) { return n > options.largest; });
    if (options.only_seed > 0) {
      for (const std::size_t count : table.experts)
        table_rows<B>(table, count, static_cast<std::uint64_t>(options.only_seed), options, sprites);
      std::cout << "table " << table.name << ": the rows of seed " << options.only_seed << " are kept in "
                << options.compose.out.string() << "\n";
      continue;
    }
    TableValues values;
    for (const std::size_t count : table.experts) {
      std::vector<std::vector<Measures>> rows(table.rows.size());
      for (Index seed = 1; seed <= options.seeds; ++seed) {
        const auto made = table_rows<B>(table, count, static_cast<std::uint64_t>(seed), options, sprites);
        for (std::size_t r = 0; r < rows.size(); ++r) rows[r].push_back(made[r]);
      }
      values.push_back(std::move(rows));
    }
    const auto text = markdown(table, values);
    const auto name = "table" + table.name;
    common::write_text(options.compose.out / (name + ".md"), text);
    common::write_text(options.compose.out / (name + ".csv"), csv(table, values));
    std::cout << text << "\n" << std::flush;
  }
}

}  // namespace pictures
