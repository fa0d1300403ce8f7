// The file a training run is resumed from: what it keeps, and what it refuses.

#include <doctest/doctest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <limits>
#include <string>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include <io/folder.hpp>

#include <mole/autodiff/backward.hpp>
#include <mole/backends/cpu.hpp>
#include <mole/io/run_checkpoint.hpp>
#include <mole/ops/arithmetic.hpp>
#include <mole/ops/reduce.hpp>
#include <mole/optim/adamw.hpp>

namespace {

namespace fs = std::filesystem;
using io_test::error_of;
using io_test::Folder;
using io_test::mentions;
using io_test::read_text;
using io_test::write_text;
using mole::Index;
using mole::Shape;
using Values = mole::Tensor<float, mole::Cpu>;

/// Two parameters after three steps, the second of which sat one out.
mole::RunState state() {
  mole::RunState made;
  const std::vector<float> values{1, -2, 3, 0.5F, 1e-30F, 6};
  made.tensors = {{"parameter.0", {3, 2}, values},
                  {"parameter.1", {6}, values},
                  {"state.0", {3, 2}, values},
                  {"state.1", {6}, values}};
  made.steps = {3, 2};
  for (Index step = 0; step < 3; ++step)
    made.curves.add(step, {{"loss", 1.0 / static_cast<double>(step + 1)}, {"balance", HUGE_VAL}});
  return made;
}

/// What a run knows before it reads its checkpoint.
mole::RunState blank() {
  auto made = state();
  for (auto& tensor : made.tensors) tensor.values = std::vector<float>(6);
  made.steps = {0, 0};
  made.curves = {};
  return made;
}

bool same(const mole::RunState& a, const mole::RunState& b) {
  bool equal = a.steps == b.steps && a.curves.step == b.curves.step && a.curves.series == b.curves.series &&
               a.tensors.size() == b.tensors.size();
  for (std::size_t i = 0; equal && i < a.tensors.size(); ++i)
    equal = a.tensors[i].name == b.tensors[i].name && a.tensors[i].shape == b.tensors[i].shape &&
            a.tensors[i].values.index() == b.tensors[i].values.index();
  for (std::size_t i = 0; equal && i < a.tensors.size(); ++i)
    equal = std::visit(
        [&](const auto& values) {
          const auto& others = std::get<std::decay_t<decltype(values)>>(b.tensors[i].values);
          if (values.size() != others.size()) return false;
          return values.empty() ||
                 std::memcmp(values.data(), others.data(), values.size() * sizeof(values[0])) == 0;
        },
        a.tensors[i].values);
  return equal;
}

/// The error of reading `file`, which must leave the state as it was.
std::string refused(const fs::path& file, const std::string& run = "run") {
  auto read = blank();
  const auto error = error_of([&] { mole::load_run(file, run, read); });
  CHECK(same(read, blank()));
  return error;
}

/// A file of the state, as save_run() writes it and signs it: `change` damages it before.
template <class F>
std::string refused_state(F change) {
  const Folder folder;
  auto changed = state();
  change(changed);
  mole::save_run(folder / "run", "run", changed);
  return refused(folder / "run");
}

mole::StepFunction squares(const Values& x) {
  return [=](Index) {
    const auto loss = mole::sum(mole::mul(x, x));
    mole::backward(loss);
    return mole::StepResult{static_cast<double>(loss.item())};
  };
}

}  // namespace

TEST_CASE("A run's state is read back to the bit, in every scalar") {
  const Folder folder;
  auto written = state();
  written.tensors.push_back({"state.2", {2}, std::vector<double>{1.0 / 3, -1e300}});
  written.tensors.push_back({"state.3", {2}, std::vector<mole::bf16>{mole::bf16(0.1), mole::bf16(3e38)}});
  written.tensors.push_back({"state.4", {2}, std::vector<mole::half>{mole::half(0.1), mole::half(-65504)}});
  written.tensors.push_back({"state.5", {0, 3}, std::vector<float>{}});
  auto read = written;
  for (auto& tensor : read.tensors)
    std::visit([](auto& values) { values.assign(values.size(), {}); }, tensor.values);
  read.steps = {0, 0};
  read.curves = {};
  mole::save_run(folder / "run", "run", written);
  mole::load_run(folder / "run", "run", read);
  CHECK(same(read, written));
  CHECK(folder.count() == 1);
}

