#include <doctest/doctest.h>

#include <map>
#include <string>
#include <vector>

#include <mole/io/checkpoint.hpp>

#include "io/folder.hpp"
#include "io/limits.hpp"

using namespace mole;
using namespace io_test;

namespace {

// A shard that holds tensors of these names, each of one number.
void write_shard(const std::filesystem::path& path,
                 const std::vector<std::pair<std::string, double>>& tensors) {
  SafetensorsWriter writer;
  for (const auto& [name, value] : tensors) writer.add(name, Dtype::F32, {1}, std::vector<double>{value});
  writer.write(path);
}

void write_index(const Folder& folder, const Json& weight_map) {
  write_text(folder / "model.safetensors.index.json", Json{{"weight_map", weight_map}}.dump());
}

std::string refusal_of(const Folder& folder) {
  return error_of<Error>([&] { Checkpoint file(folder.path); });
}

}  // namespace

TEST_CASE("One file and the shards of an index look alike") {
  const Folder folder;
  write_shard(folder / "x-1-of-2.safetensors", {{"a", 1}, {"c", 3}});
  write_shard(folder / "x-2-of-2.safetensors", {{"b", 2}});
  write_index(folder,
              {{"a", "x-1-of-2.safetensors"}, {"b", "x-2-of-2.safetensors"}, {"c", "x-1-of-2.safetensors"}});
  const Checkpoint sharded(folder.path);
  CHECK(sharded.path() == folder / "model.safetensors.index.json");
  CHECK(sharded.names() == std::vector<std::string>{"a", "b", "c"});
  CHECK(sharded.read<float>("b") == std::vector<float>{2});
  CHECK(sharded.at("c").shape == Shape{1});
  CHECK(sharded.file_of("b").path() == folder / "x-2-of-2.safetensors");
  CHECK(sharded.contains("a"));
  CHECK_FALSE(sharded.contains("d"));
  CHECK(mentions(error_of([&] { sharded.at("d"); }), {"index.json", "'d'"}));

  write_shard(folder / "model.safetensors", {{"only", 7}});
  const Checkpoint single(folder.path);
  CHECK(single.path() == folder / "model.safetensors");
  CHECK(single.names() == std::vector<std::string>{"only"});
  write_shard(folder / "other.safetensors", {{"x", 1}});
  CHECK(Checkpoint(folder.path, "other").names() == std::vector<std::string>{"x"});
}

TEST_CASE("The shards that transformers wrote are read") {
  const Checkpoint file(case_of("sharded"));
  CHECK(file.names().size() == 47);
  CHECK(file.read<float>("shared.weight").size() == 24 * 16);
}

