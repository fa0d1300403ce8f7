#include <doctest/doctest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <map>
#include <string>
#include <type_traits>
#include <vector>

#include <mole/backends/cpu.hpp>
#include <mole/compose/linear.hpp>
#include <mole/io/json.hpp>
#include <mole/io/lora_set.hpp>
#include <mole/models/generate.hpp>
#include <mole/models/t5/checkpoint.hpp>

#include "io/folder.hpp"
#include "io/limits.hpp"
#include "models/t5/stored_model.hpp"
#include "testing.hpp"

using namespace mole;
using namespace io_test;
using namespace stored_model;

namespace {

template <class T>
std::vector<double> logits_of(const T5<T, Cpu>& model, const SafetensorsFile& expected) {
  const auto ids = [&](const std::string& name) {
    return Tensor<Index, Cpu>::from(expected.at(name).shape, expected.read<Index>(name));
  };
  const T5Batch<T, Cpu> batch{
      ids("input_ids"),
      Tensor<T, Cpu>::from(expected.at("attention_mask").shape, expected.template read<T>("attention_mask")),
      ids("labels")};
  const NoGrad off;
  MolePass<T, Cpu> pass;
  return testing::doubles(model.logits(batch, pass));
}

// The loss of the batch that the cases were computed with.
double case_loss(const std::filesystem::path& folder) {
  const auto model = load_t5<double, Cpu>(folder);
  using Ids = Tensor<Index, Cpu>;
  const T5Batch<double, Cpu> batch{Ids::from({2, 5}, {3, 4, 5, 6, 1, 7, 8, 1, 0, 0}),
                                   Tensor<double, Cpu>::from({2, 5}, {1, 1, 1, 1, 1, 1, 1, 1, 0, 0}),
                                   Ids::from({2, 3}, {5, 6, 1, 7, 1, -100})};
  const NoGrad off;
  MolePass<double, Cpu> pass;
  return model.loss(batch, pass).item();
}

constexpr const char* goldens[] = {"t5_flan", "t5_v1"};

// transformers takes the variance of its norm in float32, also in a model of doubles.
constexpr double float32_inside = 2e-5;

}  // namespace

TEST_CASE_TEMPLATE("A checkpoint of transformers gives the logits of transformers", T, float, double) {
  for (const std::string name : goldens) {
    CAPTURE(name);
    std::vector<std::string> warnings;
    const auto model = load_t5<T, Cpu>(golden("hf/" + name + "/base"), &warnings);
    CHECK(warnings.empty());
    CHECK(model.config().d_model == 48);
    CHECK(model.config().gated == (name == "t5_flan"));
    CHECK(model.config().activation == (name == "t5_flan" ? "gelu_new" : "relu"));
    const SafetensorsFile expected(golden("hf/" + name + "/expected.safetensors"));
    CHECK(testing::worst_error(logits_of(model, expected), expected.read<double>("base.logits")) <
          float32_inside);
  }
}

TEST_CASE_TEMPLATE("A saved model is read back as it was", T, float, double) {
  for (const std::string name : goldens) {
    CAPTURE(name);
    const Folder folder;
    const auto source = golden("hf/" + name + "/base");
    auto model = load_t5<T, Cpu>(source);
    save_t5(folder / "a/b", model, Dtype::F32);

    const auto before = read_all(source / "model.safetensors");
    const auto after = read_all(folder / "a/b/model.safetensors");
    REQUIRE(before.size() == after.size());
    for (const auto& row : before) {
      const auto& tensor = row.first;
      const auto& stored = row.second;
      CAPTURE(tensor);
      REQUIRE(after.contains(tensor));
      CHECK(after.at(tensor).shape == stored.shape);
      CHECK(after.at(tensor).values == stored.values);
    }
    const auto config = read_t5_config(folder / "a/b/config.json");
    CHECK(config.tie_word_embeddings);
    CHECK(config.scale_decoder_outputs == (name == "t5_v1"));
    const SafetensorsFile expected(source / "../expected.safetensors");
    const auto again = load_t5<T, Cpu>(folder / "a/b");
    CHECK(logits_of(again, expected) == logits_of(model, expected));
  }
}

