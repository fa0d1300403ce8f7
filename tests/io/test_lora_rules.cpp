#include <doctest/doctest.h>

#include <string>
#include <utility>
#include <vector>

#include <mole/io/peft.hpp>

#include "io/adapters.hpp"
#include "io/folder.hpp"
#include "io/limits.hpp"

using namespace mole;
using namespace io_test;

namespace {

// What a program may say of an adapter: its slots and warnings.
std::string told(const std::filesystem::path& folder) {
  const auto adapter = load_adapter(folder);
  std::string text = std::to_string(adapter.entries.size()) + " slots";
  for (const auto& warning : adapter.warnings) text += "; " + warning;
  return text;
}

}  // namespace

TEST_CASE("Adapters whose patterns only Python's re knows load as PEFT loads them") {
  for (const auto& row : std::vector<std::pair<std::string, int>>{{"inline_flag", 4},
                                                                  {"lookbehind", 8},
                                                                  {"named_group", 6},
                                                                  {"end_anchor", 2},
                                                                  {"rank_lookbehind", 12}}) {
    const auto& name = row.first;
    const int slots = row.second;
    CAPTURE(name);
    CHECK(told(case_of("python-regex/" + name)) == std::to_string(slots) + " slots");
  }
}

TEST_CASE(
    "A pattern that cannot be read is a warning where a check needs it and an error where the scale does") {
  const Folder folder;
  const auto with = [&](const char* field, const Json& value) {
    Json config = config_json();
    config[field] = value;
    write_adapter(folder / "x", config, pair_of(slot));
  };
  for (const std::string pattern : {"(q)\\1", "(?>q)", "q{40000}", "(?x) q"}) {
    CAPTURE(pattern);
    with("target_modules", pattern);
    CHECK(mentions(told(folder / "x"),
                   {"1 slots", "adapter_config.json", "target_modules '" + pattern, "not checked"}));
    with("rank_pattern", {{pattern, 7}});
    CHECK(mentions(told(folder / "x"), {"1 slots", "rank_pattern '" + pattern, "not checked"}));
    with("alpha_pattern", {{pattern, 7}});
    CHECK(mentions(error_of([&] { load_adapter(folder / "x"); }),
                   {"adapter_config.json", "alpha_pattern '" + pattern, "changes the scale"}));
  }
  for (const char* field : {"rank_pattern", "alpha_pattern"}) {
    with(field, {{"(q", 2}});
    CHECK(mentions(error_of([&] { load_adapter(folder / "x"); }), {field, "'(q'", "no regular expression"}));
  }
  with("target_modules", "(q");
  CHECK(mentions(error_of([&] { load_adapter(folder / "x"); }), {"target_modules", "no regular expression"}));
  // What comes before the pattern that is not read still counts.
  with("rank_pattern", {{"q", 3}, {"(q)\\1", 2}});
  CHECK(mentions(error_of([&] { load_adapter(folder / "x"); }), {"has rank 2", "says 3"}));
}

TEST_CASE("target_modules is all-linear in any case of letters") {
  LoraConfig config;
  for (const char* text : {"all-linear", "All-Linear"}) {
    config.target_regex = text;
    CHECK(is_target(config, "anything"));
  }
  config.target_regex = "all_linear";
  CHECK_FALSE(is_target(config, "anything"));
}

TEST_CASE("An adapter with a rank and an alpha of its own for each of 432 matrices loads at once") {
  const Folder folder;
  Json config = config_json();
  std::vector<Matrix> matrices;
  std::vector<std::pair<std::string, Index>> slots;
  for (const std::string half : {"encoder", "decoder"})
    for (int block = 0; block < 36; ++block)
      for (const std::string end :
           {"layer.0.SelfAttention.q", "layer.0.SelfAttention.k", "layer.0.SelfAttention.v",
            "layer.0.SelfAttention.o", "layer.1.DenseReluDense.wi", "layer.1.DenseReluDense.wo"})
        slots.emplace_back(half + ".block." + std::to_string(block) + "." + end,
                           1 + static_cast<int>(slots.size()) % 5);
  for (const auto& [name, rank] : slots) {
    config["rank_pattern"][name] = rank;
    config["alpha_pattern"][name] = 3 * rank;
    for (const auto& matrix : pair_of(name, rank)) matrices.push_back(matrix);
  }
  config["target_modules"] = {"q", "k", "v", "o", "wi", "wo"};
  write_adapter(folder / "x", config, matrices);
  const auto said = limited([&] {
    const auto adapter = load_adapter(folder / "x");
    for (const auto& [name, rank] : slots)
      if (adapter.entries.at(name).rank != rank || adapter.entries.at(name).scale != 3) return name;
    return std::to_string(adapter.entries.size()) + " slots, " + std::to_string(adapter.warnings.size()) +
           " warnings";
  });
  CHECK(said == "432 slots, 0 warnings");
}

