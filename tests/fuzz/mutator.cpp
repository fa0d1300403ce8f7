#include "mutator.hpp"

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string_view>
#include <utility>

extern "C" std::size_t LLVMFuzzerMutate(std::uint8_t* data, std::size_t size, std::size_t most);

namespace mole_fuzz {

namespace {

constexpr std::array values{"0",
                            "1",
                            "-1",
                            "2",
                            "3",
                            "7",
                            "8",
                            "16",
                            "255",
                            "256",
                            "65536",
                            "100000",
                            "100001",
                            "1000000",
                            "1000001",
                            "1073741824",
                            "2147483647",
                            "2147483648",
                            "4294967296",
                            "4611686018427387904",
                            "9223372036854775807",
                            "9223372036854775808",
                            "-9223372036854775808",
                            "-9223372036854775809",
                            "18446744073709551615",
                            "18446744073709551616",
                            "1e400",
                            "-1e400",
                            "1e308",
                            "1e300",
                            "1e19",
                            "1e9",
                            "1.0000001e9",
                            "1e-400",
                            "0.5",
                            "-0.0",
                            "-0",
                            "1.5",
                            "3.0",
                            "1e3",
                            "null",
                            "true",
                            "false",
                            "NaN",
                            "Infinity",
                            "[]",
                            "{}",
                            "[[]]",
                            "[0]",
                            "[1,1]",
                            "[0,0]",
                            "[1]",
                            "[1,2]",
                            "[9223372036854775807,9223372036854775807]",
                            "[4294967296,4294967296]",
                            "[0,9223372036854775807,9223372036854775807]",
                            "[1,1,1,1,1,1,1,1,1,1]",
                            "{\"a\":1}",
                            "\"\"",
                            "[null]",
                            "[\"x\"]",
                            "01",
                            "+1",
                            ".5",
                            "1.",
                            "0x10",
                            "[8,4]",
                            "[2,0]"};

constexpr std::array texts{"F64",
                           "F32",
                           "F16",
                           "BF16",
                           "I64",
                           "I32",
                           "U8",
                           "BOOL",
                           "I8",
                           "U32",
                           "F8_E4M3",
                           "F4",
                           "C64",
                           "f32",
                           "relu",
                           "gelu",
                           "gelu_new",
                           "silu",
                           "swish",
                           "gated-gelu",
                           "gated-relu",
                           "gated-silu",
                           "gated-",
                           "gelu_pytorch_tanh",
                           "t5",
                           "mt5",
                           "umt5",
                           "LORA",
                           "none",
                           "all",
                           "lora_only",
                           "gaussian",
                           "pissa",
                           "eva",
                           "orthogonal",
                           "mean",
                           "token",
                           "flatten",
                           "experts",
                           "hidden",
                           "matrix",
                           "layer",
                           "block",
                           "network",
                           "mole",
                           "arrow",
                           "xlora",
                           "softmax",
                           "sum",
                           "off",
                           "1000000",
                           "100000000",
                           "2",
                           "1",
                           "0",
                           "-1",
                           "nan",
                           "1e308",
                           "true",
                           "\\u0000",
                           "a\\u0000b",
                           "../../../../etc/passwd",
                           "/dev/zero",
                           "model-00001-of-00002.safetensors",
                           "\\ud800",
                           "\\udfff\\ud800",
                           "\\u001b[2J",
                           "\\u202e",
                           "\\n",
                           "%s%n",
                           "(a+)+b",
                           "(a|a)*b",
                           "(.*)*$",
                           "(((",
                           "[[:alpha:",
                           "\\\\",
                           "(x{100}){100}",
                           "[a-z",
                           "(?<=a)b",
                           "(?<!a)b",
                           "(?P<n>a)",
                           "(?i)q",
                           "a\\\\Z",
                           "\\\\1",
                           "all-linear",
                           ".*",
                           "q|v",
                           "q",
                           "v$",
                           "__metadata__",
                           "dtype",
                           "shape",
                           "data_offsets",
                           "format",
                           "version",
                           "router",
                           "options",
                           "gates",
                           "gate_experts",
                           "experts",
                           "digests",
                           "config_digest",
                           "run",
                           "curves",
                           "digest",
                           "encoder.block.0.layer.0.SelfAttention.q",
                           "decoder.block.0.layer.1.EncDecAttention.k",
                           "base_model.model.encoder.block.0.layer.0.SelfAttention.q.lora_A.weight",
                           "base_model.model..lora_A.weight",
                           "base_model.model.a.lora_B.default.weight",
                           "lm_head.weight",
                           "shared.weight",
                           "encoder.embed_tokens.weight",
                           "decoder.embed_tokens.weight"};

}  // namespace

std::string Mutator::bytes(const std::string& old, std::size_t more) {
  std::string changed = old;
  changed.resize(old.size() + more);
  changed.resize(
      LLVMFuzzerMutate(reinterpret_cast<std::uint8_t*>(changed.data()), old.size(), changed.size()));
  return changed;
}

void Mutator::change_number(std::string& text) {
  constexpr std::string_view signs = "0123456789-.eE+";
  if (text.empty()) return;
  const std::size_t at = pick(text.size());
  switch (pick(3)) {
    case 0:
      text[at] = signs[pick(signs.size())];
      break;
    case 1:
      text.insert(at, 1, signs[pick(10)]);
      break;
    default:
      if (text.size() > 1) text.erase(at, 1);
  }
}

void Mutator::change_text(std::string& text, int level) {
  const std::string inner = text.size() >= 2 ? text.substr(1, text.size() - 2) : "";
  if (level < 2 && !inner.empty() && (inner[0] == '{' || inner[0] == '[') && pick(4) != 0) {
    Tree tree;
    const std::string plain = unescaped(text);
    if (parse(plain, tree)) {
      change(tree, level + 1);
      text = escaped(printed(tree));
      return;
    }
  }
  switch (pick(6)) {
    case 0:
      text = quoted(inner + inner.substr(0, 300));
      break;
    case 1:
      text = quoted(std::string(1 + pick(pick(10) ? 40 : 1500), static_cast<char>('a' + pick(26))));
      break;
    case 2: {
      std::string other = inner;
      other.insert(pick(other.size() + 1), texts[pick(texts.size())]);
      text = quoted(other);
      break;
    }
    case 3: {
      std::string other = inner;
      change_number(other);
      text = quoted(other);
      break;
    }
    default:
      text = quoted(texts[pick(texts.size())]);
  }
}

void Mutator::change_once(Tree& root, int level) {
  std::vector<Tree*> all;
  collect(root, all);
  Tree& node = *all[pick(all.size())];
  const bool object = node.kind == '{';
  const std::size_t at = pick(node.kids.size());
  switch (pick(12)) {
    case 0:
    case 1: {
      const std::string value = values[pick(values.size())];
      Tree tree;
      if (!parse(value, tree)) tree = Tree{'v', value, {}, {}};
      node = tree;
      return;
    }
    case 2:
    case 3:
    case 4:
      if (node.kind == '"') change_text(node.text, level);
      if (node.kind == 'v') change_number(node.text);
      return;
    case 5:
      if (node.kids.empty()) return;
      node.kids.erase(node.kids.begin() + static_cast<std::ptrdiff_t>(at));
      if (object) node.keys.erase(node.keys.begin() + static_cast<std::ptrdiff_t>(at));
      return;
    case 6: {
      if (node.kids.empty()) return;
      const Tree copy = node.kids[at];
      std::string key = object ? node.keys[at] : "";
      if (object && pick(2)) key = pick(2) ? quoted(texts[pick(texts.size())]) : key;
      if (object && pick(3) == 0) change_text(key, 2);
      node.kids.push_back(copy);
      if (object) node.keys.push_back(key);
      return;
    }
    case 7:
      if (!object || node.keys.empty()) return;
      if (pick(3) == 0)
        node.keys[at] = quoted(texts[pick(texts.size())]);
      else
        change_text(node.keys[at], 2);
      return;
    case 8: {
      const Tree copy = *all[pick(all.size())];
      if (printed(copy).size() < 4000) node = copy;
      return;
    }
    case 9: {
      const std::size_t depth = pick(20) ? 1 + pick(3) : 90 + pick(30);
      for (std::size_t i = 0; i < depth; ++i) {
        const bool list = pick(2) == 0;
        Tree around{list ? '[' : '{', "", {}, {node}};
        if (!list) around.keys.push_back("\"k\"");
        node = around;
      }
      return;
    }
    case 10:
      for (std::size_t i = node.kids.size(); i > 1; --i) {
        const std::size_t other = pick(i);
        std::swap(node.kids[i - 1], node.kids[other]);
        if (object) std::swap(node.keys[i - 1], node.keys[other]);
      }
      return;
    default: {
      Tree added;
      added.kind = '"';
      added.text = quoted(texts[pick(texts.size())]);
      if (pick(2)) added = Tree{'v', values[pick(values.size())], {}, {}};
      if (node.kind != '{' && node.kind != '[') return;
      node.kids.push_back(added);
      if (object) node.keys.push_back(quoted(texts[pick(texts.size())]));
    }
  }
}

void Mutator::change(Tree& root, int level) {
  for (std::size_t n = 1 + pick(3); n > 0; --n) change_once(root, level);
}

std::string Mutator::json(const std::string& text) {
  Tree tree;
  if (text.size() < 60000 && pick(12) != 0 && parse(text, tree)) {
    change(tree, 0);
    const std::string made = printed(tree);
    if (made.size() < 100000) return made;
  }
  return bytes(text, 64);
}

// Some element becomes NaN, infinite, huge, tiny or any bits.
std::string Mutator::numbers(std::string data) {
  constexpr std::array<std::uint64_t, 8> patterns{0x7ff8000000000000, 0x7ff0000000000000, 0xfff0000000000000,
                                                  0x7fc000007fc00000, 0x7f8000007f800000, 0x7e007e007e007e00,
                                                  0x0000000000000001, 0x7fefffffffffffff};
  if (data.size() < 8) return bytes(data, 8);
  for (std::size_t n = 1 + pick(3); n > 0; --n) {
    const std::size_t at = pick(data.size() / 8) * 8;
    const std::uint64_t value = pick(4) ? patterns[pick(patterns.size())] : std::uint64_t{1} << pick(64);
    std::memcpy(data.data() + at, &value, 8);
  }
  return data;
}

std::string Mutator::header_and_data(const std::string& old_header, const std::string& old_data) {
  std::string header = old_header, data = old_data;
  Tree tree;
  if (pick(8) == 0) {
    data = numbers(data);
  } else if (pick(20) != 0 && parse(header, tree)) {
    change(tree, 0);
    if (pick(5) != 0) lay_out(tree, data);
    header = printed(tree);
  } else {
    header = bytes(header, 64);
  }
  if (pick(8) == 0) header.resize((header.size() + 7) / 8 * 8, ' ');
  if (pick(40) == 0) data.resize(pick(data.size() + 1));
  if (pick(40) == 0) data += std::string(1 + pick(16), 'x');
  std::uint64_t length = header.size();
  if (pick(50) == 0) {
    constexpr std::array<std::uint64_t, 7> lengths{
        0, 1, 100000000, 100000001, ~std::uint64_t{0}, 1ULL << 63U, 1ULL << 32U};
    length = pick(2) ? lengths[pick(lengths.size())] : length + pick(9) - 4;
  }
  std::string file(8, '\0');
  std::memcpy(file.data(), &length, 8);
  return file + header + data;
}

std::string Mutator::safetensors(const std::string& file) {
  std::uint64_t length = 0;
  if (file.size() >= 8) std::memcpy(&length, file.data(), 8);
  if (file.size() < 10 || length > file.size() - 8 || pick(20) == 0) return bytes(file, 64);
  return header_and_data(file.substr(8, length), file.substr(8 + length));
}

}  // namespace mole_fuzz
