#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include <unistd.h>

#include <mole/io/peft.hpp>

#include "io/adapters.hpp"
#include "io/folder.hpp"
#include "io/limits.hpp"

using namespace mole;
using namespace io_test;

namespace {

double scale_of(const Folder& folder, const Json& changes, Index rank = 2) {
  Json config = config_json();
  config.update(changes);
  write_adapter(folder / "x", config, pair_of(slot, rank));
  const auto adapter = load_adapter(folder / "x");
  CHECK(adapter.entries.at(slot).rank == rank);
  return adapter.entries.at(slot).scale;
}

}  // namespace

TEST_CASE("The golden adapters that PEFT wrote are read") {
  for (const std::string model : {"t5_flan", "t5_v1"}) {
    for (const std::string which : {"adapter_a", "adapter_b", "adapter_c"}) {
      const auto folder = golden("hf/" + model + "/" + which);
      if (!std::filesystem::exists(folder)) continue;
      CAPTURE(folder);
      const auto adapter = load_adapter(folder);
      CHECK(adapter.name == which);
      CHECK(adapter.warnings.empty());
      CHECK(adapter.digest.size() == 16);
      CHECK(adapter.digest == load_adapter(folder / "").digest);
      CHECK(adapter.entries.size() >= 4);
      for (const auto& [name, entry] : adapter.entries) {
        CHECK(name == entry.slot);
        CHECK(entry.read_a<double>().size() == static_cast<std::size_t>(entry.rank * entry.d_in()));
        CHECK(entry.read_b<float>().size() == static_cast<std::size_t>(entry.rank * entry.d_out()));
      }
    }
    const auto a = load_adapter(golden("hf/" + model + "/adapter_a"));
    CHECK(a.entries.at(slot).rank == 4);
    CHECK(a.entries.at(slot).scale == 2);
    CHECK(a.entries.at(slot).d_in() == 48);
    CHECK(a.digest != load_adapter(golden("hf/" + model + "/adapter_b")).digest);
  }
}

TEST_CASE("Rank and scale follow alpha, rsLoRA and the first pattern that matches, in the file's order") {
  const Folder folder;
  CHECK(scale_of(folder, Json::object()) == 2);
  CHECK(scale_of(folder, {{"lora_alpha", 3.5}}) == 1.75);
  CHECK(scale_of(folder, {{"use_rslora", true}}) == doctest::Approx(4 / std::sqrt(2.0)));
  CHECK(scale_of(folder, {{"rank_pattern", {{"q", 8}}}}, 8) == 0.5);
  CHECK(scale_of(folder, {{"rank_pattern", {{"q", 8}}}, {"use_rslora", true}}, 8) ==
        doctest::Approx(4 / std::sqrt(8.0)));
  CHECK(scale_of(folder, {{"alpha_pattern", {{"SelfAttention.q", 32}}}}) == 16);
  CHECK(scale_of(folder, {{"alpha_pattern", {{"tention.q", 32}, {"Attention", 32}, {"encoder", 32}}}}) == 2);
  CHECK(scale_of(folder, {{"alpha_pattern", {{"^block.*", 32}}}}) == 2);
  CHECK(scale_of(folder, {{"alpha_pattern", {{"^encoder.*", 32}}}}) == 16);
  CHECK(scale_of(folder, {{"alpha_pattern", {{"layer\\.\\d+\\.SelfAttention\\.[qv]", 8}}}}) == 4);
  CHECK(scale_of(folder, {{"alpha_pattern", {{"v|q", 8}}}}) == 4);
  CHECK(scale_of(folder, {{"alpha_pattern", {{"q", 8}, {".*", 16}}}}) == 4);
  CHECK(scale_of(folder, {{"alpha_pattern", {{"z.*", 8}, {".*", 16}, {"q", 4}}}}) == 8);
}

TEST_CASE("fan_in_fan_out transposes neither factor") {
  const Folder folder;
  Json config = config_json();
  config["fan_in_fan_out"] = true;
  write_adapter(folder / "x", config, pair_of(slot));
  const auto entry = load_adapter(folder / "x").entries.at(slot);
  CHECK(entry.fan_in_fan_out);
  CHECK(entry.d_in() == 3);
  CHECK(entry.d_out() == 5);
}