TEST_CASE("A checkpoint with any bit flipped, cut at any length or made longer is refused") {
  const Folder folder;
  mole::save_run(folder / "run", "run", state());
  const auto good = read_text(folder / "run");
  const auto accepted = [&](const std::string& bytes) {
    write_text(folder / "run", bytes);
    return refused(folder / "run").empty();
  };
  std::vector<std::size_t> missed;
  for (std::size_t at = 0; at < good.size(); ++at)
    for (int bit = 0; bit < 8; ++bit) {
      auto bytes = good;
      bytes[at] = static_cast<char>(static_cast<unsigned char>(bytes[at]) ^ (1U << bit));
      if (accepted(bytes)) missed.push_back(8 * at + static_cast<std::size_t>(bit));
    }
  CHECK(missed == std::vector<std::size_t>{});
  for (std::size_t length = 0; length < good.size(); ++length)
    if (accepted(good.substr(0, length))) missed.push_back(length);
  CHECK(missed == std::vector<std::size_t>{});
  CHECK_FALSE(accepted(good + '\0'));
  write_text(folder / "run", good);
  auto read = blank();
  mole::load_run(folder / "run", "run", read);
  CHECK(same(read, state()));
}

TEST_CASE("Contents that were exchanged for others of the same form are refused") {
  const Folder folder;
  auto other = state();
  std::get<std::vector<float>>(other.tensors[1].values)[2] = 3.0000002F;
  mole::save_run(folder / "run", "run", state());
  mole::save_run(folder / "other", "run", other);
  const auto good = read_text(folder / "run"), changed = read_text(folder / "other");
  // The header of one, digest included, before the tensors of the other.
  REQUIRE(good.size() == changed.size());
  std::uint64_t header = 0;
  std::memcpy(&header, good.data(), sizeof header);
  write_text(folder / "run", good.substr(0, 8 + header) + changed.substr(8 + header));
  CHECK(mentions(refused(folder / "run"), {(folder / "run").string(), "digest", "damaged"}));
}

TEST_CASE("Numbers that cannot be a run's are refused with the tensor that holds them") {
  using Floats = std::vector<float>;
  const float nan = std::numeric_limits<float>::quiet_NaN(), inf = std::numeric_limits<float>::infinity();
  const auto put = [](mole::RunState& s, std::size_t tensor, std::size_t at, float value) {
    std::get<Floats>(s.tensors[tensor].values)[at] = value;
  };
  CHECK(mentions(refused_state([&](auto& s) { put(s, 1, 4, nan); }), {"'parameter.1'", "nan at position 4"}));
  CHECK(mentions(refused_state([&](auto& s) { put(s, 2, 0, -inf); }), {"'state.0'", "-inf at position 0"}));
  CHECK(mentions(refused_state([](auto& s) { s.steps = {3, 4}; }), {"'steps'", "4 of 3", "parameter 1"}));
  CHECK(mentions(refused_state([](auto& s) { s.steps = {-1, 3}; }), {"'steps'", "-1 of 3", "parameter 0"}));
  CHECK(mentions(refused_state([](auto& s) { s.steps = {3, 3, 3}; }), {"'steps'", "[3]", "[2]"}));
  CHECK(mentions(refused_state([](auto& s) { s.curves.step = {1, 2, 4}; }), {"'curves'", "4 as step 3"}));
  CHECK(mentions(refused_state([](auto& s) { s.curves.step = {0, 1, 2}; }), {"'curves'", "0 as step 1"}));
  CHECK(mentions(refused_state([&](auto& s) { s.curves.series[0].second[1] = nan; }),
                 {"'curves'", "loss nan at step 2"}));
  CHECK(mentions(refused_state([](auto& s) { s.curves = {}; }), {"'steps'", "3 of 0"}));
}

