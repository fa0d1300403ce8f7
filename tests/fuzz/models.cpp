// Readers that know models and adapters: T5 folders, PEFT adapters, gates of every router.

#include <cmath>
#include <cstdint>
#include <map>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include <mole/backends/cpu.hpp>
#include <mole/io/gates.hpp>
#include <mole/io/lora_set.hpp>
#include <mole/io/peft.hpp>
#include <mole/io/save_lora_set.hpp>
#include <mole/models/t5/checkpoint.hpp>

#include "harness.hpp"

namespace mole_fuzz {

namespace {

using mole::Index;
using mole::Shape;
using Model = mole::T5<float, mole::Cpu>;
using Ids = mole::Tensor<Index, mole::Cpu>;
using Add = std::function<void(const std::vector<std::string>&)>;

mole::T5Config tiny_config() {
  mole::T5Config config;
  config.vocab_size = 11;
  config.d_model = 6;
  config.d_kv = 3;
  config.d_ff = 7;
  config.num_heads = 2;
  config.num_layers = config.num_decoder_layers = 1;
  config.relative_attention_num_buckets = 8;
  config.relative_attention_max_distance = 16;
  return config;
}

Model tiny_model(const mole::T5Config& config) {
  Model model(config);
  mole::Generator generator{42};
  model.initialize(generator);
  return model;
}

std::vector<std::vector<float>> weights(Model& model) {
  std::vector<std::vector<float>> list;
  model.visit([&](const std::string&, const Shape&, mole::Tensor<float, mole::Cpu>& tensor) {
    list.push_back(tensor.to_host());
  });
  return list;
}

bool all_finite(const std::vector<std::vector<float>>& list) {
  for (const auto& one : list)
    for (const float value : one)
      if (!std::isfinite(value)) return false;
  return true;
}

mole::T5Batch<float, mole::Cpu> small_batch() {
  return {Ids::from({1, 3}, {1, 2, 0}), {}, Ids::from({1, 2}, {2, 1})};
}

float loss(const Model& model) {
  const mole::NoGrad off;
  mole::MolePass<float, mole::Cpu> pass;
  return model.loss(small_batch(), pass).item();
}

void test_t5(const std::vector<std::string>& parts) {
  const auto from = folder() / "t5", to = folder() / "t5-again";
  write_model(from, parts);
  accepts([&] {
    std::vector<std::string> warnings;
    auto model = mole::load_t5<float, mole::Cpu>(from, &warnings);
    for (const auto& warning : warnings) check_message(warning);
    if (model.config().vocab_size >= 3) loss(model);
    const auto before = weights(model);
    const bool finite = all_finite(before);
    accepts([&] {
      mole::save_t5(to, model, mole::Dtype::F32);
      auto copy = mole::load_t5<float, mole::Cpu>(to);
      require(!finite || weights(copy) == before, "other weights after a round trip");
      require(mole::t5_config_json(copy.config()) == mole::t5_config_json(model.config()),
              "another configuration after a round trip");
      require(copy.config().generation_tokens() == model.config().generation_tokens(),
              "other tokens of generation after a round trip");
    });
  });
}

void seed_t5(const Add& add) {
  const auto path = folder() / "seed-t5";
  auto gated = tiny_config();
  auto tied = tiny_config();
  tied.gated = false;
  tied.activation = "relu";
  tied.tie_word_embeddings = tied.scale_decoder_outputs = true;
  for (const auto& config : {gated, tied}) {
    auto model = tiny_model(config);
    mole::save_t5(path, model, mole::Dtype::F32);
    add({read_bytes(path / "config.json"),
         R"({"eos_token_id":[1,2],"pad_token_id":0,"decoder_start_token_id":0,"num_beams":2})",
         read_bytes(path / "model.safetensors")});
    // As other programs write it: nothing ties the two files to each other.
    const mole::SafetensorsFile own(path / "model.safetensors");
    mole::SafetensorsWriter plain;
    for (const auto& name : own.names())
      plain.add(name, mole::Dtype::BF16, own.at(name).shape, own.read<float>(name));
    plain.write(path / "model.safetensors");
    add({read_bytes(path / "config.json"), "", read_bytes(path / "model.safetensors")});
  }
}

void test_peft(const std::vector<std::string>& parts) {
  const auto from = folder() / "adapter", to = folder() / "adapter-again";
  write_bytes(from / "adapter_config.json", parts[0]);
  write_bytes(from / "adapter_model.safetensors", parts[1]);
  accepts([&] {
    const auto adapter = mole::load_adapter(from);
    for (const auto& warning : adapter.warnings) check_message(warning);
    const auto set = mole::lora_set(adapter);
    bool finite = true;
    for (const auto& slot : set.slots) {
      const auto factors = set.factors(slot);
      require(std::isfinite(factors.scale), "a scale that is not finite");
      for (const auto* values : {&factors.A, &factors.B})
        for (const double value : *values) finite = finite && std::isfinite(value);
    }
    if (!finite) return;
    accepts_or<mole::ArgumentError>([&] {
      mole::save_lora_set<double>(to, set, adapter.config, mole::Dtype::F64);
      const auto copy = mole::lora_set(mole::load_adapter(to));
      require(copy.slots == set.slots, "other slots after a round trip");
      for (const auto& slot : set.slots) {
        const auto a = set.factors(slot), b = copy.factors(slot);
        require(a.A == b.A && a.B == b.B && a.rank == b.rank, "other factors after a round trip");
        require(std::abs(a.scale - b.scale) <= 1e-12 * std::abs(a.scale), "another scale after a round trip");
      }
    });
  });
}

mole::LoraSet random_set(const Model& model, const std::string& name, std::size_t every) {
  mole::LoraSet set{name, name + "'s digest", {}, {}};
  std::map<std::string, mole::LoraFactors> factors;
  mole::Generator generator{every};
  const auto& slots = model.layers().table.slots;
  for (std::size_t i = 0; i < slots.size(); i += every) {
    const Index in = slots[i].shape[1], out = slots[i].shape[0], rank = 2;
    using Matrix = mole::Tensor<double, mole::Cpu>;
    set.slots.push_back(slots[i].name);
    factors[slots[i].name] = {rank,
                              in,
                              out,
                              0.5,
                              Matrix::randn({rank, in}, generator.next()).to_host(),
                              Matrix::randn({out, rank}, generator.next()).to_host()};
  }
  set.factors = [factors](const std::string& slot) { return factors.at(slot); };
  return set;
}

void seed_peft(const Add& add) {
  const auto path = folder() / "seed-adapter";
  const auto model = tiny_model(tiny_config());
  for (const std::size_t every : {std::size_t{1}, std::size_t{3}}) {
    mole::save_lora_set<float>(path, random_set(model, "seed", every));
    add({read_bytes(path / "adapter_config.json"), read_bytes(path / "adapter_model.safetensors")});
  }
  const mole::SafetensorsFile own(path / "adapter_model.safetensors");
  mole::SafetensorsWriter plain;
  plain.metadata("format", "pt");
  for (const auto& name : own.names())
    plain.add(name, mole::Dtype::F16, own.at(name).shape, own.read<float>(name));
  plain.write(path / "adapter_model.safetensors");
  add({R"x({"peft_type":"LORA","r":2,"lora_alpha":4,"use_rslora":true,"target_modules":".*\\.(q|k|v|o|wi_0|wo)",)x"
       R"("rank_pattern":{"SelfAttention.q":2},"alpha_pattern":{"^encoder.*":3.5},"bias":"none",)"
       R"("init_lora_weights":"gaussian","task_type":"SEQ_2_SEQ_LM","fan_in_fan_out":false})",
       read_bytes(path / "adapter_model.safetensors")});
}

struct World {
  Model model;
  std::vector<mole::LoraSet> adapters;
};

World& world() {
  static World* const made = [] {
    auto model = tiny_model(tiny_config());
    std::vector<mole::LoraSet> adapters{random_set(model, "all", 1), random_set(model, "some", 2),
                                        random_set(model, "few", 5)};
    return new World{std::move(model), std::move(adapters)};
  }();
  return *made;
}

void test_gates(const std::vector<std::string>& parts) {
  const auto path = folder() / "gates", again = folder() / "gates-again";
  write_bytes(path, parts[0]);
  auto& model = world().model;
  const auto& adapters = world().adapters;
  accepts_or<mole::ArgumentError>([&] {
    const auto file = mole::read_gates(path);
    mole::attach_gates(model, adapters, file);
    accepts_or<mole::ShapeError>([&] { loss(model); });  // a gate of flatten pooling asks for its length
    mole::save_gates(again, model.mixer());
    const auto copy = mole::read_gates(again);
    require(copy.options.index() == file.options.index(), "another router after a round trip");
    std::vector<std::vector<float>> before, after;
    for (const auto& tensor : model.mixer().tensors()) before.push_back(tensor.to_host());
    mole::attach_gates(model, adapters, copy);
    for (const auto& tensor : model.mixer().tensors()) after.push_back(tensor.to_host());
    require(before == after, "other gates after a round trip");
  });
  model.detach();
}

void seed_gates(const Add& add) {
  using namespace mole;
  const auto path = folder() / "seed-gates";
  auto& model = world().model;
  const auto& adapters = world().adapters;
  const std::vector<RouterOptions> routers{
      GateOptions{.scope = Scope::block, .pooling = Pooling::token, .top_k = 2},
      GateOptions{.scope = Scope::network, .input = GateInput::hidden},
      GateOptions{.scope = Scope::matrix, .pooling = Pooling::flatten, .length = 3},
      GateOptions{.scope = Scope::block, .input_scale = InputScale::standardised},
      GateOptions{.scope = Scope::network, .pooling = Pooling::token, .input_scale = InputScale::common},
      ArrowOptions{.top_k = 2, .temperature = 0.7},
      XLoraOptions{.scope = Scope::layer, .depth = 2, .width = 4, .top_k = 2, .weight = 1.5},
      XLoraOptions{.scope = Scope::network, .pooling = Pooling::mean, .softmax = false}};
  for (const auto& router : routers) {
    model.attach(adapters, router);
    const auto* gate = std::get_if<GateOptions>(&router);
    if (gate && gate->input_scale != InputScale::unit)
      model.standardise_gates({small_batch(), small_batch()});
    save_gates(path, model.mixer());
    add({read_bytes(path)});
  }
  model.detach();
}

}  // namespace

std::vector<Target> model_targets() {
  return {{"t5", {Part::json, Part::json, Part::safetensors}, test_t5, seed_t5},
          {"peft", {Part::json, Part::safetensors}, test_peft, seed_peft},
          {"gates", {Part::safetensors}, test_gates, seed_gates}};
}

}  // namespace mole_fuzz
