// The folder that keeps experts in canonical form: made once, read again, made again where it is stale or broken.

#include <doctest/doctest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include <mole/io/expert_store.hpp>
#include <mole/io/lora_set.hpp>

#include "io/adapters.hpp"
#include "io/folder.hpp"
#include "testing.hpp"

using mole::open_experts;

namespace expert_store {

namespace {

/// An adapter of two slots on the disk, its factors `value` all over.
mole::LoraSet adapter(const std::filesystem::path& folder, double value = 1) {
  auto matrices = io_test::pair_of("q");
  for (const auto& matrix : io_test::pair_of("v")) matrices.push_back(matrix);
  io_test::write_adapter(folder, io_test::config_json(), matrices, mole::Dtype::F32, value);
  return mole::lora_set(mole::load_adapter(folder));
}

std::filesystem::path only_file(const std::filesystem::path& folder) {
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) files.push_back(entry.path());
  REQUIRE(files.size() == 1);
  return files.front();
}

/// A' and Q^T of a slot, [2, 3] and [2, 5].
template <class T>
std::vector<double> factors(const mole::PagedExperts<T>& experts, const std::string& slot = "q") {
  std::vector<T> A(6), Q(10);
  experts.factors.front()->read(slot, A.data(), Q.data());
  std::vector<double> all(A.begin(), A.end());
  all.insert(all.end(), Q.begin(), Q.end());
  return all;
}

/// The same from the adapter.
std::vector<double> expected(const mole::LoraSet& set, const std::string& slot = "q") {
  const auto c = mole::canonical(set.factors(slot));
  auto all = c.A;
  for (std::size_t k = 0; k < 2; ++k)
    for (std::size_t o = 0; o < 5; ++o) all.push_back(c.Q[o * 2 + k]);
  return all;
}

/// A file whose bytes at the end are others, in a new file that takes its place.
void spoil(const std::filesystem::path& path, std::size_t from_end) {
  auto bytes = io_test::read_text(path);
  bytes[bytes.size() - from_end] = static_cast<char>(bytes[bytes.size() - from_end] ^ 1);
  std::filesystem::remove(path);
  io_test::write_text(path, bytes);
}

}  // namespace

TEST_CASE("Stored experts are the adapter's canonical factors in the type of the model") {
  const io_test::Folder folder;
  const auto set = adapter(folder / "adapter", 0.5);
  const auto doubles = open_experts<double>({set}, folder / "experts");
  CHECK(factors(doubles) == expected(set));
  CHECK(factors(doubles, "v") == expected(set, "v"));
  const auto floats = open_experts<float>({set}, folder / "experts");
  for (std::size_t i = 0; i < 16; ++i)
    CHECK(factors(floats)[i] == static_cast<double>(static_cast<float>(expected(set)[i])));
  const auto shape = doubles.factors.front()->shape("v");
  CHECK(shape.rank == 2);
  CHECK(shape.d_in == 3);
  CHECK(shape.d_out == 5);
  CHECK(doubles.factors.front()->shape("k").rank == 0);
  const auto halves = open_experts<mole::bf16>({set}, folder / "experts");
  CHECK(halves.factors.front()->shape("q").rank == 2);
}

TEST_CASE("A file is made once for an adapter, and once more for another content of that name") {
  const io_test::Folder folder;
  const auto set = adapter(folder / "adapter");
  CHECK(*open_experts<float>({set}, folder / "experts").made == 1);
  CHECK(*open_experts<float>({set}, folder / "experts").made == 0);
  const auto changed = adapter(folder / "adapter", 2);
  CHECK(*open_experts<float>({set, changed}, folder / "experts").made == 1);
  CHECK(std::distance(std::filesystem::directory_iterator(folder / "experts"), {}) == 2);
  CHECK(factors(open_experts<float>({changed}, folder / "experts")) !=
        factors(open_experts<float>({set}, folder / "experts")));
}

TEST_CASE("A file that is cut short, no such file, of another version or of another adapter is made again") {
  const io_test::Folder folder;
  const auto set = adapter(folder / "adapter");
  open_experts<double>({set}, folder / "experts");
  const auto path = only_file(folder / "experts");
  const auto whole = io_test::read_text(path);
  const auto with = [&](const std::string& from, const std::string& to) {
    auto text = whole;
    text.replace(text.find(from), from.size(), to);
    return text;
  };
  const std::vector<std::string> contents{"",
                                          "no such file",
                                          whole.substr(0, whole.size() / 2),
                                          whole.substr(0, whole.size() - 1),
                                          with("\"version\":\"1\"", "\"version\":\"7\""),
                                          with("mole-expert", "mole-except"),
                                          with(set.digest, std::string(set.digest.size(), '0')),
                                          with("\"F64\"", "\"I64\""),
                                          with("q.A", "k.A"),
                                          with("\\\"q\\\"", "\\\"k\\\"")};
  for (const auto& content : contents) {
    CAPTURE(content);
    REQUIRE(content != whole);
    std::filesystem::remove(path);
    io_test::write_text(path, content);
    const auto again = open_experts<double>({set}, folder / "experts");
    CHECK(*again.made == 1);
    CHECK(factors(again) == expected(set));
    CHECK(io_test::read_text(path) == whole);
  }
}

