#pragma once
// What a compose run does beside its models: which rows, the table, the figures.

#include <string>
#include <vector>

#include <mole/train/curves.hpp>

#include "common/gate_maps.hpp"
#include "pictures/commands.hpp"
#include "pictures/measured.hpp"
#include "pictures/study.hpp"

namespace pictures {

/// A row of the table: a method with its pictures of the prompts of two and of three objects, and what they measure.
struct Row {
  Method method;
  std::vector<std::vector<float>> two = {}, three = {};
  Measured measured_two = {}, measured_three = {};
  mole::Curves curves = {};                ///< of the gates' training
  std::vector<common::GateMap> maps = {};  ///< of token gates, by picture, those of two objects first
};

/// The rows that the options ask for. Throws mole::ArgumentError for one that is none, naming all.
std::vector<Method> chosen_methods(const std::vector<std::string>& experts, const ComposeOptions& options);

/// Keeps at most so many prompts of each size, evenly spread; 0 keeps all.
void limit(Prompts& prompts, Index most);

/// The file name of a row's gates: gates.safetensors of the best method, else with the method's name.
std::string gates_file(const Method& method);

/// Writes the row's pictures as PNG files in a folder of its own, under pictures/ in the output's folder, and their captions
/// beside them in metadata.jsonl. Throws mole::Error for a file that cannot be written.
void save_pictures(const ComposeOptions& options, const Row& row, const Prompts& prompts,
                   const Sprites& sprites);

/// Prints the table, writes it as CSV, draws grid.png, gatemap.png and the gates' losses, and says where all lies.
void report(const ComposeOptions& options, const std::vector<Row>& rows, const Prompts& prompts,
            const std::vector<std::string>& experts, const Sprites& sprites);

}  // namespace pictures
