// Which folders and files decoder-only models are loaded from, and which are refused.

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <string>

#include <doctest/doctest.h>
#include <nlohmann/json.hpp>

#include <mole/backends/cpu.hpp>
#include <mole/io/gates.hpp>
#include <mole/io/lora_set.hpp>
#include <mole/io/safetensors.hpp>
#include <mole/models/causal/load.hpp>
#include <mole/models/llama/config_file.hpp>

#include "io/folder.hpp"

using namespace mole;
using namespace io_test;

namespace {

/// A copy of a golden's base, whose config.json may be changed.
struct Base {
  Folder folder;
  Json config;

  explicit Base(const std::string& name) {
    std::filesystem::copy(io_test::golden("lm/" + name + "/base"), folder.path,
                          std::filesystem::copy_options::recursive);
    for (const auto& entry : std::filesystem::directory_iterator(folder.path))
      std::filesystem::permissions(entry.path(), std::filesystem::perms::owner_all);
    config = Json::parse(read_text(folder / "config.json"));
  }
  /// The message of the refusal with these fields; null removes one.
  std::string refusal(const Json& fields) const {
    auto changed = config;
    for (const auto& [key, value] : fields.items()) {
      changed[key] = value;
      if (value == "REMOVED") changed.erase(key);
    }
    write_text(folder / "config.json", changed.dump());
    return error_of([&] { load_causal<float, Cpu>(folder.path); });
  }
};

}  // namespace

TEST_CASE("A model is found by its model_type, and one that is not known is refused with those that are") {
  const Base base("llama");
  CHECK(base.refusal({}).empty());
  CHECK(mentions(base.refusal({{"model_type", "phi3"}}),
                 {"config.json", "'phi3'", "gemma, llama, mistral, opt"}));
  CHECK(mentions(base.refusal({{"model_type", "gemma2"}}), {"'gemma2'"}));
  CHECK(mentions(base.refusal({{"model_type", "REMOVED"}}), {"model_type"}));
}

TEST_CASE("What a Llama's configuration cannot mean is refused by field") {
  const Base base("llama");
  const auto rope = [](const Json& fields) { return Json{{"rope_parameters", fields}}; };
  CHECK(mentions(base.refusal({{"quantization_config", {{"quant_method", "gptq"}}}}), {"'gptq'", "GGUF"}));
  CHECK(mentions(base.refusal(rope({{"rope_type", "yarn"}, {"factor", 2}})), {"'yarn'", "llama3"}));
  CHECK(mentions(base.refusal(rope({{"rope_type", "linear"}})), {"factor"}));
  CHECK(mentions(base.refusal(rope({{"rope_type", "linear"}, {"factor", 0}})), {"factor"}));
  CHECK(mentions(base.refusal({{"partial_rotary_factor", 0.5}}), {"partial_rotary_factor"}));
  CHECK(mentions(base.refusal({{"hidden_size", "REMOVED"}}), {"hidden_size", "missing"}));
  CHECK(mentions(base.refusal({{"hidden_size", -1}}), {"hidden_size"}));
  CHECK(mentions(base.refusal({{"num_key_value_heads", 3}}), {"num_key_value_heads", "3"}));
  CHECK(mentions(base.refusal({{"head_dim", 11}}), {"head_dim", "11"}));
  CHECK(mentions(base.refusal({{"head_dim", 1 << 30}}), {"head_dim", "65536"}));
  CHECK(mentions(base.refusal({{"hidden_act", "mish"}}), {"hidden_act", "'mish'"}));
  CHECK(mentions(base.refusal({{"eos_token_id", 96}}), {"eos_token_id", "96"}));
  CHECK(mentions(base.refusal({{"num_hidden_layers", 3}}), {"model.layers.2", "missing"}));
  CHECK(mentions(base.refusal({{"num_hidden_layers", 1}}), {"model.layers.1", "no place"}));
  CHECK(mentions(base.refusal({{"vocab_size", 97}}), {"embed_tokens", "[97, 40]"}));
  CHECK(mentions(base.refusal({{"hidden_size", 1 << 30}, {"num_attention_heads", 1 << 29}, {"head_dim", 12}}),
                 {"at most"}));
}