TEST_CASE("Names with the adapter's own name in them are accepted, once") {
  const Folder folder;
  std::vector<Matrix> matrices{{"base_model.model." + slot + ".lora_A.default.weight", {2, 3}},
                               {"base_model.model." + slot + ".lora_B.default.weight", {5, 2}}};
  write_adapter(folder / "x", config_json(), matrices);
  CHECK(load_adapter(folder / "x", "own").name == "own");
  CHECK(load_adapter(folder / "x").entries.contains(slot));
  matrices.push_back({"base_model.model." + slot + ".lora_A.weight", {2, 3}});
  write_adapter(folder / "x", config_json(), matrices);
  CHECK(mentions(error_of([&] { load_adapter(folder / "x"); }),
                 {"adapter_model.safetensors", slot, "same factor"}));
}

TEST_CASE("Every option that would change the maths is refused by name") {
  const Folder folder;
  for (const auto& row :
       std::vector<std::pair<std::string, Json>>{{"use_dora", true},
                                                 {"lora_bias", true},
                                                 {"bias", "all"},
                                                 {"bias", "lora_only"},
                                                 {"modules_to_save", {"lm_head"}},
                                                 {"init_lora_weights", "pissa"},
                                                 {"init_lora_weights", "pissa_niter_16"},
                                                 {"init_lora_weights", "olora"},
                                                 {"init_lora_weights", "corda"},
                                                 {"init_lora_weights", "loftq"},
                                                 {"init_lora_weights", "lora_ga"},
                                                 {"init_lora_weights", "of_tomorrow"},
                                                 {"init_lora_weights", 3},
                                                 {"layer_replication", {{0, 4}, {2, 5}}},
                                                 {"target_parameters", {"experts.gate_up_proj"}},
                                                 {"alora_invocation_tokens", {1, 2}},
                                                 {"trainable_token_indices", {7}},
                                                 {"use_qalora", true},
                                                 {"use_bdlora", Json::object()},
                                                 {"arrow_config", {{"top_k", 2}}},
                                                 {"kasa_config", Json::object()},
                                                 {"monteclora_config", {{"num_samples", 4}}},
                                                 {"megatron_config", {{"x", 1}}},
                                                 {"peft_type", "ADALORA"}}) {
    const auto& field = row.first;
    const auto& value = row.second;
    CAPTURE(field);
    Json config = config_json();
    config[field] = value;
    write_adapter(folder / "x", config, pair_of(slot));
    const auto error = error_of([&] { load_adapter(folder / "x"); });
    CAPTURE(error);
    CHECK(mentions(error, {"adapter_config.json", field, value.dump()}));
  }
}

TEST_CASE("Options that leave a trained adapter plain are accepted") {
  const Folder folder;
  for (const auto& row : std::vector<std::pair<std::string, Json>>{{"init_lora_weights", "gaussian"},
                                                                   {"init_lora_weights", "eva"},
                                                                   {"init_lora_weights", "orthogonal"},
                                                                   {"init_lora_weights", false},
                                                                   {"modules_to_save", Json::array()},
                                                                   {"use_bdlora", nullptr},
                                                                   {"velora_config", {{"num_groups", 4}}},
                                                                   {"loftq_config", {{"loftq_bits", 4}}},
                                                                   {"lora_dropout", 0.1},
                                                                   {"layers_to_transform", {0, 1}},
                                                                   {"of_tomorrow", false}}) {
    const auto& field = row.first;
    const auto& value = row.second;
    CAPTURE(field);
    Json config = config_json();
    config[field] = value;
    write_adapter(folder / "x", config, pair_of(slot));
    CHECK(load_adapter(folder / "x").warnings.empty());
  }
}

TEST_CASE("An unknown option that is set, NaN weights and a slot that is no target are warned of") {
  const Folder folder;
  Json config = config_json();
  config["of_tomorrow"] = {{"on", true}};
  write_adapter(folder / "x", config, pair_of(slot), Dtype::F16, std::numeric_limits<double>::infinity());
  auto warnings = load_adapter(folder / "x").warnings;
  REQUIRE(warnings.size() == 3);
  CHECK(mentions(warnings[0], {"adapter_config.json", "of_tomorrow"}));
  CHECK(mentions(warnings[1], {"adapter_model.safetensors", "lora_A", "NaN"}));
  CHECK(mentions(warnings[2], {"lora_B"}));

  config = config_json();
  config["target_modules"] = "decoder.*";
  write_adapter(folder / "x", config, pair_of(slot));
  warnings = load_adapter(folder / "x").warnings;
  REQUIRE(warnings.size() == 1);
  CHECK(mentions(warnings[0], {slot, "target_modules"}));
  config["target_modules"] = "encoder.*\\.q";
  write_adapter(folder / "x", config, pair_of(slot));
  CHECK(load_adapter(folder / "x").warnings.empty());
}

