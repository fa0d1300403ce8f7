// GGUF files: what describes them, every block format, the model and the tokenizer in them.

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <mole/backends/cpu.hpp>
#include <mole/io/gguf_rows.hpp>
#include <mole/models/llama/gguf.hpp>
#include <mole/text/gguf_tokenizer.hpp>

#include "gguf_tree.hpp"
#include "harness.hpp"
#include "texts.hpp"

namespace mole_fuzz {

namespace {

using mole::Index;
using Add = std::function<void(const std::vector<std::string>&)>;

/// Every tensor as numbers, and where it is a matrix as rows, which are the same numbers.
void read_all(const std::shared_ptr<const mole::GgufFile>& file) {
  for (const auto& entry : file->tensors()) {
    const auto& name = entry.first;
    std::vector<float> values;
    const bool read = accepts([&] { values = file->read<float>(name); });
    require(!read || static_cast<Index>(values.size()) == entry.second.shape.size(),
            "another number of values");
    accepts([&] {
      const mole::GgufRows rows(file, name);
      require(read, "rows of a tensor that is not read");
      const auto shape = rows.shape();
      if (values.empty()) return;
      std::vector<float> row(static_cast<std::size_t>(shape[1]));
      for (Index r = 0; r < shape[0]; ++r) {
        rows.unpack(r, 0, shape[1], row.data());
        require(std::memcmp(row.data(), values.data() + r * shape[1], row.size() * sizeof(float)) == 0,
                "rows that are other numbers than the tensor's");
      }
    });
  }
}

void test_gguf(const std::vector<std::string>& parts) {
  const auto path = folder() / "x.gguf";
  write_bytes(path, parts[0]);
  accepts([&] {
    const auto file = std::make_shared<const mole::GgufFile>(path);
    read_all(file);
    for (const bool packed : {false, true})
      accepts([&] {
        std::vector<std::string> warnings;
        const auto model = mole::load_llama_gguf<float, mole::Cpu>(file, &warnings, {.keep_packed = packed});
        for (const auto& warning : warnings) check_message(warning);
        const mole::NoGrad off;
        mole::MolePass<float, mole::Cpu> pass;
        const auto ids = mole::Tensor<Index, mole::Cpu>::from({1, 2}, {0, model.config().vocab_size - 1});
        accepts_or<mole::ArgumentError>([&] {  // a text may be longer than the model's
          const auto logits = model.logits({ids, {}, {}, {}}, pass);
          require(logits.shape() == mole::Shape({1, 2, model.config().vocab_size}),
                  "logits of another shape");
        });
      });
  });
}

/// As many bytes as a tensor takes; they are small finite numbers in every format.
GgufPart part(const std::string& name, mole::GgufType type, Index columns, Index rows = 0) {
  GgufPart made{name, {static_cast<std::uint64_t>(columns)}, static_cast<std::uint32_t>(type), {}};
  if (rows > 0) made.extents.push_back(static_cast<std::uint64_t>(rows));
  const auto* format = mole::gguf_format(made.type);
  made.data.assign(
      static_cast<std::size_t>(columns * std::max<Index>(rows, 1) / format->values * format->bytes), '\x11');
  return made;
}

/// A model of one layer, its matrices of a type; d is a multiple of 32.
GgufTree tiny_model(const std::string& architecture, Index d, mole::GgufType type) {
  constexpr auto plain = mole::GgufType::F32;
  GgufTree tree;
  const auto size = [&](const char* key, Index value) {
    tree.number(architecture + key, static_cast<std::uint32_t>(value));
  };
  tree.text("general.architecture", architecture);
  size(".block_count", 1);
  size(".embedding_length", d);
  size(".feed_forward_length", 32);
  size(".context_length", 16);
  size(".attention.head_count", 2);
  size(".attention.head_count_kv", 1);
  size(".attention.key_length", 4);
  size(".attention.value_length", 4);
  size(".rope.dimension_count", 4);
  tree.real(architecture + ".attention.layer_norm_rms_epsilon", 1e-5F);
  tree.real(architecture + ".rope.freq_base", 10000);
  tree.texts("tokenizer.ggml.tokens", {"a", "b", "ab"});
  tree.number("tokenizer.ggml.bos_token_id", 0);
  tree.number("tokenizer.ggml.eos_token_id", 1);
  const std::string layer = "blk.0.";
  tree.tensors = {part("token_embd.weight", type, d, 3),
                  part("output_norm.weight", plain, d),
                  part(layer + "attn_norm.weight", plain, d),
                  part(layer + "attn_q.weight", type, d, 8),
                  part(layer + "attn_k.weight", type, d, 4),
                  part(layer + "attn_v.weight", type, d, 4),
                  part(layer + "attn_output.weight", mole::GgufType::F16, 8, d),
                  part(layer + "ffn_norm.weight", plain, d),
                  part(layer + "ffn_gate.weight", type, d, 32),
                  part(layer + "ffn_up.weight", type, d, 32),
                  part(layer + "ffn_down.weight", mole::GgufType::Q8_0, 32, d)};
  return tree;
}

void seed_gguf(const Add& add) {
  using mole::GgufType;
  auto llama = tiny_model("llama", 32, GgufType::Q4_0);
  llama.tensors.push_back(part("rope_freqs.weight", GgufType::F32, 2));
  // A number other than 0, which the divisors must be.
  for (std::size_t i = 0; i < 2; ++i) {
    const float one = 1;
    std::memcpy(llama.tensors.back().data.data() + 4 * i, &one, 4);
  }
  add({printed(llama, true)});
  auto qwen = tiny_model("qwen2", 32, GgufType::BF16);
  for (const auto& [name, n] : {std::pair("q", 8), std::pair("k", 4), std::pair("v", 4)})
    qwen.tensors.push_back(part(std::string("blk.0.attn_") + name + ".bias", GgufType::F32, n));
  qwen.tensors.push_back(part("output.weight", GgufType::Q5_1, 32, 3));
  add({printed(qwen, true)});
  auto gemma = tiny_model("gemma", 32, GgufType::F16);
  gemma.number("gemma.attention.sliding_window", 3);
  gemma.text("gemma.rope.scaling.type", "linear");
  gemma.real("gemma.rope.scaling.factor", 2);
  add({printed(gemma, true)});
  auto qwen3 = tiny_model("qwen3", 32, GgufType::Q8_0);
  for (const char* name : {"q", "k"})
    qwen3.tensors.push_back(part(std::string("blk.0.attn_") + name + "_norm.weight", GgufType::F32, 4));
  add({printed(qwen3, true)});
  // No model, but a matrix of every format.
  GgufTree all;
  all.text("general.name", "all formats");
  all.numbers<std::int32_t>("list", 5, {7, -8});
  for (std::uint32_t type = 0; type < 31; ++type)
    if (mole::gguf_format(type))
      all.tensors.push_back(part("t" + std::to_string(type), mole::GgufType(type), 256, 2));
  add({printed(all, true)});
}

void test_gguf_tokenizer(const std::vector<std::string>& parts) {
  const auto path = folder() / "t.gguf";
  write_bytes(path, parts[0]);
  accepts([&] {
    const auto tokenizer = mole::read_gguf_tokenizer(mole::GgufFile(path));
    use_tokenizer(*tokenizer, plain_text(parts[1]));
  });
}

void seed_gguf_tokenizer(const Add& add) {
  const std::string key = "tokenizer.ggml.", mark = "\xE2\x96\x81";
  const std::string text = "\"ab a the  b\\u00e9 1234 <s>\"";
  for (const char* pre : {"gpt-2", "llama-bpe", "qwen2", "smollm"}) {
    GgufTree tree;
    tree.text(key + "model", "gpt2");
    tree.text(key + "pre", pre);
    tree.texts(key + "tokens", {"a", "b", "t", "h", "e", "th", "the", "\xC4\xA0", "\xC4\xA0t", "\xC4\xA0th",
                                "1", "12", "\xC3\x83", "\xC2\xA9", "<s>", "</s>"});
    tree.numbers<std::int32_t>(key + "token_type", 5, {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 3, 4});
    tree.texts(key + "merges", {"t h", "th e", "\xC4\xA0 t", "\xC4\xA0t h", "1 2"});
    tree.number(key + "bos_token_id", 14);
    tree.number(key + "eos_token_id", 15);
    tree.flag(key + "add_bos_token", true);
    tree.flag(key + "add_eos_token", true);
    add({printed(tree, true), text});
  }
  GgufTree scored;
  scored.text(key + "model", "llama");
  scored.texts(key + "tokens",
               {"<unk>", "<s>", "</s>", "<0x41>", mark, "t", "h", "e", "th", "the", mark + "the", "a"});
  scored.numbers<float>(key + "scores", 6, {0, 0, 0, 0, -9, -6, -7, -8, -1, -2, -3, -5});
  scored.numbers<std::int32_t>(key + "token_type", 5, {2, 3, 3, 6, 1, 1, 1, 1, 1, 1, 1, 1});
  scored.number(key + "unknown_token_id", 0);
  scored.number(key + "bos_token_id", 1);
  scored.flag(key + "add_space_prefix", true);
  add({printed(scored, true), text});
  scored.entries[1].values.resize(3);
  scored.entries[2].values.resize(3);
  scored.entries[3].values.resize(3);
  for (int byte = 0; byte < 256; ++byte) {
    char spelling[8];
    std::snprintf(spelling, sizeof spelling, "<0x%02X>", static_cast<unsigned>(byte));
    scored.entries[1].values.push_back(raw_text(spelling));
    scored.entries[2].values.push_back(raw(0.0F));
    scored.entries[3].values.push_back(raw(std::int32_t{6}));
  }
  add({printed(scored, true), text});
}

}  // namespace

std::vector<Target> gguf_targets() {
  return {{"gguf", {Part::gguf}, test_gguf, seed_gguf},
          {"gguf_tokenizer", {Part::gguf, Part::json}, test_gguf_tokenizer, seed_gguf_tokenizer}};
}

}  // namespace mole_fuzz