TEST_CASE("Weights stored in 16 bits come back rounded once") {
  const Folder folder;
  auto model = load_t5<double, Cpu>(golden("hf/t5_flan/base"));
  save_t5(folder.path, model, Dtype::BF16);
  const SafetensorsFile file(folder / "model.safetensors");
  CHECK(file.at("shared.weight").dtype == Dtype::BF16);
  auto again = load_t5<double, Cpu>(folder.path);
  const auto exact = read_all(golden("hf/t5_flan/base") / "model.safetensors");
  again.visit([&](const std::string& name, const Shape&, Tensor<double, Cpu>& tensor) {
    auto rounded = exact.at(name).values;
    for (auto& value : rounded) value = static_cast<double>(bfloat16_value(bfloat16_bits(value)));
    CHECK(tensor.to_host() == rounded);
  });
}

TEST_CASE("The head is lm_head.weight where the file has one, whatever the configuration says") {
  const Folder folder;
  copy_model("t5_flan", folder / "untied", [](Tensors& tensors) {
    auto head = tensors.at("shared.weight");
    for (auto& value : head.values) value *= 2;
    tensors["lm_head.weight"] = head;
  });
  CHECK(read_t5_config(folder / "untied/config.json").tie_word_embeddings);
  auto untied = load_t5<double, Cpu>(folder / "untied");
  CHECK_FALSE(untied.config().tie_word_embeddings);
  CHECK_FALSE(untied.config().scale_decoder_outputs);
  const SafetensorsFile expected(golden("hf/t5_flan/expected.safetensors"));
  const auto plain = logits_of(load_t5<double, Cpu>(golden("hf/t5_flan/base")), expected);
  auto twice = plain;
  for (auto& value : twice) value *= 2;
  CHECK(testing::worst_error(logits_of(untied, expected), twice) < 1e-12);

  save_t5(folder / "saved", untied, Dtype::F64);
  CHECK_FALSE(read_t5_config(folder / "saved/config.json").tie_word_embeddings);
  CHECK(SafetensorsFile(folder / "saved/model.safetensors").contains("lm_head.weight"));

  copy_model("t5_flan", folder / "tied", [](Tensors&) {});
  auto config = read_json(folder / "tied/config.json");
  config["tie_word_embeddings"] = false;
  config["scale_decoder_outputs"] = false;
  write_json(folder / "tied/config.json", config);
  const auto tied = load_t5<double, Cpu>(folder / "tied");
  CHECK(tied.config().tie_word_embeddings);
  CHECK(logits_of(tied, expected) == plain);
}

TEST_CASE("Copies of the shared table under the names of older checkpoints are allowed") {
  const Folder folder;
  copy_model("t5_v1", folder / "m", [](Tensors& tensors) {
    tensors["encoder.embed_tokens.weight"] = tensors.at("shared.weight");
    tensors["decoder.embed_tokens.weight"] = tensors.at("shared.weight");
  });
  const SafetensorsFile expected(golden("hf/t5_v1/expected.safetensors"));
  CHECK(logits_of(load_t5<double, Cpu>(folder / "m"), expected) ==
        logits_of(load_t5<double, Cpu>(golden("hf/t5_v1/base")), expected));
}

TEST_CASE("A tensor that is missing, unexpected or of another shape is named") {
  const std::string q = "decoder.block.1.layer.1.EncDecAttention.q.weight";
  struct Case {
    const char* name;
    std::function<void(Tensors&)> edit;
    std::vector<std::string> parts;
  };
  const Case cases[] = {
      {"missing slot", [&](Tensors& t) { t.erase(q); }, {"model.safetensors", q, "missing"}},
      {"missing table", [](Tensors& t) { t.erase("shared.weight"); }, {"shared.weight", "missing"}},
      {"missing norm",
       [](Tensors& t) { t.erase("encoder.final_layer_norm.weight"); },
       {"encoder.final_layer_norm.weight", "missing"}},
      {"extra block",
       [&](Tensors& t) { t["encoder.block.2.layer.0.SelfAttention.q.weight"] = t.at(q); },
       {"model.safetensors", "encoder.block.2.layer.0.SelfAttention.q.weight", "config.json"}},
      {"other extents",
       [&](Tensors& t) {
         t[q] = {{4, 5}, std::vector<double>(20)};
       },
       {q, "[4, 5]", "[48, 48]"}},
      {"other rank", [&](Tensors& t) { t[q].shape = Shape{48 * 48}; }, {q, "[2304]", "[48, 48]"}},
  };
  for (const auto& wrong : cases) {
    CAPTURE(wrong.name);
    const Folder folder;
    copy_model("t5_v1", folder / "m", wrong.edit);
    const auto text = error_of([&] { load_t5<float, Cpu>(folder / "m"); });
    CAPTURE(text);
    CHECK(mentions(text, wrong.parts));
    const auto faults = t5_faults<float, Cpu>(folder / "m");
    REQUIRE(faults.size() == 1);
    CHECK(mentions(faults.front(), wrong.parts));
  }
  const Folder whole;
  copy_model("t5_v1", whole / "m", [](Tensors&) {});
  CHECK(t5_faults<float, Cpu>(whole / "m").empty());
  auto config = read_json(whole / "m/config.json");
  config["d_ff"] = 81;
  write_json(whole / "m/config.json", config);
  CHECK(t5_faults<float, Cpu>(whole / "m").size() >= 8);
}

