#include "gguf_tree.hpp"

#include <algorithm>
#include <cstddef>
#include <cstring>

#include <mole/io/gguf_blocks.hpp>

namespace mole_fuzz {

namespace {

constexpr std::size_t alignment = 32;

std::size_t padded(std::size_t n) { return (n + alignment - 1) / alignment * alignment; }

/// Reads on through bytes; at their end it gives zeros and remembers that.
class Cursor {
 public:
  explicit Cursor(const std::string& bytes) : bytes_(bytes) {}

  template <class T>
  T number() {
    T value{};
    const auto own = take(sizeof value);
    if (own.size() == sizeof value) std::memcpy(&value, own.data(), sizeof value);
    return value;
  }
  std::string take(std::uint64_t n) {
    if (n > bytes_.size() - at_) {
      whole_ = false;
      return {};
    }
    at_ += static_cast<std::size_t>(n);
    return bytes_.substr(at_ - static_cast<std::size_t>(n), static_cast<std::size_t>(n));
  }
  std::string text() { return take(number<std::uint64_t>()); }
  std::string value(std::uint32_t type) {
    constexpr std::size_t sizes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    if (type == 8) return raw_text(text());
    if (type > 12 || type == 9) whole_ = false;
    return whole_ ? take(sizes[type]) : std::string();
  }
  bool whole() const { return whole_; }
  std::size_t place() const { return at_; }

 private:
  const std::string& bytes_;
  std::size_t at_ = 0;
  bool whole_ = true;
};

/// The bytes that a tensor takes, or as many as it has where that makes no sense.
std::size_t needed(const GgufPart& tensor) {
  const auto* format = mole::gguf_format(tensor.type);
  double count = 1;
  for (const auto extent : tensor.extents) count *= static_cast<double>(extent);
  if (!format || !(count <= 65536)) return tensor.data.size();
  return static_cast<std::size_t>(count) / static_cast<std::size_t>(format->values) *
         static_cast<std::size_t>(format->bytes);
}

}  // namespace

std::string raw_text(const std::string& text) { return raw(std::uint64_t{text.size()}) + text; }

void GgufTree::texts(const std::string& key, const std::vector<std::string>& values) {
  entries.push_back({key, 9, 8, {}});
  for (const auto& value : values) entries.back().values.push_back(raw_text(value));
}

bool parse(const std::string& bytes, GgufTree& tree) {
  Cursor in(bytes);
  if (in.take(4) != "GGUF") return false;
  tree.version = in.number<std::uint32_t>();
  const auto tensors = in.number<std::uint64_t>(), entries = in.number<std::uint64_t>();
  for (std::uint64_t i = 0; i < entries && in.whole(); ++i) {
    GgufEntry entry;
    entry.key = in.text();
    entry.type = in.number<std::uint32_t>();
    entry.inner = entry.type == 9 ? in.number<std::uint32_t>() : 0;
    const auto n = entry.type == 9 ? in.number<std::uint64_t>() : 1;
    for (std::uint64_t k = 0; k < n && in.whole(); ++k)
      entry.values.push_back(in.value(entry.type == 9 ? entry.inner : entry.type));
    tree.entries.push_back(std::move(entry));
  }
  std::vector<std::uint64_t> offsets;
  for (std::uint64_t i = 0; i < tensors && in.whole(); ++i) {
    GgufPart tensor;
    tensor.name = in.text();
    const auto rank = in.number<std::uint32_t>();
    for (std::uint32_t k = 0; k < rank && in.whole(); ++k)
      tensor.extents.push_back(in.number<std::uint64_t>());
    tensor.type = in.number<std::uint32_t>();
    offsets.push_back(in.number<std::uint64_t>());
    tree.tensors.push_back(std::move(tensor));
  }
  const std::size_t start = padded(in.place());
  for (std::size_t i = 0; i < offsets.size() && start <= bytes.size(); ++i) {
    if (offsets[i] > bytes.size() - start) continue;
    auto& tensor = tree.tensors[i];
    tensor.data = bytes.substr(start + static_cast<std::size_t>(offsets[i]), needed(tensor));
  }
  return in.whole();
}

std::string printed(GgufTree tree, bool fit) {
  std::string out = "GGUF" + raw(tree.version) + raw(std::uint64_t{tree.tensors.size()}) +
                    raw(std::uint64_t{tree.entries.size()});
  for (const auto& entry : tree.entries) {
    out += raw_text(entry.key) + raw(entry.type);
    if (entry.type == 9) out += raw(entry.inner) + raw(std::uint64_t{entry.values.size()});
    for (const auto& value : entry.values) out += value;
  }
  std::size_t offset = 0;
  std::string data;
  for (auto& tensor : tree.tensors) {
    if (fit) tensor.data.resize(needed(tensor), 1);
    out += raw_text(tensor.name) + raw(static_cast<std::uint32_t>(tensor.extents.size()));
    for (const auto extent : tensor.extents) out += raw(extent);
    out += raw(tensor.type) + raw(std::uint64_t{offset});
    offset = padded(offset + tensor.data.size());
    data += tensor.data;
    data.resize(offset);
  }
  out.resize(padded(out.size()));
  return out + data;
}

}  // namespace mole_fuzz