TEST_CASE("Of rope_parameters and rope_scaling the latter counts, as in transformers 5, unless it is empty") {
  const Base base("llama");
  const auto read = [&](const Json& fields) {
    const auto refused = base.refusal(fields);
    CAPTURE(refused);
    CHECK(refused.empty());
    return read_llama_config(base.folder / "config.json");
  };
  const Json now{{"rope_type", "linear"}, {"factor", 2}, {"rope_theta", 500}};
  const Json old{{"rope_type", "linear"}, {"factor", 4}};
  const auto both = read({{"rope_theta", 7}, {"rope_parameters", now}, {"rope_scaling", old}});
  CHECK(both.rope_scaling.factor == 4);
  CHECK(both.rope_theta == 7);
  CHECK(read({{"rope_theta", "REMOVED"}, {"rope_parameters", now}, {"rope_scaling", old}}).rope_theta ==
        10000);
  for (const auto& none : {Json(nullptr), Json::object()}) {
    const auto one = read({{"rope_parameters", now}, {"rope_scaling", none}});
    CHECK(one.rope_scaling.factor == 2);
    CHECK(one.rope_theta == 500);
  }
}

TEST_CASE("A number of rotary embeddings that is out of range is refused with the whole range") {
  const Base base("llama");
  for (const double value : {0.0, -1.0, 1e300})
    CHECK(mentions(base.refusal({{"rope_parameters", {{"rope_theta", value}}}}),
                   {"rope_theta", "above 0 and below 1e+15"}));
}

TEST_CASE("All tensors that do not fit a configuration are listed, and none is read") {
  const auto faults = [](const char* name, const Json& fields) {
    const Base base(name);
    base.refusal(fields);
    return causal_faults<float, Cpu>(base.folder.path);
  };
  for (const char* name : {"llama", "mistral", "qwen2", "qwen3", "opt_pre", "opt_post"}) {
    CAPTURE(name);
    CHECK(faults(name, {}).empty());
  }
  // A block more: each of its nine tensors is missing.
  const auto missing = faults("llama", {{"num_hidden_layers", 3}});
  REQUIRE(missing.size() == 9);
  for (const auto& fault : missing) CHECK(mentions(fault, {"model.layers.2", "missing"}));
  const auto left = faults("llama", {{"num_hidden_layers", 1}});
  REQUIRE(left.size() == 9);
  for (const auto& fault : left) CHECK(mentions(fault, {"model.layers.1", "no place"}));
  const auto table = faults("llama", {{"vocab_size", 97}});
  REQUIRE(!table.empty());
  CHECK(mentions(table.front(), {"embed_tokens", "[97, 40]"}));
  const auto positions = faults("opt_pre", {{"max_position_embeddings", 39}});
  REQUIRE(positions.size() == 1);
  CHECK(mentions(positions.front(), {"embed_positions", "[41, 40]"}));
  CHECK(mentions(error_of([&] { faults("llama", {{"model_type", "phi3"}}); }), {"'phi3'", "gemma, llama"}));
  CHECK(causal_faults<float, Cpu>(io_test::golden("lm/llama.gguf")).empty());
}

TEST_CASE("What an OPT's configuration cannot mean is refused by field") {
  const Base base("opt_pre");
  CHECK(base.refusal({}).empty());
  CHECK(mentions(base.refusal({{"enable_bias", false}}), {"enable_bias"}));
  CHECK(mentions(base.refusal({{"num_attention_heads", 7}}), {"num_attention_heads"}));
  CHECK(mentions(base.refusal({{"activation_function", "mish"}}), {"'mish'"}));
  CHECK(mentions(base.refusal({{"max_position_embeddings", 39}}), {"embed_positions", "[41, 40]"}));
}

TEST_CASE("generation_config.json has the last word on the tokens that end a text") {
  const Base base("llama");
  write_text(
      base.folder / "generation_config.json",
      R"({"eos_token_id": [5, 6], "bos_token_id": 7, "do_sample": true, "temperature": 0.6, "top_p": 0.9})");
  const auto model = load_causal<float, Cpu>(base.folder.path);
  CHECK(model->config().eos_token_ids == std::vector<Index>{5, 6});
  CHECK(model->config().bos_token_id == 7);
  CHECK(model->config().pad_token_id == 0);
  const auto options = read_generation_options(base.folder / "generation_config.json");
  CHECK(options.sampling.draw);
  CHECK(options.sampling.temperature == 0.6);
  CHECK(options.sampling.top_k == 50);
  CHECK(options.sampling.top_p == 0.9);
  write_text(base.folder / "generation_config.json", R"({"eos_token_id": 96})");
  CHECK(mentions(error_of([&] { load_causal<float, Cpu>(base.folder.path); }),
                 {"generation_config", "eos_token_id"}));
  write_text(base.folder / "generation_config.json", R"({"do_sample": true, "temperature": 0})");
  CHECK(mentions(error_of([&] { read_generation_options(base.folder / "generation_config.json"); }),
                 {"generation_config", "temperature"}));
}

