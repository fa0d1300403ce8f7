#include "json_tree.hpp"

#include <algorithm>
#include <cstdlib>
#include <cstring>

namespace mole_fuzz {

namespace {

/// A lenient reader of JSON: it stops at what it does not understand.
class Parser {
 public:
  explicit Parser(const std::string& text) : text_(text) {}

  bool parse(Tree& tree) {
    tree = value(0);
    spaces();
    return whole_ && at_ == text_.size();
  }

 private:
  bool more() const { return at_ < text_.size(); }
  bool next(char c) {
    spaces();
    if (!more() || text_[at_] != c) return false;
    ++at_;
    return true;
  }
  void spaces() {
    while (more() && std::strchr(" \t\r\n", text_[at_])) ++at_;
  }
  std::string quoted_text() {
    const std::size_t begin = at_++;
    while (more() && text_[at_] != '"') at_ += text_[at_] == '\\' ? 2 : 1;
    if (!more()) whole_ = false;
    at_ = std::min(at_ + 1, text_.size());
    return text_.substr(begin, at_ - begin);
  }
  Tree value(int depth) {
    Tree tree;
    spaces();
    if (!more() || depth > 200) {
      whole_ = false;
      return tree;
    }
    const char first = text_[at_];
    if (first == '"') {
      tree.kind = '"';
      tree.text = quoted_text();
      return tree;
    }
    if (first != '{' && first != '[') {
      const std::size_t begin = at_;
      while (more() && !std::strchr(",]}: \t\r\n\"", text_[at_])) ++at_;
      tree.text = text_.substr(begin, at_ - begin);
      if (tree.text.empty()) whole_ = false;
      return tree;
    }
    tree.kind = first;
    const char end = first == '{' ? '}' : ']';
    ++at_;
    if (next(end)) return tree;
    while (whole_) {
      spaces();
      if (first == '{') {
        whole_ = whole_ && more() && text_[at_] == '"';
        if (!whole_) break;
        tree.keys.push_back(quoted_text());
        whole_ = whole_ && next(':');
      }
      tree.kids.push_back(value(depth + 1));
      if (next(end)) return tree;
      whole_ = whole_ && next(',');
    }
    tree.keys.resize(first == '{' ? tree.kids.size() : 0, "\"\"");
    return tree;
  }

  const std::string& text_;
  std::size_t at_ = 0;
  bool whole_ = true;
};

void print(const Tree& tree, std::string& out) {
  if (tree.kind != '{' && tree.kind != '[') {
    out += tree.text;
    return;
  }
  out += tree.kind;
  for (std::size_t i = 0; i < tree.kids.size(); ++i) {
    if (i > 0) out += ',';
    if (tree.kind == '{') out += tree.keys[i] + ":";
    print(tree.kids[i], out);
  }
  out += tree.kind == '{' ? '}' : ']';
}
Tree* child(Tree& tree, const char* key) {
  for (std::size_t i = 0; i < tree.keys.size(); ++i)
    if (tree.keys[i] == quoted(key)) return &tree.kids[i];
  return nullptr;
}

std::size_t width(const std::string& dtype) {
  if (dtype == "\"F64\"" || dtype == "\"I64\"") return 8;
  if (dtype == "\"F32\"" || dtype == "\"I32\"") return 4;
  return dtype == "\"F16\"" || dtype == "\"BF16\"" ? 2 : 1;
}

}  // namespace

std::string quoted(std::string_view text) { return "\"" + std::string(text) + "\""; }

bool parse(const std::string& text, Tree& tree) { return Parser(text).parse(tree); }

std::string printed(const Tree& tree) {
  std::string out;
  print(tree, out);
  return out;
}

void collect(Tree& tree, std::vector<Tree*>& list) {
  list.push_back(&tree);
  for (Tree& kid : tree.kids) collect(kid, list);
}

// A text inside JSON, and back; enough for JSON in JSON.
std::string unescaped(const std::string& text) {
  std::string plain;
  for (std::size_t i = 1; i + 1 < text.size(); ++i) {
    if (text[i] == '\\' && i + 2 < text.size()) ++i;
    plain += text[i];
  }
  return plain;
}
std::string escaped(const std::string& plain) {
  std::string text = "\"";
  for (const char c : plain) {
    if (c == '"' || c == '\\') text += '\\';
    text += c;
  }
  return text + '"';
}

bool lay_out(Tree& header, std::string& data) {
  std::string made;
  if (header.kind != '{') return false;
  for (std::size_t i = 0; i < header.kids.size(); ++i) {
    if (header.keys[i] == "\"__metadata__\"") continue;
    Tree* const dtype = child(header.kids[i], "dtype");
    Tree* const shape = child(header.kids[i], "shape");
    Tree* const offsets = child(header.kids[i], "data_offsets");
    if (!dtype || !shape || !offsets || shape->kind != '[') continue;
    double count = static_cast<double>(width(dtype->text));
    for (const Tree& extent : shape->kids) count *= std::atof(extent.text.c_str());
    if (!(count >= 0 && count < 65536)) continue;
    const auto length = static_cast<std::size_t>(count);
    std::size_t from = 0;
    if (offsets->kind == '[' && offsets->kids.size() == 2)
      from = static_cast<std::size_t>(std::strtoull(offsets->kids[0].text.c_str(), nullptr, 10));
    std::string part = from < data.size() ? data.substr(from, length) : "";
    part.resize(length, 1);
    Tree begin, end;
    begin.text = std::to_string(made.size());
    made += part;
    end.text = std::to_string(made.size());
    *offsets = Tree{'[', "", {}, {begin, end}};
    if (made.size() > 200000) return false;
  }
  data = made;
  return true;
}

}  // namespace mole_fuzz
