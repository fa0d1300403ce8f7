#include "mole/inspecting.hpp"

#include <cstdio>
#include <iostream>
#include <map>

#include <mole/core/error.hpp>
#include <mole/core/quote.hpp>

#include "common/table.hpp"

namespace program {

void line(const std::string& name, const std::string& value) {
  std::cout << "  " << name << std::string(name.size() < 22 ? 22 - name.size() : 1, ' ') << value << "\n";
}

std::string size_text(Index bytes) {
  char text[32];
  const auto size = static_cast<double>(bytes);
  if (bytes < 1'000'000)
    std::snprintf(text, sizeof text, "%.1f kB", size / 1e3);
  else
    std::snprintf(text, sizeof text, "%.1f MB", size / 1e6);
  return text;
}

std::string pattern_of(const std::string& name) {
  std::string text;
  for (std::size_t i = 0; i < name.size();) {
    const auto end = std::min(name.find('.', i), name.size());
    const auto part = name.substr(i, end - i);
    const bool number = !part.empty() && part.find_first_not_of("0123456789") == part.npos;
    text += (text.empty() ? "" : ".") + (number ? std::string("*") : part);
    i = end + 1;
  }
  return text;
}

void print_tensors(const std::vector<StoredTensor>& tensors) {
  struct Row {
    std::string name, shape, type;
    Index count = 0, bytes = 0;
  };
  std::vector<Row> rows;
  std::map<std::string, std::size_t> at;
  for (const auto& tensor : tensors) {
    const auto name = pattern_of(tensor.name), shape = mole::message(tensor.shape);
    const auto [found, is_new] = at.emplace(name + shape + tensor.type, rows.size());
    if (is_new) rows.push_back({name, shape, tensor.type});
    auto& row = rows[found->second];
    ++row.count;
    row.bytes += tensor.bytes;
  }
  std::vector<std::vector<std::string>> cells{{"tensor", "shape", "type", "count", "size"}};
  for (const auto& row : rows)
    cells.push_back(
        {mole::quote(row.name), row.shape, row.type, std::to_string(row.count), size_text(row.bytes)});
  std::cout << "\n" << common::aligned_text(cells);
}

}  // namespace program
