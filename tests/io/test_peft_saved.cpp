// What is saved as an adapter of PEFT: it reads back, and its two files belong together.

#include <cmath>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include <doctest/doctest.h>
#include <mole/io/peft.hpp>

#include "io/adapters.hpp"
#include "io/folder.hpp"

using namespace mole;
using namespace io_test;

TEST_CASE_TEMPLATE("A saved adapter is read back", T, float, double) {
  const Folder folder;
  LoraConfig config;
  config.rank = 2;
  config.alpha = 6;
  config.rslora = true;
  config.rank_pattern = {{"v", 1}, {"decoder.*", 3}};
  config.alpha_pattern = {{"decoder.*", 0.5}, {".*v", 7}, {"decoder.*", 9}};
  config.fan_in_fan_out = true;
  config.base_model_name_or_path = "some/base";
  const std::vector<HostLora<T>> entries{{"encoder.q", 2, 3, 1, {1, 2, 3, 4, 5, 6}, {7, 8}},
                                         {"decoder.v", 1, 1, 2, {T(0.5)}, {T(-1), T(0.25)}}};
  for (const auto dtype : {Dtype::F64, Dtype::F32, Dtype::F16, Dtype::BF16}) {
    CAPTURE(dtype);
    save_adapter(folder / "made/here", config, entries, dtype);
    const auto adapter = load_adapter(folder / "made/here");
    CHECK(adapter.name == "here");
    CHECK(adapter.warnings.empty());
    CHECK(adapter.config.rslora);
    CHECK(adapter.config.alpha_pattern.at(0).first == "decoder.*");
    CHECK(adapter.config.fan_in_fan_out);
    CHECK(adapter.config.base_model_name_or_path == "some/base");
    CHECK(adapter.config.target_modules == std::vector<std::string>{"encoder.q", "decoder.v"});
    REQUIRE(adapter.entries.size() == 2);
    const auto& q = adapter.entries.at("encoder.q");
    CHECK(q.a.dtype == dtype);
    CHECK(q.template read_a<T>() == entries[0].a);
    CHECK(q.template read_b<T>() == entries[0].b);
    CHECK(q.scale == doctest::Approx(6 / std::sqrt(2.0)));
    CHECK(adapter.entries.at("decoder.v").template read_b<T>() == entries[1].b);
    CHECK(adapter.entries.at("decoder.v").scale == 0.5);
  }
}

TEST_CASE("What PEFT would load otherwise than meant is not saved") {
  const Folder folder;
  LoraConfig config;
  config.rank = 1;
  const HostLora<float> entry{"q", 1, 1, 1, {1}, {1}};
  const auto refused = [&](const LoraConfig& how, const std::vector<HostLora<float>>& entries, Dtype dtype) {
    return error_of<ArgumentError>([&] { save_adapter(folder / "x", how, entries, dtype); });
  };
  CHECK(mentions(refused(config, {}, Dtype::F32), {"no entry"}));
  CHECK(mentions(refused(config, {entry}, Dtype::I32), {"I32"}));
  CHECK(mentions(refused(config, {entry, entry}, Dtype::F32), {"q", "already"}));
  CHECK(mentions(refused(config, {{"q", 2, 1, 1, {1, 1}, {1, 1}}}, Dtype::F32), {"'q'", "rank_pattern"}));
  CHECK(mentions(refused(config, {{"q", 1, 2, 1, {1}, {1}}}, Dtype::F32), {"q", "[1, 2]"}));
  const HostLora<float> endless{"q", 1, 1, 1, {1}, {std::numeric_limits<float>::infinity()}};
  CHECK(mentions(
      error_of<NumericError>([&] { save_adapter<float>(folder / "x", config, {endless}, Dtype::F32); }),
      {"'q'", "not finite"}));
  config.target_modules = {"v"};
  CHECK(mentions(refused(config, {entry}, Dtype::F32), {"'q'", "target_modules"}));
  CHECK_FALSE(std::filesystem::exists(folder / "x"));
  config.target_modules = {"q"};
  write_text(folder / "file", "");
  CHECK(
      mentions(error_of<Error>([&] { save_adapter<float>(folder / "file/x", config, {entry}, Dtype::F32); }),
               {"file/x", "cannot be made"}));
}