TEST_CASE("Tensors that are not the run's are refused by name") {
  CHECK(mentions(refused_state([](auto& s) { s.tensors.pop_back(); }), {"'state.1'", "missing"}));
  CHECK(mentions(refused_state([](auto& s) {
                   s.tensors.push_back({"state.2", {1}, std::vector<float>(1)});
                 }),
                 {"'state.2'", "no part of this run"}));
  CHECK(mentions(refused_state([](auto& s) {
                   s.tensors[0].shape = {2, 3};
                 }),
                 {"'parameter.0'", "[2, 3]", "[3, 2]"}));
  CHECK(mentions(refused_state([](auto& s) { s.tensors[0].values = std::vector<double>(6); }),
                 {"'parameter.0'", "F64", "F32"}));
}

TEST_CASE("Files that are no checkpoint, or one without a digest, are refused") {
  const Folder folder;
  const auto write = [&](const std::vector<std::pair<std::string, std::string>>& metadata, bool with_curves) {
    mole::SafetensorsWriter writer;
    for (const auto& [key, value] : metadata) writer.metadata(key, value);
    for (const auto& tensor : state().tensors)
      writer.add(tensor.name, mole::Dtype::F32, tensor.shape, std::get<std::vector<float>>(tensor.values));
    writer.add("steps", mole::Dtype::I64, Shape{2}, std::vector<Index>{3, 2});
    if (with_curves)
      writer.add("curves", mole::Dtype::F64, Shape{2, 3}, std::vector<double>{1, 2, 3, 0.5, 0.25, 0.125});
    writer.write(folder / "run");
    return refused(folder / "run");
  };
  CHECK(mentions(write({}, true), {"no checkpoint of a run", "'run'"}));
  CHECK(mentions(write({{"run", "run"}}, true), {"'curves' is missing"}));
  CHECK(mentions(write({{"run", "run"}, {"curves", "loss\n"}}, false), {"'curves' is missing"}));
  CHECK(mentions(write({{"run", "run"}, {"curves", "loss\nbalance\n"}}, true),
                 {"'curves'", "[2, 3]", "2 series"}));
  CHECK(mentions(write({{"run", "run"}, {"curves", std::string(200'000, '\n')}}, true), {"'curves'"}));
  CHECK(mentions(write({{"run", "run"}, {"curves", "loss\n"}}, true),
                 {(folder / "run").string(), "no digest", "another release", "anew"}));
  CHECK(mentions(write({{"run", "run"}, {"curves", "loss\n"}, {"digest", "0123456789abcdef"}}, true),
                 {"digest", "0123456789abcdef", "damaged"}));
  write_text(folder / "run", "not a checkpoint");
  CHECK(mentions(refused(folder / "run"), {(folder / "run").string()}));
  auto read = blank();
  CHECK(
      mentions(error_of<mole::Error>([&] { mole::load_run(folder / "nowhere", "run", read); }), {"nowhere"}));
}

TEST_CASE("What no checkpoint can hold is not written") {
  const Folder folder;
  const auto unwritten = [&](auto change) {
    auto changed = state();
    change(changed);
    CHECK_THROWS_AS(mole::save_run(folder / "run", "run", changed), mole::ArgumentError);
    CHECK(folder.count() == 0);
  };
  unwritten([](auto& s) { s.curves.series[0].first = "the\nloss"; });
  unwritten([](auto& s) { s.curves.series[0].second.pop_back(); });
  unwritten([](auto& s) { s.tensors[0].shape = {7}; });
  unwritten([](auto& s) { s.tensors[1].name = "parameter.0"; });
}

TEST_CASE("A run is resumed from its file to the same bits, and refused once the file is damaged") {
  const Folder folder;
  const auto file = folder / "run";
  mole::TrainingOptions options;
  options.steps = 12;
  options.checkpoint_every = 5;
  const auto begin = [] { return Values::from({3}, {1, -2, 3}).set_requires_grad(); };
  const auto unbroken = begin(), x = begin(), y = begin(), z = begin();
  mole::AdamW<float, mole::Cpu> whole({unbroken}), broken({x}), resumed({y}), refusing({z});
  train(whole, options, squares(unbroken));
  mole::TrainingHooks hooks;
  Index done = 0;
  hooks.progress = [&](Index now, double) { done = now; };
  hooks.stop = [&] { return done == 7; };
  CHECK_THROWS_AS(train(broken, options, squares(x), mole::run_checkpoints(file, "run", false), hooks),
                  mole::Interrupted);
  const auto saved = read_text(file);
  const auto curves = train(resumed, options, squares(y), mole::run_checkpoints(file, "run", true));
  CHECK(y.to_host() == unbroken.to_host());
  CHECK(curves.step.size() == 12);

  auto damaged = saved;
  damaged[damaged.size() - 2] = static_cast<char>(damaged[damaged.size() - 2] ^ 1);
  write_text(file, damaged);
  CHECK_THROWS_AS(train(refusing, options, squares(z), mole::run_checkpoints(file, "run", true)),
                  mole::FormatError);
  CHECK(z.to_host() == begin().to_host());
  CHECK(read_text(file) == damaged);
}

TEST_CASE("A checkpoint that cannot be written is an error before the first step") {
  const Folder folder;
  fs::create_directories(folder / "taken");
  mole::TrainingOptions options;
  options.steps = 2;
  const auto x = Values::from({1}, {1}).set_requires_grad();
  mole::AdamW<float, mole::Cpu> optimizer({x});
  for (const auto& file : {folder / "taken", folder / "none" / "run"}) {
    int steps = 0;
    const auto step = [&](Index) { return ++steps, mole::StepResult{1.0}; };
    CHECK(mentions(error_of<mole::Error>(
                       [&] { train(optimizer, options, step, mole::run_checkpoints(file, "run", false)); }),
                   {file.string()}));
    CHECK(steps == 0);
  }
  CHECK(folder.count() == 1);
}

TEST_CASE("A run does not replace a file that is no checkpoint") {
  const Folder folder;
  const auto file = folder / "weights";
  write_text(file, "all that I have");
  CHECK(mentions(error_of<mole::ArgumentError>([&] { mole::run_checkpoints(file, "run", false).prepare(); }),
                 {file.string(), "no checkpoint of a run"}));
  CHECK(read_text(file) == "all that I have");
  write_text(file, "");
  CHECK_NOTHROW(mole::run_checkpoints(file, "run", false).prepare());
  mole::save_run(file, "another run", mole::RunState{});
  CHECK_NOTHROW(mole::run_checkpoints(file, "run", false).prepare());
}

TEST_CASE("A checkpoint of another run is refused with what differs") {
  const Folder folder;
  mole::save_run(folder / "run", "steps 3 seed 1", state());
  CHECK(
      mentions(refused(folder / "run", "steps 3 seed 2"),
               {(folder / "run").string(), "another run", "there: steps 3 seed 1", "here:  steps 3 seed 2"}));
  // Long ones, and ones that would write to a terminal, are shown in part.
  const std::string many(5000, 'x');
  mole::save_run(folder / "run", many + "\x1b[31mred" + many, state());
  const auto error = refused(folder / "run", many + "blue" + many);
  CHECK(mentions(error, {"xx?[31mredxx", "xxbluexx"}));
  CHECK(error.size() < 4000);
  CHECK(error.find('\x1b') == error.npos);
}