TEST_CASE("A head beside a tied table counts where it differs, and is told") {
  const Base base("llama");
  std::vector<std::string> warnings;
  const auto tied = [&] {
    auto config = base.config;
    config["tie_word_embeddings"] = true;
    write_text(base.folder / "config.json", config.dump());
  };
  const auto own = load_causal<float, Cpu>(base.folder.path)->head().dense().to_host();
  tied();
  const auto model = load_causal<float, Cpu>(base.folder.path, &warnings);
  CHECK(model->head().dense().to_host() == own);
  REQUIRE(warnings.size() == 1);
  CHECK(mentions(warnings[0], {"lm_head.weight", "other numbers"}));
}

TEST_CASE("An adapter for another place than a linear layer of a block is refused by its name") {
  const auto model = load_causal<float, Cpu>(io_test::golden("lm/llama/base"));
  for (const std::string name : {"emb", "head", "dora", "bias"}) {
    CAPTURE(name);
    const auto why = error_of([&] {
      model->attach({lora_set(load_adapter(io_test::golden("lm/llama_embeddings/adapter_" + name)))},
                    GateOptions{});
    });
    CHECK(!why.empty());
    if (name == "emb") CHECK(why.find("embed") != why.npos);
    if (name == "head") CHECK(why.find("lm_head") != why.npos);
    if (name == "dora") CHECK(why.find("dora") != why.npos);
  }
}

TEST_CASE("Saved gates restore a decoder-only model as it was, on its GGUF file too") {
  const Folder folder;
  std::vector<LoraSet> sets;
  for (const std::string name : {"a", "b"})
    sets.push_back(lora_set(load_adapter(io_test::golden("lm/llama/adapter_" + name))));
  const auto batch = CausalBatch<float, Cpu>::prompts(
      TokenBatch<float, Cpu>::unpadded(Tensor<Index, Cpu>::from({1, 4}, {5, 6, 7, 8})));
  const auto model = load_causal<float, Cpu>(io_test::golden("lm/llama/base"));
  model->attach(sets, GateOptions{.scope = Scope::layer});
  std::uint64_t stream = 0;
  for (const auto& placed : model->mixer().gates())
    placed.gate.weight.assign(Tensor<float, Cpu>::randn(placed.gate.weight.shape(), {3, stream++}));
  save_gates(folder / "gates.safetensors", model->mixer());
  MolePass<float, Cpu> pass;
  const auto expected = model->logits(batch, pass).to_host();
  for (const char* base : {"lm/llama/base", "lm/llama.gguf"}) {
    const auto other = load_causal<float, Cpu>(io_test::golden(base));
    attach_gates(*other, sets, read_gates(folder / "gates.safetensors"));
    MolePass<float, Cpu> own;
    const auto found = other->logits(batch, own).to_host();
    for (std::size_t i = 0; i < found.size(); ++i)
      CHECK(found[i] == doctest::Approx(expected[i]).epsilon(1e-4));
  }
}

TEST_CASE("A GGUF file whose metadata and tensors do not fit together is refused") {
  const Folder folder;
  const auto bytes = read_text(io_test::golden("lm/llama.gguf"));
  const auto changed = [&](const std::string& from, const std::string& to) {
    auto spoilt = bytes;
    const auto at = spoilt.find(from);
    REQUIRE(at != spoilt.npos);
    spoilt.replace(at, from.size(), to);
    write_text(folder / "x.gguf", spoilt);
    return error_of([&] { load_causal<float, Cpu>(folder / "x.gguf"); });
  };
  CHECK(changed("general.architecture", "general.architecture").empty());
  CHECK(mentions(changed("llama.block_count", "llama.block_ccunt"), {"llama.block_count", "missing"}));
  CHECK(mentions(changed("blk.1.ffn_up.weight", "blk.1.ffn_ub.weight"), {"blk.1.ffn_up.weight"}));
  CHECK(mentions(changed("rope_freqs.weight", "rope_frebs.weight"), {"rope_frebs.weight", "no place"}));
}

TEST_CASE("Sizes in a GGUF file whose product no memory holds are refused before anything is made of them") {
  const Folder folder;
  auto bytes = read_text(io_test::golden("lm/llama.gguf"));
  const auto set = [&](const std::string& key, std::uint32_t value) {
    const auto at = bytes.find(key);
    REQUIRE(at != bytes.npos);
    // Its type stands between.
    std::memcpy(bytes.data() + at + key.size() + 4, &value, 4);
    write_text(folder / "x.gguf", bytes);
    return error_of<FormatError>([&] { load_causal<float, Cpu>(folder / "x.gguf"); });
  };
  CHECK(mentions(set("llama.attention.key_length", 1U << 30U), {"heads of", "65536"}));
  CHECK(set("llama.attention.key_length", 12).empty());
  CHECK(mentions(set("llama.feed_forward_length", 1U << 30U), {"has shape"}));
  CHECK(
      mentions(set("llama.embedding_length", 1U << 30U), {"x.gguf", "width x embedding_length", "at most"}));
}