TEST_CASE("The two files of an adapter belong together, and foreign adapters need no sign of it") {
  const Folder folder;
  const auto save = [&](const std::string& name, double alpha) {
    LoraConfig config;
    config.rank = 1;
    config.alpha = alpha;
    save_adapter<double>(folder / name, config, {{"q", 1, 1, 1, {alpha}, {2}}}, Dtype::F64);
  };
  save("a", 1);
  save("b", 2);
  save("b", 1);
  CHECK(load_adapter(folder / "b").digest == load_adapter(folder / "a").digest);
  save("b", 3);
  // One file of another save.
  std::filesystem::copy_file(folder / "b/adapter_model.safetensors", folder / "a/adapter_model.safetensors",
                             std::filesystem::copy_options::overwrite_existing);
  CHECK(mentions(error_of([&] { load_adapter(folder / "a"); }),
                 {"adapter_model.safetensors", "adapter_config.json", "another", "Save both again"}));
  CHECK(load_adapter(folder / "b").entries.at("q").scale == 3);

  // The base's name may be edited, and the layout.
  auto config = read_json(folder / "b/adapter_config.json");
  config["base_model_name_or_path"] = "elsewhere";
  config["task_type"] = nullptr;
  write_text(folder / "b/adapter_config.json", config.dump());
  CHECK(load_adapter(folder / "b").config.base_model_name_or_path == "elsewhere");
  config["lora_alpha"] = 4;
  write_text(folder / "b/adapter_config.json", config.dump());
  CHECK_FALSE(error_of([&] { load_adapter(folder / "b"); }).empty());

  // PEFT writes no digest.
  const auto plain = pair_of(slot);
  write_adapter(folder / "x", config_json(), plain);
  CHECK(load_adapter(folder / "x").entries.size() == 1);
}

TEST_CASE(
    "A save that is killed between its two renames is read as the new adapter, and the next save cleans up") {
  const Folder folder;
  const auto config_of = [](double alpha) {
    LoraConfig config;
    config.rank = 1;
    config.alpha = alpha;
    return config;
  };
  const auto save = [&](const std::string& name, double alpha) {
    save_adapter<double>(folder / name, config_of(alpha), {{"q", 1, 1, 1, {alpha}, {2}}}, Dtype::F64);
  };
  save("a", 1);
  save("b", 2);
  const auto left = folder / "a" / (detail::temporary_start("adapter_config.json") + "1-0.tmp");
  write_text(folder / "a" / (detail::temporary_start("adapter_config.json") + "0-0.tmp"), "{\"peft_ty");
  std::filesystem::copy_file(folder / "b/adapter_config.json", left);
  CHECK(load_adapter(folder / "a").entries.at("q").scale == 1);
  std::filesystem::copy_file(folder / "b/adapter_model.safetensors", folder / "a/adapter_model.safetensors",
                             std::filesystem::copy_options::overwrite_existing);
  const auto adapter = load_adapter(folder / "a", "b");
  CHECK(adapter.config.alpha == 2);
  CHECK(adapter.entries.at("q").scale == 2);
  CHECK(adapter.digest == load_adapter(folder / "b").digest);
  CHECK(adapter.warnings.empty());
  save("a", 3);
  CHECK(load_adapter(folder / "a").entries.at("q").scale == 3);
  CHECK(std::distance(std::filesystem::directory_iterator(folder / "a"), {}) == 2);
}

TEST_CASE("A configuration too long to be read again is not written") {
  const Folder folder;
  LoraConfig config;
  config.rank = 1;
  config.base_model_name_or_path = std::string(max_config_bytes, 'x');
  const std::vector<HostLora<float>> entries{{"q", 1, 1, 1, {1}, {1}}};
  CHECK(mentions(error_of<ArgumentError>([&] { save_adapter(folder / "x", config, entries, Dtype::F32); }),
                 {"adapter_config.json", "1000000"}));
  CHECK_FALSE(std::filesystem::exists(folder / "x"));
}