TEST_CASE("Damaged adapters are refused with the file and what is wrong") {
  struct Row {
    const char* what;
    Json changes;
    std::vector<Matrix> matrices;
    std::vector<std::string> parts;
  };
  const auto good = pair_of(slot);
  const std::string prefix = "base_model.model." + slot;
  const auto with = [&](const Matrix& extra) {
    auto matrices = good;
    matrices.push_back(extra);
    return matrices;
  };
  const std::vector<Row> rows{
      {"empty", {}, {}, {"empty"}},
      {"only A", {}, {good[0]}, {slot, "A but no lora_B"}},
      {"only B", {}, {good[1]}, {slot, "B but no lora_A"}},
      {"ranks disagree", {}, {good[0], {prefix + ".lora_B.weight", {5, 4}}}, {slot, "[2, 3]", "[5, 4]"}},
      {"another rank than r", {{"r", 4}}, good, {slot, "rank 2", "says 4"}},
      {"another rank than the pattern", {{"rank_pattern", {{"q", 4}}}}, good, {slot, "rank 2", "says 4"}},
      {"a vector", {}, {{prefix + ".lora_A.weight", {2}}, good[1]}, {slot, "lora_A", "matrix"}},
      {"a convolution", {}, {{prefix + ".lora_A.weight", {2, 3, 1, 1}}, good[1]}, {slot, "linear"}},
      {"no features", {}, {{prefix + ".lora_A.weight", {2, 0}}, good[1]}, {slot, "[2, 0]"}},
      {"an embedding", {}, with({prefix + ".lora_embedding_A", {2, 3}}), {"lora_embedding_A", "embedding"}},
      {"DoRA's magnitude",
       {},
       with({prefix + ".lora_magnitude_vector", {5}}),
       {"lora_magnitude_vector", "DoRA"}},
      {"a bias", {}, with({prefix + ".lora_B.bias", {5}}), {"lora_B.bias", "no factor"}},
      {"a saved module",
       {},
       with({"base_model.model.lm_head.weight", {5, 5}}),
       {"lm_head.weight", "no factor"}},
      {"no prefix",
       {},
       with({"decoder.q.lora_A.weight", {2, 3}}),
       {"decoder.q.lora_A.weight", "base_model.model."}},
      {"no slot", {}, with({"base_model.model.lora_A.weight", {2, 3}}), {"no factor"}},
      {"an endless name",
       {},
       with({prefix + std::string(100'000, 'q') + ".lora_A.weight", {2, 3}}),
       {"longer than"}},
      {"r of zero", {{"r", 0}}, good, {"adapter_config.json", "r should", "0"}},
      {"r a real", {{"r", 2.5}}, good, {"r should", "2.5"}},
      {"alpha a text", {{"lora_alpha", "4"}}, good, {"lora_alpha"}},
      {"a flag as text", {{"use_rslora", "yes"}}, good, {"use_rslora"}},
      {"a pattern of texts", {{"rank_pattern", {{"q", "4"}}}}, good, {"rank_pattern 'q'"}},
      {"a pattern as list", {{"alpha_pattern", {1, 2}}}, good, {"alpha_pattern"}},
      {"a broken pattern", {{"rank_pattern", {{"(q", 4}}}}, good, {"adapter_config.json", "(q"}},
      {"targets of numbers", {{"target_modules", {1, 2}}}, good, {"target_modules"}}};
  const Folder folder;
  for (const auto& row : rows) {
    const auto& what = row.what;
    const auto& changes = row.changes;
    const auto& matrices = row.matrices;
    const auto& parts = row.parts;
    CAPTURE(what);
    Json config = config_json();
    config.update(changes.is_null() ? Json::object() : changes);
    write_adapter(folder / "x", config, matrices);
    const auto error = error_of([&] { load_adapter(folder / "x"); });
    CAPTURE(error);
    CHECK(mentions(error, {"adapter_"}));
    CHECK(mentions(error, parts));
  }
  write_adapter(folder / "x", config_json(), good, Dtype::I32);
  CHECK(mentions(error_of([&] { load_adapter(folder / "x"); }), {slot, "I32"}));
}

TEST_CASE("A folder that is no adapter is refused with what it lacks") {
  const Folder folder;
  const auto error = [&] { return error_of<Error>([&] { load_adapter(folder.path); }); };
  CHECK(mentions(error(), {folder.path.string(), "adapter_config.json"}));
  write_text(folder / "adapter_config.json", config_json().dump());
  CHECK(mentions(error(), {"no adapter_model.safetensors"}));
  write_text(folder / "adapter_model.bin", "");
  CHECK(mentions(error(), {"adapter_model.bin", "safetensors"}));
}

TEST_CASE("The digest tells adapters apart by weight, scale and slot") {
  const Folder folder;
  const auto digest = [&](double alpha, double weight, const std::string& name) {
    LoraConfig config;
    config.rank = 1;
    config.alpha = alpha;
    save_adapter<double>(folder / "x", config, {{name, 1, 1, 1, {weight}, {2}}}, Dtype::F64);
    return load_adapter(folder / "x").digest;
  };
  const auto first = digest(1, 1, "q");
  CHECK(digest(1, 1, "q") == first);
  CHECK(digest(2, 1, "q") != first);
  CHECK(digest(1, 1 + 1e-15, "q") != first);
  CHECK(digest(1, 1, "v") != first);
}

TEST_CASE("A loop of links and names that are too long are errors of the library, fit to print") {
  const Folder folder;
  std::filesystem::create_symlink("loop", folder / "loop");
  CHECK(mentions(error_of<Error>([&] { load_adapter(folder / "loop"); }), {"loop", "symbolic links"}));
  std::filesystem::create_directory(folder / "a");
  std::filesystem::create_symlink("adapter_config.json", folder / "a/adapter_config.json");
  CHECK(mentions(error_of<Error>([&] { load_adapter(folder / "a"); }),
                 {"adapter_config.json", "symbolic links"}));
  for (const std::size_t length : {300U, 5000U, 100'000U}) {
    const auto error = error_of<Error>([&] { load_adapter(folder / std::string(length, '\n')); });
    CHECK(mentions(error, {"too long"}));
    CHECK(fit_to_print(error));
  }
  CHECK(mentions(error_of<Error>([] { load_adapter(""); }), {"adapter_config.json"}));
}

TEST_CASE("A folder that may not be entered, and a file that may not be read, are errors of the library") {
  const Folder folder;
  std::filesystem::permissions(folder.path, std::filesystem::perms::all);
  const auto allow = [&](const char* name, unsigned mode) {
    std::filesystem::permissions(folder / name, static_cast<std::filesystem::perms>(mode));
  };
  for (const char* name : {"closed", "sealed"}) write_adapter(folder / name, config_json(), pair_of(slot));
  allow("closed", 0);
  allow("sealed", 0755);
  allow("sealed/adapter_model.safetensors", 0);
  std::vector<std::string> errors;
  // Root may enter and read everything, and is nobody for a while.
  const auto user = ::geteuid();
  if (user == 0 && ::seteuid(65534) != 0) {
    MESSAGE("not tested: root cannot become another user here");
    return;
  }
  for (const char* name : {"closed", "sealed"})
    errors.push_back(error_of<Error>([&] { load_adapter(folder / name); }));
  if (user == 0) REQUIRE(::seteuid(user) == 0);
  allow("closed", 0700);
  CHECK(mentions(errors[0], {"closed", "Permission denied"}));
  CHECK(mentions(errors[1], {"adapter_model.safetensors", "Permission denied"}));
}

TEST_CASE("Names of tensors are escaped and cut in messages and warnings") {
  const Folder folder;
  const std::string evil = "\x1b]0;\n\u202e" + std::string(300, 'n');
  const auto good = pair_of(evil);
  const auto said = [&](const std::vector<Matrix>& matrices, double value = 1) {
    write_adapter(folder / "x", config_json(), matrices, Dtype::F32, value);
    std::string text;
    try {
      for (const auto& warning : load_adapter(folder / "x").warnings) text = warning;
    } catch (const FormatError& error) {
      text = error.what();
    }
    return text;
  };
  for (const auto& text : {said(good), said(good, std::numeric_limits<double>::infinity()), said({good[0]}),
                           said({good[0], {evil, {2, 2}}}), said({good[0], {good[1].name, {7}}}),
                           said(pair_of(evil + std::string(1'000'000, 'x'))),
                           said({{"base_model.model." + evil + ".base_layer.weight", {2, 2}}})}) {
    CAPTURE(text);
    CHECK(mentions(text, {"\\x1b"}));
    CHECK(fit_to_print(text));
  }
  Json config = config_json();
  config[evil] = evil;
  write_adapter(folder / "x", config, pair_of(slot));
  for (const auto& warning : load_adapter(folder / "x").warnings) CHECK(fit_to_print(warning));
  for (const char* field :
       {"r", "bias", "peft_type", "init_lora_weights", "rank_pattern", "target_modules"}) {
    config = config_json();
    config[field] = std::string(field) == "target_modules" ? Json("(" + evil) : Json{{evil, evil}};
    write_adapter(folder / "x", config, pair_of(slot));
    const auto error = error_of([&] { load_adapter(folder / "x"); });
    CHECK(mentions(error, {field}));
    CHECK(fit_to_print(error));
  }
}
