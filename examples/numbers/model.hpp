#pragma once
// The model side of the example: batches as tensors, base and experts from disk, and exact match.

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include <mole/backends/cpu.hpp>
#include <mole/models/generate.hpp>
#include <mole/models/t5.hpp>

#include "numbers/tasks.hpp"

namespace numbers {

using Scalar = float;
using B = mole::Cpu;
using Model = mole::T5<Scalar, B>;
using Values = mole::Tensor<Scalar, B>;
using Pass = mole::MolePass<Scalar, B>;
}  // namespace numbers

// Compiled once, in model.cpp.
extern template class mole::T5<numbers::Scalar, numbers::B>;
extern template class mole::Mixer<numbers::Scalar, numbers::B>;

namespace numbers {

/// The folder of the shipped base, and that of the shipped experts.
std::filesystem::path shipped_base();
std::filesystem::path shipped_experts();

/// The folder name of a task's expert: "en>fr" -> "en-fr", as shells like it.
std::string folder_name(const Task& task);

/// The examples as `model`'s batch. Where its gates read all tokens (flatten pooling), inputs have their one
/// length; an input that is longer is a mole::ArgumentError.
mole::T5Batch<Scalar, B> batch_for(const Model& model, const std::vector<Example>& examples);

/// 16 hex digits over a base's weights, so that a run is not resumed on another base.
std::string base_digest(const std::filesystem::path& folder);

/// A base in Hugging Face's T5 format. Prints warnings about NaN or infinite weights.
/// Throws mole::FormatError for damaged files, mole::ArgumentError for a vocabulary other than the
/// tokenizer's.
Model load_base(const std::filesystem::path& folder);

/// Experts in PEFT's format, from `names`: each a folder, or a task whose expert lies in `root`. An expert
/// named by a task, or lying in a folder such as en-fr, is called by the task's name.
/// Throws mole::ArgumentError for an empty list or a folder that does not exist.
std::vector<mole::LoraSet> load_experts(const std::vector<std::string>& names,
                                        const std::filesystem::path& root);

/// The text a model answers to each prompt such as "en>fr two hundred six". `pass` holds the gates used.
std::vector<std::string> translate(const Model& model, const std::vector<std::string>& prompts, Pass& pass,
                                   mole::Index beams = 1);

/// Called after each batch of an evaluation with the number of examples done.
using Tick = std::function<void(mole::Index)>;

/// The share of `count` held-out numbers of each task that the model translates without a single wrong byte.
std::vector<double> exact_match(const Model& model, const std::vector<Task>& tasks, mole::Index count,
                                const Tick& tick);

}  // namespace numbers