TEST_CASE("Weights that are not real numbers are refused") {
  const Folder folder;
  std::filesystem::copy_file(golden("hf/t5_v1/base/config.json"), folder / "config.json");
  SafetensorsWriter writer;
  for (const auto& [name, tensor] : read_all(golden("hf/t5_v1/base/model.safetensors")))
    writer.add(name, name == "shared.weight" ? Dtype::U8 : Dtype::F32, tensor.shape,
               std::vector<double>(tensor.values.size(), 1));
  writer.write(folder / "model.safetensors");
  CHECK(
      mentions(error_of([&] { load_t5<float, Cpu>(folder.path); }), {"shared.weight", "U8", "unquantized"}));
}

TEST_CASE("A configuration of another size names a tensor that does not fit") {
  const Folder folder;
  copy_model("t5_v1", folder / "m", [](Tensors&) {});
  auto config = read_json(folder / "m/config.json");
  config["d_ff"] = 81;
  write_json(folder / "m/config.json", config);
  CHECK(mentions(error_of([&] { load_t5<float, Cpu>(folder / "m"); }),
                 {"DenseReluDense.wi", "[80, 48]", "[81, 48]"}));
}

TEST_CASE("NaN and infinite weights are told as warnings by name") {
  const Folder folder;
  copy_model("t5_v1", folder / "m", [](Tensors& tensors) {
    tensors.at("shared.weight").values[7] = std::numeric_limits<double>::quiet_NaN();
    tensors.at("encoder.final_layer_norm.weight").values[0] = std::numeric_limits<double>::infinity();
  });
  std::vector<std::string> warnings;
  load_t5<float, Cpu>(folder / "m", &warnings);
  REQUIRE(warnings.size() == 2);
  CHECK(mentions(warnings[0], {"model.safetensors", "shared.weight", "NaN"}));
  CHECK(mentions(warnings[1], {"encoder.final_layer_norm.weight"}));
  load_t5<float, Cpu>(folder / "m");
}

TEST_CASE("A folder without a model names the file that is missing") {
  const Folder folder;
  CHECK(mentions(error_of<Error>([&] { load_t5<float, Cpu>(folder.path); }), {"config.json"}));
  std::filesystem::copy_file(golden("hf/t5_v1/base/config.json"), folder / "config.json");
  CHECK(mentions(error_of<Error>([&] { load_t5<float, Cpu>(folder.path); }), {"model.safetensors"}));
}

TEST_CASE("Files of older releases and of other programs load as transformers loads them") {
  // transformers 5.24 in float64; its norms are of float32.
  CHECK(case_loss(case_of("old-cross-bias")) == doctest::Approx(3.112099).epsilon(1e-6));
  CHECK(case_loss(case_of("sharded")) == doctest::Approx(3.112099).epsilon(1e-6));

  const Folder folder;
  std::filesystem::create_directory(folder / "t5");
  std::filesystem::copy_file(case_of("mt5/model.safetensors"), folder / "t5/model.safetensors");
  auto config = read_json(case_of("mt5/config.json"));
  config["model_type"] = "t5";
  write_json(folder / "t5/config.json", config);
  CHECK(case_loss(case_of("mt5")) == case_loss(folder / "t5"));

  auto fp8 = load_t5<double, Cpu>(case_of("fp8"));
  save_t5(folder / "plain", fp8, Dtype::F64);
  CHECK(SafetensorsFile(case_of("fp8/model.safetensors")).unread().at("scaled_fp8").shape.size() == 0);
  CHECK(case_loss(case_of("fp8")) == case_loss(folder / "plain"));
}

