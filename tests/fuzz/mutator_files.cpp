// The mutations of GGUF files and of lines.

#include <algorithm>
#include <array>
#include <cstring>
#include <vector>

#include "mutator.hpp"

namespace mole_fuzz {

namespace {

// What GGUF files call their values and tensors.
constexpr std::array names{"general.architecture",
                           "general.alignment",
                           "split.count",
                           "llama.block_count",
                           "llama.embedding_length",
                           "llama.feed_forward_length",
                           "llama.context_length",
                           "llama.vocab_size",
                           "llama.attention.head_count",
                           "llama.attention.head_count_kv",
                           "llama.attention.key_length",
                           "llama.attention.value_length",
                           "llama.attention.sliding_window",
                           "llama.attention.layer_norm_rms_epsilon",
                           "llama.rope.dimension_count",
                           "llama.rope.freq_base",
                           "llama.rope.scaling.type",
                           "llama.rope.scaling.factor",
                           "tokenizer.ggml.model",
                           "tokenizer.ggml.pre",
                           "tokenizer.ggml.tokens",
                           "tokenizer.ggml.scores",
                           "tokenizer.ggml.token_type",
                           "tokenizer.ggml.merges",
                           "tokenizer.ggml.bos_token_id",
                           "tokenizer.ggml.eos_token_id",
                           "tokenizer.ggml.unknown_token_id",
                           "tokenizer.ggml.add_bos_token",
                           "tokenizer.ggml.add_eos_token",
                           "tokenizer.ggml.add_space_prefix",
                           "token_embd.weight",
                           "output.weight",
                           "output_norm.weight",
                           "rope_freqs.weight",
                           "blk.0.attn_q.weight",
                           "blk.0.attn_q.bias",
                           "blk.0.attn_q_norm.weight",
                           "blk.0.ffn_gate.bias",
                           "blk.1.attn_norm.weight",
                           "llama",
                           "qwen2",
                           "qwen3",
                           "gemma",
                           "gpt2",
                           "gpt-2",
                           "llama-bpe",
                           "smollm",
                           "linear",
                           "a b",
                           "<0x41>",
                           "\xE2\x96\x81",
                           "\xF0\x9F\x98\x80",
                           "\xFF",
                           "\x1B[2J"};
constexpr std::array<std::uint32_t, 15> types{0, 1, 2, 3, 6, 7, 8, 10, 11, 12, 13, 14, 30, 4, 16};

}  // namespace

std::uint64_t Mutator::odd_number() {
  constexpr std::array<std::uint64_t, 16> odd{0,
                                              1,
                                              2,
                                              3,
                                              4,
                                              8,
                                              31,
                                              32,
                                              255,
                                              256,
                                              257,
                                              1ULL << 20,
                                              1ULL << 31U,
                                              1ULL << 32U,
                                              0x7fffffffffffffff,
                                              ~std::uint64_t{0}};
  return odd[pick(odd.size())];
}

std::string Mutator::changed_name(const std::string& name) {
  if (pick(2) == 0) return names[pick(names.size())];
  return pick(4) ? bytes(name, 8)
                 : std::string(1 + pick(pick(10) ? 40 : 1500), static_cast<char>('a' + pick(26)));
}

void Mutator::change_entry(GgufTree& tree) {
  if (tree.entries.empty()) return;
  const std::size_t at = pick(tree.entries.size());
  auto& entry = tree.entries[at];
  const std::uint32_t type = entry.type == 9 ? entry.inner : entry.type;
  const std::size_t which = pick(entry.values.size());
  switch (pick(8)) {
    case 0:
      tree.entries.erase(tree.entries.begin() + static_cast<std::ptrdiff_t>(at));
      return;
    case 1: {
      auto copy = entry;
      if (pick(3)) copy.key = changed_name(copy.key);
      tree.entries.push_back(std::move(copy));
      return;
    }
    case 2:
      entry.key = changed_name(entry.key);
      return;
    case 3:
      // The bytes stay: another type reads them in its own way.
      (entry.type == 9 && pick(2) ? entry.inner : entry.type) = static_cast<std::uint32_t>(pick(14));
      return;
    case 4:
      if (entry.values.empty()) return;
      if (pick(2))
        entry.values.erase(entry.values.begin() + static_cast<std::ptrdiff_t>(which));
      else
        entry.values.push_back(std::string(entry.values[which]));
      return;
    case 5:
      if (entry.values.size() > 1) std::swap(entry.values[which], entry.values[pick(entry.values.size())]);
      return;
    default:
      if (entry.values.empty()) return;
      auto& value = entry.values[which];
      if (type == 8) {
        value = raw_text(changed_name(value.size() > 8 ? value.substr(8) : std::string()));
      } else if (pick(2)) {
        const auto number = odd_number();
        std::memcpy(value.data(), &number, std::min<std::size_t>(value.size(), 8));
      } else {
        const std::size_t size = value.size();
        value = bytes(value, 0);
        value.resize(size);
      }
  }
}

void Mutator::change_tensor(GgufTree& tree) {
  if (tree.tensors.empty()) return;
  const std::size_t at = pick(tree.tensors.size());
  auto& tensor = tree.tensors[at];
  switch (pick(7)) {
    case 0:
      tree.tensors.erase(tree.tensors.begin() + static_cast<std::ptrdiff_t>(at));
      return;
    case 1: {
      auto copy = tensor;
      if (pick(3)) copy.name = changed_name(copy.name);
      tree.tensors.push_back(std::move(copy));
      return;
    }
    case 2:
      tensor.name = changed_name(tensor.name);
      return;
    case 3:
      tensor.type = types[pick(types.size())];
      return;
    case 4:
      if (!tensor.extents.empty()) tensor.extents[pick(tensor.extents.size())] = odd_number();
      return;
    case 5:
      if (pick(2) || tensor.extents.empty())
        tensor.extents.push_back(1 + pick(2));
      else
        tensor.extents.pop_back();
      return;
    default:
      tensor.data = numbers(tensor.data);
  }
}

std::string Mutator::gguf(const std::string& file) {
  GgufTree tree;
  if (pick(12) == 0 || !parse(file, tree)) return bytes(file, 64);
  for (std::size_t n = 1 + pick(3); n > 0; --n) {
    if (pick(3))
      change_entry(tree);
    else
      change_tensor(tree);
  }
  if (pick(40) == 0) tree.version = static_cast<std::uint32_t>(pick(5));
  return printed(std::move(tree), pick(5) != 0);
}

std::string Mutator::lines(const std::string& text) {
  if (pick(12) == 0) return bytes(text, 64);
  std::vector<std::string> list(1);
  for (const char c : text)
    if (c == '\n')
      list.emplace_back();
    else
      list.back() += c;
  const std::size_t at = pick(list.size()), other = pick(list.size());
  switch (pick(8)) {
    case 0:
      list.erase(list.begin() + static_cast<std::ptrdiff_t>(at));
      break;
    case 1:
      list.insert(list.begin() + static_cast<std::ptrdiff_t>(other), std::string(list[at]));
      break;
    case 2:
      std::swap(list[at], list[other]);
      break;
    case 3:
      list[at] += list[other];
      break;
    case 4:
      list[at] += pick(2) ? "\r" : " ";
      break;
    default:
      list[at] = json(list[at]);
  }
  std::string made;
  for (std::size_t i = 0; i < list.size(); ++i) made += (i > 0 ? "\n" : "") + list[i];
  return made;
}

}  // namespace mole_fuzz