TEST_CASE("Numbers that are not those that were written are noticed when they are read, and made again") {
  const io_test::Folder folder;
  const auto set = adapter(folder / "adapter");
  open_experts<double>({set}, folder / "experts");
  const auto path = only_file(folder / "experts");
  const auto whole = io_test::read_text(path);
  // Each byte of the numbers, 2 slots of 16 doubles.
  for (std::size_t from_end = 1; from_end <= 2 * 16 * 8; ++from_end) {
    spoil(path, from_end);
    const auto experts = open_experts<double>({set}, folder / "experts");
    CHECK(*experts.made == 0);
    CHECK(factors(experts, "q") == expected(set, "q"));
    CHECK(factors(experts, "v") == expected(set, "v"));
    CHECK(*experts.made == 1);
    CHECK(io_test::read_text(path) == whole);
  }
}

TEST_CASE("A file that is removed while it is in use is used to the end, and made again the next time") {
  const io_test::Folder folder;
  const auto set = adapter(folder / "adapter");
  const auto experts = open_experts<double>({set}, folder / "experts");
  std::filesystem::remove_all(folder / "experts");
  std::filesystem::remove_all(folder / "adapter");
  CHECK(factors(experts) == expected(set));
  CHECK(*open_experts<double>({set}, folder / "experts").made == 1);
}

TEST_CASE(
    "Where an adapter is gone when its broken file has to be made again, reading says why, and heals later") {
  const io_test::Folder folder;
  auto set = adapter(folder / "adapter");
  bool gone = false;
  set.factors = [&gone, whole = set.factors](const std::string& slot) {
    MOLE_CHECK_FORMAT(!gone, "adapter: its file was overwritten");
    return whole(slot);
  };
  const auto numbers = expected(set);
  open_experts<double>({set}, folder / "experts");
  const auto path = only_file(folder / "experts");
  spoil(path, 5);
  spoil(path, 16 * 8 + 5);
  const auto experts = open_experts<double>({set}, folder / "experts");
  gone = true;
  CHECK(io_test::mentions(io_test::error_of([&] { factors(experts); }), {"was overwritten"}));
  CHECK(*experts.made == 0);
  gone = false;
  CHECK(factors(experts) == numbers);
  CHECK(*experts.made == 1);
}

TEST_CASE(
    "An adapter of another shape under the same digest is refused when a broken file is made again of it") {
  const io_test::Folder folder;
  auto set = adapter(folder / "adapter");
  bool other = false;
  set.factors = [&other, own = set.factors](const std::string& slot) {
    auto factors = own(slot);
    if (!other) return factors;
    factors.rank = 3;
    factors.A.resize(9, 1);
    factors.B.resize(15, 1);
    return factors;
  };
  open_experts<double>({set}, folder / "experts");
  const auto path = only_file(folder / "experts");
  spoil(path, 5);
  spoil(path, 16 * 8 + 5);
  const auto experts = open_experts<double>({set}, folder / "experts");
  other = true;
  CHECK(io_test::mentions(io_test::error_of([&] { factors(experts); }), {"another shape", "same digest"}));
}

TEST_CASE("Experts that are not finite once scaled are refused, and no file is left behind") {
  const io_test::Folder folder;
  auto set = adapter(folder / "adapter");
  const auto whole = set.factors;
  set.factors = [whole](const std::string& slot) {
    auto factors = whole(slot);
    if (slot == "v") factors.scale = 1e39;
    return factors;
  };
  CHECK(io_test::mentions(
      io_test::error_of<mole::NumericError>([&] { open_experts<float>({set}, folder / "experts"); }),
      {set.name, "at v", "lora_alpha"}));
  CHECK(std::filesystem::is_empty(folder / "experts"));
  CHECK(factors(open_experts<double>({set}, folder / "experts"), "v") == expected(set, "v"));
}

TEST_CASE("Experts of which the folder cannot keep a file are refused, and nothing is left behind") {
  const io_test::Folder folder;
  auto set = adapter(folder / "adapter");
  io_test::write_text(folder / "file", "");
  CHECK(io_test::mentions(
      io_test::error_of<mole::Error>([&] { open_experts<float>({set}, folder / "file/experts"); }),
      {"file/experts", "cannot be made"}));
  // As on a full disk: files may hold 100 bytes.
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    ::signal(SIGXFSZ, SIG_IGN);
    const struct rlimit small { 100, 100 };
    ::setrlimit(RLIMIT_FSIZE, &small);
    const auto text = io_test::error_of<mole::Error>([&] { open_experts<float>({set}, folder / "experts"); });
    ::_exit(io_test::mentions(text, {"cannot be written"}) ? 0 : 1);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  CHECK(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == 0);
  CHECK(std::filesystem::is_empty(folder / "experts"));
  set.digest.clear();
  CHECK(io_test::mentions(
      io_test::error_of<mole::ArgumentError>([&] { open_experts<float>({set}, folder / "experts"); }),
      {"has no digest"}));
}

}  // namespace expert_store