TEST_CASE("A tensor of an unread type that the model needs, or that holds numbers, is refused by name") {
  const Folder folder;
  const auto write = [&](const std::string& name) {
    std::filesystem::remove_all(folder / "m");
    copy_model("t5_v1", folder / "m", [&](Tensors& tensors) { tensors.erase(name); });
    // The same file with one more tensor, of 8 bytes.
    auto bytes = read_text(folder / "m/model.safetensors");
    std::uint64_t length;
    std::memcpy(&length, bytes.data(), 8);
    const auto data = bytes.substr(8 + length);
    auto header = bytes.substr(8, bytes.find_last_of('}', 8 + length - 1) - 8);
    header += ",\"" + name + "\":{\"dtype\":\"F8_E4M3\",\"shape\":[8],\"data_offsets\":[" +
              std::to_string(data.size()) + "," + std::to_string(data.size() + 8) + "]}}";
    write_text(folder / "m/model.safetensors", safetensors_bytes(header, 0) + data + std::string(8, '\0'));
    return error_of([&] { load_t5<float, Cpu>(folder / "m"); });
  };
  CHECK(mentions(write("encoder.final_layer_norm.weight"),
                 {"encoder.final_layer_norm.weight", "F8_E4M3", "convert"}));
  CHECK(mentions(write("scale"), {"'scale'", "has no place"}));
}

TEST_CASE("Token tables that differ are refused by name, and one table under any of its names is used") {
  CHECK(mentions(error_of([] { load_t5<double, Cpu>(case_of("own-embed-tokens")); }),
                 {"model.safetensors", "encoder.embed_tokens.weight", "differs from shared.weight"}));
  const SafetensorsFile expected(golden("hf/t5_v1/expected.safetensors"));
  const auto wanted = logits_of(load_t5<double, Cpu>(golden("hf/t5_v1/base")), expected);
  const std::string encoder = "encoder.embed_tokens.weight", decoder = "decoder.embed_tokens.weight";
  for (const auto& names : std::vector<std::vector<std::string>>{{encoder}, {decoder}, {encoder, decoder}}) {
    const Folder folder;
    copy_model("t5_v1", folder / "m", [&](Tensors& tensors) {
      for (const auto& name : names) tensors[name] = tensors.at("shared.weight");
      tensors.erase("shared.weight");
    });
    CHECK(logits_of(load_t5<double, Cpu>(folder / "m"), expected) == wanted);
  }
  const Folder folder;
  copy_model("t5_v1", folder / "m", [&](Tensors& tensors) {
    tensors[encoder] = tensors[decoder] = tensors.at("shared.weight");
    tensors.erase("shared.weight");
    tensors.at(decoder).values.back() += 1;
  });
  CHECK(
      mentions(error_of([&] { load_t5<double, Cpu>(folder / "m"); }), {decoder, "differs from " + encoder}));
}

TEST_CASE("The file is looked at before the configuration's model takes memory") {
  const Folder folder;
  auto config = read_json(golden("hf/t5_flan/base/config.json"));
  const auto told = [&] {
    return limited([&] {
      load_t5<float, Cpu>(folder.path);
      return std::string("loaded");
    });
  };
  config["num_layers"] = config["num_decoder_layers"] = 100'000;
  write_json(folder / "config.json", config);
  write_text(folder / "model.safetensors", safetensors_bytes("{}", 0));
  CHECK(mentions(told(), {"Error", "model.safetensors", "shared.weight", "missing"}));
  std::filesystem::remove(folder / "model.safetensors");
  std::filesystem::copy_file(golden("hf/t5_flan/base/model.safetensors"), folder / "model.safetensors");
  CHECK(mentions(told(), {"Error", "model.safetensors", "encoder.block.2.", "missing"}));
  config["num_layers"] = config["num_decoder_layers"] = 2;
  for (const char* field :
       {"vocab_size", "d_model", "d_kv", "d_ff", "num_heads", "relative_attention_num_buckets"}) {
    CAPTURE(field);
    auto large = config;
    large[field] = 1 << 30;
    large["relative_attention_max_distance"] = 1 << 30;
    write_json(folder / "config.json", large);
    CHECK(mentions(told(), {"Error", folder.path.string()}));
  }
}

