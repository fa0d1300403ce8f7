#include <doctest/doctest.h>

#include <string>
#include <vector>

#include <mole/models/t5/config_file.hpp>

#include "io/folder.hpp"
#include "io/limits.hpp"

using namespace mole;
using namespace io_test;

namespace {

T5Config read(const Folder& folder, const Json& json) {
  write_json(folder / "config.json", json);
  return read_t5_config(folder / "config.json");
}

}  // namespace

TEST_CASE("The golden configurations of both T5 layouts are read") {
  const auto flan = read_t5_config(golden("hf/t5_flan/base/config.json"));
  CHECK(flan.d_model == 48);
  CHECK(flan.d_ff == 80);
  CHECK(flan.num_heads == 6);
  CHECK(flan.num_decoder_layers == 2);
  CHECK(flan.vocab_size == 270);
  CHECK(flan.activation == "gelu_new");
  CHECK(flan.gated);
  CHECK_FALSE(flan.scale_decoder_outputs);
  const auto v1 = read_t5_config(golden("hf/t5_v1/base/config.json"));
  CHECK(v1.activation == "relu");
  CHECK_FALSE(v1.gated);
  CHECK(v1.tie_word_embeddings);
  CHECK(v1.scale_decoder_outputs);
}

TEST_CASE("Missing fields mean what they mean to transformers") {
  const Folder folder;
  const auto bare = read(folder, {{"model_type", "t5"}});
  CHECK(bare.d_ff == 2048);
  CHECK(bare.num_layers == 6);
  CHECK(bare.num_decoder_layers == 6);
  CHECK(bare.num_heads == 8);
  CHECK(bare.activation == "relu");
  CHECK(bare.tie_word_embeddings);
  CHECK(bare.scale_decoder_outputs);
  const auto untied =
      read(folder, {{"tie_word_embeddings", false}, {"num_layers", 3}, {"num_decoder_layers", nullptr}});
  CHECK_FALSE(untied.scale_decoder_outputs);
  CHECK(untied.num_decoder_layers == 3);
  CHECK(
      read(folder, {{"tie_word_embeddings", false}, {"scale_decoder_outputs", true}}).scale_decoder_outputs);
}

TEST_CASE("feed_forward_proj names the activation and the gate") {
  const Folder folder;
  struct Row {
    Json json;
    std::string activation;
    bool gated;
  };
  for (const auto& row : std::vector<Row>{
           {{{"feed_forward_proj", "relu"}}, "relu", false},
           {{{"feed_forward_proj", "gelu"}}, "gelu", false},
           {{{"feed_forward_proj", "gated-gelu"}}, "gelu_new", true},
           {{{"feed_forward_proj", "gated-gelu"}, {"dense_act_fn", "gelu_new"}}, "gelu_new", true},
           {{{"feed_forward_proj", "gated-gelu"}, {"dense_act_fn", "gelu"}}, "gelu", true},
           {{{"feed_forward_proj", "gated-silu"}, {"is_gated_act", true}}, "silu", true},
           {{{"feed_forward_proj", "gated-relu"}}, "relu", true},
           {{{"feed_forward_proj", "swish"}}, "silu", false}}) {
    const auto& json = row.json;
    const auto& activation = row.activation;
    const auto& gated = row.gated;
    CAPTURE(json);
    const auto config = read(folder, json);
    CHECK(config.activation == activation);
    CHECK(config.gated == gated);
  }
}

