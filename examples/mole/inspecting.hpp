#pragma once
// How `mole inspect` writes what it finds, on stdout.

#include <string>
#include <vector>

#include "mole/model_files.hpp"

namespace program {

/// A line "name  value".
void line(const std::string& name, const std::string& value);

/// Bytes for people: "1.2 MB".
std::string size_text(Index bytes);

/// A name with its numbers as *, so that the layers of a model are one line.
std::string pattern_of(const std::string& name);

/// Tensors that differ by their layers' numbers alone, as one line each.
void print_tensors(const std::vector<StoredTensor>& tensors);

}  // namespace program