TEST_CASE("A folder of pickles or of Git LFS pointers is told as what it is") {
  const Folder folder;
  std::filesystem::copy_file(golden("hf/t5_v1/base/config.json"), folder / "config.json");
  write_text(folder / "pytorch_model.bin", "PK");
  CHECK(mentions(error_of<Error>([&] { load_t5<float, Cpu>(folder.path); }),
                 {folder.path.string(), "pytorch_model.bin", "only safetensors"}));
  write_text(folder / "model.safetensors",
             "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n");
  CHECK(mentions(error_of([&] { load_t5<float, Cpu>(folder.path); }),
                 {"model.safetensors", "Git LFS pointer"}));
}

TEST_CASE("Names of unexpected tensors are escaped and cut in messages") {
  const Folder folder;
  copy_model("t5_v1", folder / "m", [&](Tensors& tensors) {
    tensors["\x1b[31m\n" + std::string(100'000, 'x')] = {{1}, {1}};
  });
  const auto error = error_of([&] { load_t5<float, Cpu>(folder / "m"); });
  CHECK(mentions(error, {"\\x1b[31m", "has no place"}));
  CHECK(fit_to_print(error));
}

TEST_CASE("The two files of a saved model belong together, and foreign models need no sign of it") {
  const Folder folder;
  auto model = load_t5<float, Cpu>(golden("hf/t5_v1/base"));
  save_t5(folder / "a", model, Dtype::F32);
  auto config = model.config();
  config.layer_norm_epsilon = 1e-3;
  T5<float, Cpu> other(config);
  Generator generator{1};
  other.initialize(generator);
  save_t5(folder / "b", other, Dtype::F32);
  load_t5<float, Cpu>(folder / "b");
  // One file of another save.
  std::filesystem::copy_file(folder / "b/model.safetensors", folder / "a/model.safetensors",
                             std::filesystem::copy_options::overwrite_existing);
  CHECK(mentions(error_of([&] { load_t5<float, Cpu>(folder / "a"); }),
                 {"model.safetensors", "config.json", "another", "Save both again"}));
  save_t5(folder / "a", model, Dtype::F32);
  load_t5<float, Cpu>(folder / "a");
  CHECK(std::distance(std::filesystem::directory_iterator(folder / "a"), {}) == 2);
  // Fields that change no number may be edited.
  auto json = read_json(folder / "a/config.json");
  json["dropout_rate"] = 0.3;
  json["transformers_version"] = "5.24.0";
  write_json(folder / "a/config.json", json);
  CHECK(load_t5<float, Cpu>(folder / "a").config().dropout_rate == 0.3);
}

TEST_CASE("A T5 that goes beyond half's range says so, and no text is made of NaN") {
  const auto run = [&]<class T>(T) {
    const auto model = load_t5<T, Cpu>(case_of("half-overflow"));
    const auto mask =
        Tensor<T, Cpu>::from({2, 4}, std::vector<T>{T(1), T(1), T(1), T(1), T(1), T(1), T(1), T(0)});
    const T5Batch<T, Cpu> batch{Tensor<Index, Cpu>::from({2, 4}, {3, 4, 5, 1, 7, 8, 1, 0}), mask,
                                Tensor<Index, Cpu>::from({2, 2}, {5, 1, 6, 1})};
    const NoGrad off;
    MolePass<T, Cpu> pass;
    for (const Index beams : {1, 2})
      if constexpr (std::is_same_v<T, half>)
        CHECK_THROWS_WITH_AS(generate(model, batch.input(), pass, {.beams = beams}),
                             doctest::Contains("half ends at 65504"), NumericError);
      else
        CHECK(generate(model, batch.input(), pass, {.max_new_tokens = 3, .beams = beams}).size() == 2);
    pass = {};
    return static_cast<double>(Compute<T>(model.loss(batch, pass).item()));
  };
  CHECK(run(0.0F) == doctest::Approx(4.547).epsilon(2e-4));
  CHECK(run(bf16(0.0F)) == doctest::Approx(4.55).epsilon(1e-2));
  CHECK_THROWS_WITH_AS(run(half(0.0F)), doctest::Contains("use bf16 or float"), NumericError);
}