TEST_CASE("Hostile patterns cost neither the stack nor time nor memory") {
  const Folder folder;
  const auto with = [&](const char* field, const Json& value,
                        const std::vector<Matrix>& matrices = pair_of(slot)) {
    Json config = config_json();
    config[field] = value;
    write_adapter(folder / "x", config, matrices);
    return limited([&] { return told(folder / "x"); });
  };
  const std::string deep = std::string(30'000, '(') + std::string(30'000, ')');
  CHECK(mentions(with("target_modules", deep), {"1 slots", "target_modules", "60000 bytes"}));
  CHECK(mentions(with("rank_pattern", {{deep, 1}}), {"1 slots", "rank_pattern", "60010 bytes"}));
  CHECK(mentions(with("alpha_pattern", {{deep, 1}}), {"Error", "alpha_pattern", "60010 bytes"}));
  for (const char* field : {"target_modules", "rank_pattern", "alpha_pattern"}) {
    const Json pattern = std::string(field) == "target_modules" ? Json("(a+)+b") : Json{{"(a+)+b", 1}};
    CHECK(mentions(with(field, pattern, pair_of(std::string(400, 'a'))), {"1 slots"}));
  }
  // Many patterns that take long to match, and many slots to match them with.
  Json many = Json::object();
  for (int i = 0; i < 900; ++i) many["(.?){300}(" + std::to_string(i) + "|a*)"] = 2;
  std::vector<Matrix> slots;
  for (int i = 0; i < 200; ++i)
    for (const auto& matrix : pair_of(std::string(300, 'a') + std::to_string(i))) slots.push_back(matrix);
  CHECK(mentions(with("rank_pattern", many, slots), {"200 slots", "too long to match"}));
  CHECK(mentions(with("alpha_pattern", many, slots), {"Error", "alpha_pattern", "too long to match"}));
  Json short_ones = Json::object();
  for (int i = 0; i < 10'001; ++i) short_ones[std::to_string(i)] = 2;
  CHECK(mentions(with("rank_pattern", short_ones), {"Error", "rank_pattern", "10000"}));
}

TEST_CASE("An output layer that is adapted or saved whole is named") {
  CHECK(mentions(error_of([] { load_adapter(case_of("with-lm-head/adapter")); }),
                 {"lm_head.base_layer.weight", "'lm_head'", "train the adapter without"}));
  CHECK(mentions(error_of([] { load_adapter(case_of("with-lm-head/saved_embedding")); }),
                 {"lm_head.weight", "save_embedding_layers=False"}));
}

TEST_CASE("An alpha or factors that no training gives are refused") {
  const Folder folder;
  const auto refusal_of = [&](const char* field, const Json& value, double weight) {
    Json config = config_json();
    config[field] = value;
    write_adapter(folder / "x", config, pair_of(slot), Dtype::F64, weight);
    return error_of([&] { load_adapter(folder / "x"); });
  };
  CHECK(mentions(refusal_of("lora_alpha", 1e300, 1), {"adapter_config.json", "lora_alpha", "1e+300", "1e9"}));
  CHECK(mentions(refusal_of("lora_alpha", -2e9, 1), {"lora_alpha"}));
  CHECK(mentions(refusal_of("alpha_pattern", {{"q", 1e300}}, 1), {"alpha_pattern 'q'", "1e+300"}));
  CHECK(refusal_of("lora_alpha", -1e9, 1).empty());
  CHECK(
      mentions(refusal_of("r", 2, 1e200), {"adapter_model.safetensors", slot + ".lora_A.weight", "1e+200"}));
  CHECK(mentions(refusal_of("r", 2, 1e60),
                 {"adapter_model.safetensors", slot, "changes the weight", "1e+100"}));
  CHECK(refusal_of("r", 2, 1e30).empty());

  LoraConfig config;
  config.rank = 1;
  config.alpha = 1e300;
  const std::vector<HostLora<float>> entries{{"q", 1, 1, 1, {1}, {1}}};
  CHECK_THROWS_AS(save_adapter(folder / "y", config, entries, Dtype::F32), ArgumentError);
  config.alpha = 1;
  config.alpha_pattern = {{"q", 1e300}};
  CHECK_THROWS_AS(save_adapter(folder / "y", config, entries, Dtype::F32), ArgumentError);
  config.alpha_pattern = {{"(q", 1}};
  CHECK_THROWS_AS(save_adapter(folder / "y", config, entries, Dtype::F32), ArgumentError);
  CHECK_FALSE(std::filesystem::exists(folder / "y"));
}