TEST_CASE("Impossible configurations are refused with the file and the field") {
  const Folder folder;
  struct Row {
    Json json;
    const char* field;
  };
  for (const auto& row :
       std::vector<Row>{{Json::array(), "object"},
                        {{{"model_type", "llama"}}, "model_type"},
                        {{{"d_model", 0}}, "d_model"},
                        {{{"d_model", -4}}, "d_model"},
                        {{{"d_model", 4.5}}, "d_model"},
                        {{{"d_model", "512"}}, "d_model"},
                        {{{"d_ff", 18446744073709551615U}}, "d_ff"},
                        {{{"num_heads", 0}}, "num_heads"},
                        {{{"num_layers", 0}}, "num_layers"},
                        {{{"relative_attention_num_buckets", 2}}, "num_buckets"},
                        {{{"relative_attention_max_distance", 16}}, "max_distance"},
                        {{{"layer_norm_epsilon", 0}}, "layer_norm_epsilon"},
                        {{{"dropout_rate", 1.0}}, "dropout_rate"},
                        {{{"tie_word_embeddings", "no"}}, "tie_word_embeddings"},
                        {{{"vocab_size", 10}, {"pad_token_id", 10}}, "pad_token_id"},
                        {{{"eos_token_id", -1}}, "eos_token_id"},
                        {{{"feed_forward_proj", "tanh"}}, "feed_forward_proj"},
                        {{{"feed_forward_proj", "gated"}}, "feed_forward_proj"},
                        {{{"feed_forward_proj", "relu"}, {"dense_act_fn", "silu"}}, "dense_act_fn"},
                        {{{"feed_forward_proj", "relu"}, {"is_gated_act", true}}, "is_gated_act"},
                        {{{"eos_token_id", Json::array()}}, "eos_token_id"},
                        {{{"eos_token_id", {1, -1}}}, "eos_token_id"},
                        {{{"eos_token_id", {1, "2"}}}, "eos_token_id"},
                        {{{"model_type", "umt5"}}, "model_type"},
                        {{{"num_heads", 1 << 30}, {"d_kv", 1 << 30}}, "num_heads x d_kv"},
                        {{{"vocab_size", 10},
                          {"d_ff", 10},
                          {"num_heads", 1 << 20},
                          {"d_kv", 1 << 10},
                          {"d_model", 1 << 30}},
                         "num_heads x d_kv x d_model"},
                        {{{"vocab_size", 1 << 30}, {"d_model", 1 << 30}}, "vocab_size x d_model"},
                        {{{"vocab_size", 10}, {"d_ff", 1 << 30}, {"d_model", 1 << 30}}, "d_ff x d_model"},
                        {{{"relative_attention_num_buckets", 1 << 30},
                          {"relative_attention_max_distance", 1 << 30},
                          {"num_heads", 1 << 20}},
                         "relative_attention_num_buckets x num_heads"},
                        {{{"quantization_config", {{"bits", 4}}}}, "quantised by 'unknown'"}}) {
    const auto& json = row.json;
    const auto& field = row.field;
    CAPTURE(json);
    const auto error = error_of([&] { read(folder, json); });
    CAPTURE(error);
    CHECK(mentions(error, {"config.json", field}));
  }
}

TEST_CASE("A configuration survives writing and reading") {
  const Folder folder;
  for (const std::string activation : {"relu", "gelu", "gelu_new", "silu"}) {
    for (const bool flag : {false, true}) {
      T5Config config;
      config.activation = activation;
      config.gated = config.tie_word_embeddings = flag;
      config.scale_decoder_outputs = !flag;
      config.vocab_size = 259;
      config.d_kv = 33;
      config.num_decoder_layers = 5;
      config.layer_norm_epsilon = 1e-5;
      config.decoder_start_token_id = 2;
      write_t5_config(folder / "config.json", config);
      const auto json = read_json(folder / "config.json");
      CHECK(json["architectures"] == Json::array({"T5ForConditionalGeneration"}));
      const auto again = read_t5_config(folder / "config.json");
      CHECK(again.activation == activation);
      CHECK(again.gated == flag);
      CHECK(again.tie_word_embeddings == flag);
      CHECK(again.scale_decoder_outputs == !flag);
      CHECK(again.vocab_size == 259);
      CHECK(again.d_kv == 33);
      CHECK(again.num_decoder_layers == 5);
      CHECK(again.layer_norm_epsilon == 1e-5);
      CHECK(again.decoder_start_token_id == 2);
    }
  }
  T5Config config;
  config.activation = "tanh";
  CHECK_THROWS_AS(write_t5_config(folder / "config.json", config), ArgumentError);
}

TEST_CASE("A list of end tokens is read and written, and an mT5 is a T5 v1.1") {
  const Folder folder;
  CHECK(read(folder, {{"eos_token_id", {7}}}).eos_token_id == 7);
  CHECK(read(folder, {{"eos_token_id", {7}}}).further_eos_token_ids.empty());
  auto config = read_t5_config(case_of("eos/config.json"));
  CHECK(config.eos_token_id == 1);
  CHECK(config.further_eos_token_ids == std::vector<Index>{2});
  CHECK(config.end_tokens() == std::vector<Index>{1, 2});
  write_t5_config(folder / "config.json", config);
  CHECK(read_json(folder / "config.json")["eos_token_id"] == Json{1, 2});
  CHECK(read_t5_config(folder / "config.json").further_eos_token_ids == std::vector<Index>{2});

  const auto mt5 = read(folder, {{"model_type", "mt5"}});
  CHECK(mt5.vocab_size == 250112);
  CHECK(mt5.d_ff == 1024);
  CHECK(mt5.num_layers == 8);
  CHECK(mt5.num_heads == 6);
  CHECK(mt5.gated);
  CHECK(mt5.activation == "gelu_new");
  CHECK_FALSE(mt5.scale_decoder_outputs);
}

TEST_CASE("Values of a configuration are escaped and cut in messages") {
  const Folder folder;
  const std::string evil = "\x1b]0;\n" + std::string(100'000, 'x');
  for (const char* field : {"model_type", "d_model", "layer_norm_epsilon", "tie_word_embeddings",
                            "feed_forward_proj", "dense_act_fn", "eos_token_id"}) {
    CAPTURE(field);
    const auto error = error_of([&] { read(folder, {{field, evil}}); });
    CHECK(mentions(error, {"config.json", field}));
    CHECK(fit_to_print(error));
  }
}
