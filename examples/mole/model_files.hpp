#pragma once
// What a model's folder or GGUF file says of itself, before any of its weights is read.

#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include <mole/core/fingerprint.hpp>
#include <mole/core/shape.hpp>
#include <mole/io/checkpoint.hpp>
#include <mole/io/gguf.hpp>

#include "mole/language_model.hpp"

namespace program {

/// A tensor as it is stored.
struct StoredTensor {
  std::string name, type;  ///< type: F32, BF16, Q4_1, ...
  mole::Shape shape;
  Index bytes = 0;
  bool quantised = false;  ///< it can stay as it is stored
};

/// A model's files.
struct ModelFiles {
  std::filesystem::path path;
  ModelFacts facts;
  Index layers = 0, width = 0;                                ///< blocks (T5: of both halves), d
  std::vector<std::pair<std::string, std::string>> settings;  ///< of its configuration, for people to read
  std::vector<StoredTensor> tensors;
  std::string digest;  ///< 16 hex digits over names, shapes, types and both ends of each tensor's bytes

  Index parameters() const;
  Index bytes() const;
  /// What the weights take when they are loaded: `number` bytes a parameter, or less where they may stay quantised.
  Index bytes_in_memory(bool quantised, Index number = 4) const;
};

/// Adds what tells one tensor of a folder from another: name, shape, type and both ends of its bytes, as all of a large
/// file need not be read for it.
void add_to_digest(mole::Fingerprint& digest, const mole::Checkpoint& checkpoint, const std::string& name);

/// What a GGUF file holds, by the file's own names.
std::vector<StoredTensor> gguf_tensors(const mole::GgufFile& file);

/// Throws mole::FormatError and mole::Error as the model's loader does for configuration and headers, and for a path
/// that is neither a model's folder nor a GGUF file.
ModelFiles read_model_files(const std::filesystem::path& path);

}  // namespace program