TEST_CASE("An index that lies is refused with the file and the tensor") {
  struct Row {
    const char* what;
    Json weight_map;
    std::vector<std::string> parts;
  };
  const std::string one = "1.safetensors", two = "2.safetensors";
  for (const auto& row : std::vector<Row>{
           {"no tensors", Json::object(), {"names no tensor"}},
           {"a list", {1, 2}, {"weight_map"}},
           {"a number", {{"a", 1}}, {"weight_map", "'a'"}},
           {"no such file", {{"a", "3.safetensors"}}, {"'3.safetensors'", "not there", "download"}},
           {"a tensor elsewhere", {{"a", two}, {"b", two}}, {"'a'", "should be in", two}},
           {"a tensor nowhere", {{"a", one}, {"b", two}, {"z", two}}, {"'z'", "should be in", two}},
           {"a tensor left out", {{"a", one}, {"b", two}}, {"does not name", "'both'"}},
           {"a tensor twice", {{"a", one}, {"b", two}, {"both", one}}, {"'both'", two, "too"}},
           {"a folder up", {{"a", "../1.safetensors"}}, {"'../1.safetensors'", "same folder"}},
           {"an absolute name", {{"a", "/1.safetensors"}}, {"same folder"}},
           {"a backslash", {{"a", "..\\1.safetensors"}}, {"same folder"}},
           {"a NUL", {{"a", std::string("1\0.safetensors", 14)}}, {"\\x00", "same folder"}},
           {"nothing", {{"a", ""}}, {"same folder"}},
           {"an end alone", {{"a", ".safetensors"}}, {"same folder"}},
           {"another format", {{"a", "1.bin"}}, {"same folder"}},
           {"a long name", {{"a", std::string(5000, 'x') + ".safetensors"}}, {"too long"}},
           {"an escape", {{"\x1b[31m" + std::string(5000, 'x'), one}}, {"\\x1b", "should be in"}}}) {
    CAPTURE(row.what);
    const Folder folder;
    write_shard(folder / one, {{"a", 1}, {"both", 1}});
    write_shard(folder / two, {{"b", 2}, {"both", 2}});
    write_index(folder, row.weight_map);
    const auto error = refusal_of(folder);
    CAPTURE(error);
    CHECK(mentions(error, row.parts));
    CHECK(mentions(error, {folder.path.string()}));
    CHECK(fit_to_print(error));
  }
  const Folder folder;
  write_text(folder / "model.safetensors.index.json", "[]");
  CHECK(mentions(refusal_of(folder), {"weight_map"}));
  write_text(folder / "model.safetensors.index.json",
             "{\"weight_map\":{\"a\":\"1.safetensors\",\"a\":\"2.safetensors\"}}");
  CHECK(mentions(refusal_of(folder), {"index.json", "two values", "\"a\""}));
}

TEST_CASE("A folder without readable weights says what it has and what to do") {
  const Folder folder;
  CHECK(mentions(refusal_of(folder), {folder.path.string(), "no weights", "model.safetensors"}));
  write_text(folder / "pytorch_model.bin", "PK");
  CHECK(mentions(refusal_of(folder), {"pytorch_model.bin", "only safetensors", "save_pretrained"}));
  std::filesystem::rename(folder / "pytorch_model.bin", folder / "pytorch_model.bin.index.json");
  CHECK(mentions(refusal_of(folder), {"pytorch_model.bin.index.json", "only safetensors"}));
  write_text(folder / "model.safetensors",
             "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n");
  CHECK(mentions(refusal_of(folder), {"model.safetensors", "Git LFS pointer"}));
  CHECK(mentions(error_of<Error>([&] { Checkpoint file(folder / "none"); }), {"none", "not there"}));
  std::filesystem::create_symlink("loop", folder / "loop");
  CHECK(mentions(error_of<Error>([&] { Checkpoint file(folder / "loop"); }), {"loop", "symbolic links"}));
}

TEST_CASE("Tensors are compared by their numbers, whatever types they are stored as") {
  const Folder folder;
  const double nan = std::numeric_limits<double>::quiet_NaN();
  SafetensorsWriter writer;
  writer.add("f32", Dtype::F32, {3}, std::vector<double>{1, 2.5, nan});
  writer.add("f64", Dtype::F64, {3}, std::vector<double>{1, 2.5, nan});
  writer.add("f16", Dtype::F16, {3}, std::vector<double>{1, 2.5, nan});
  writer.add("more", Dtype::F64, {3}, std::vector<double>{1, 2.5 + 1e-12, nan});
  writer.add("other", Dtype::F32, {3}, std::vector<double>{1, 2.5, 0});
  writer.add("shaped", Dtype::F32, {1, 3}, std::vector<double>{1, 2.5, nan});
  writer.write(folder / "model.safetensors");
  const Checkpoint file(folder.path);
  const auto same = [&](const char* a, const char* b) {
    return detail::same_numbers(file.at(a), file.at(b));
  };
  CHECK(same("f32", "f32"));
  CHECK(same("f32", "f64"));
  CHECK(same("f16", "f64"));
  CHECK_FALSE(same("f32", "more"));
  CHECK_FALSE(same("f32", "other"));
  CHECK_FALSE(same("f32", "shaped"));
}
