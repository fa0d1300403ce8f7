// What saves and readers do when the machine fails them. `faults files`: each call of each save that changes a file
// goes wrong once, by a kill, a full disk, an I/O error, a signal, a short write; afterwards the folder holds the old
// or the new, never a mixture, and the next save works. Needs shim.cpp preloaded. `faults memory`: each allocation
// of each reader and save fails once; that is a documented error, and nothing is lost.

#include <dlfcn.h>
#include <execinfo.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <new>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <mole/backends/cpu.hpp>
#include <mole/io/expert_store.hpp>
#include <mole/io/gates.hpp>
#include <mole/io/json.hpp>
#include <mole/io/lora_set.hpp>
#include <mole/io/run_checkpoint.hpp>
#include <mole/io/save_lora_set.hpp>
#include <mole/models/t5/checkpoint.hpp>

#include "model_pairs.hpp"
#include "readers.hpp"

namespace {

// Allocations: how many are alive, which one fails.
long alive = 0, until_failure = -1, spared = 0;

/// Whether `address` lies in nlohmann's destructor of a value, or in its constructor from a list.
bool is_json_itself(void* address) {
  Dl_info frame{};
  if (::dladdr(address, &frame) == 0 || !frame.dli_sname) return false;
  const std::string_view name = frame.dli_sname;
  if (name.find("basic_json") == name.npos) return false;
  const bool destroys =
      name.ends_with("D1Ev") || name.ends_with("D2Ev") || name.find("7destroyE") != name.npos;
  const bool lists =
      name.find("C1ESt16initializer_list") != name.npos || name.find("C2ESt16initializer_list") != name.npos;
  return destroys || lists;
}

/// The same, from a table: dladdr reads all of the program's names each time. Once the table is full it is asked again.
bool is_known_json_itself(void* address) noexcept {
  struct Answer {
    void* address;
    bool is_json;
  };
  static std::array<Answer, 4096> answers{};
  std::size_t at = reinterpret_cast<std::uintptr_t>(address) % answers.size();
  for (std::size_t tried = 0; tried < answers.size(); ++tried, at = (at + 1) % answers.size()) {
    Answer& answer = answers[at];
    if (!answer.address) answer = {address, is_json_itself(address)};
    if (answer.address == address) return answer.is_json;
  }
  return is_json_itself(address);
}

/// Whether one of these two is at work. The first allocates, and a failure there ends the process; the second loses
/// what it has made when it fails. No caller can help either: the sweep leaves these allocations alone.
bool in_json_itself() noexcept {
  void* frames[64];
  const int count = ::backtrace(frames, 64);
  return std::any_of(frames, frames + count, is_known_json_itself);
}

void* allocated(std::size_t bytes, std::size_t alignment) noexcept {
  if (until_failure > 0 && --until_failure == 0) {
    if (!in_json_itself()) return nullptr;
    ++spared;
  }
  void* const p = alignment == 0
                      ? std::malloc(bytes)
                      : std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
  if (p) ++alive;
  return p;
}
void released(void* p) noexcept {
  if (p) --alive;
  std::free(p);
}
void* or_throw(void* p) {
  if (!p) throw std::bad_alloc();
  return p;
}

}  // namespace

void* operator new(std::size_t bytes) { return or_throw(allocated(bytes, 0)); }
void* operator new(std::size_t bytes, const std::nothrow_t&) noexcept { return allocated(bytes, 0); }
void* operator new(std::size_t bytes, std::align_val_t to) {
  return or_throw(allocated(bytes, std::size_t(to)));
}
void* operator new(std::size_t bytes, std::align_val_t to, const std::nothrow_t&) noexcept {
  return allocated(bytes, std::size_t(to));
}
void operator delete(void* p) noexcept { released(p); }
void operator delete(void* p, std::size_t) noexcept { released(p); }
void operator delete(void* p, std::align_val_t) noexcept { released(p); }
void operator delete(void* p, std::size_t, std::align_val_t) noexcept { released(p); }

namespace {

namespace fs = std::filesystem;
using mole::Index;
using mole::Shape;
using Model = mole::T5<float, mole::Cpu>;

int failures = 0;

void fail(const std::string& what) {
  if (++failures <= 20) std::printf("FAILED: %s\n", what.c_str());
}

/// Of version 1 or 2, which differ in sizes and numbers.
Model model_of(int version) {
  mole::T5Config config;
  config.vocab_size = 11;
  config.d_model = 6;
  config.d_kv = 3;
  config.d_ff = 6 + version;
  config.num_heads = 2;
  config.num_layers = config.num_decoder_layers = 1;
  config.relative_attention_num_buckets = 8;
  config.relative_attention_max_distance = 16;
  config.generation = mole::GenerationTokens{version, version + 2, {version + 4}};
  Model model(config);
  mole::Generator generator{static_cast<std::uint64_t>(version)};
  model.initialize(generator);
  return model;
}

mole::LoraSet adapter_of(int version) {
  mole::LoraSet set{"adapter", "digest", {}, {}};
  const std::string start = "encoder.block.0.layer.0.SelfAttention.";
  const double value = version;
  const Index rank = version;
  for (const char* name : {"q", "k", "v"}) set.slots.push_back(start + name);
  set.factors = [=](const std::string&) {
    return mole::LoraFactors{rank,
                             6,
                             6,
                             0.5,
                             std::vector<double>(static_cast<std::size_t>(rank * 6), value),
                             std::vector<double>(static_cast<std::size_t>(rank * 6), value)};
  };
  return set;
}

mole::RunState run_of(int version) {
  mole::RunState state;
  state.tensors = {{"parameter.0", {4}, std::vector<float>(4, static_cast<float>(version))}};
  state.steps = {version};
  for (Index step = 0; step < version; ++step) state.curves.add(step, {{"loss", 1.0}});
  return state;
}

std::vector<Kind> all_kinds() {
  auto kinds = model_pairs();
  kinds.push_back({"t5",
                   [](const fs::path& to, int version) {
                     auto model = model_of(version);
                     mole::save_t5(to, model, mole::Dtype::F32);
                   },
                   [](const fs::path& from) {
                     auto model = mole::load_t5<float, mole::Cpu>(from);
                     const int version = static_cast<int>(model.config().d_ff - 6);
                     auto wanted = model_of(version);
                     std::vector<std::vector<float>> a, b;
                     model.visit([&](const auto&, const Shape&, auto& x) { a.push_back(x.to_host()); });
                     wanted.visit([&](const auto&, const Shape&, auto& x) { b.push_back(x.to_host()); });
                     const bool tokens = model.config().generation == wanted.config().generation;
                     return a == b && tokens ? version : 0;
                   },
                   3});
  kinds.push_back(
      {"adapter",
       [](const fs::path& to, int version) { mole::save_lora_set<float>(to, adapter_of(version)); },
       [](const fs::path& from) {
         const auto set = mole::lora_set(mole::load_adapter(from));
         int version = 0;
         for (const auto& slot : set.slots) {
           const auto factors = set.factors(slot);
           version = static_cast<int>(factors.rank);
           if (factors.A != std::vector<double>(factors.A.size(), version)) return 0;
         }
         return version;
       },
       2});
  kinds.push_back({"gates",
                   [](const fs::path& to, int version) {
                     auto model = model_of(1);
                     model.attach({adapter_of(1),
                                   [] {
                                     auto b = adapter_of(2);
                                     b.name = "b";
                                     return b;
                                   }()},
                                  mole::GateOptions{.scope = mole::Scope::matrix});
                     for (const auto& gate : model.mixer().gates())
                       gate.gate.log_tau.assign(
                           mole::Tensor<float, mole::Cpu>::full({}, static_cast<float>(version)));
                     fs::create_directories(to);
                     mole::save_gates(to / "gates", model.mixer());
                   },
                   [](const fs::path& from) {
                     const auto file = mole::read_gates(from / "gates");
                     int version = 0;
                     for (const auto& name : file.stored->names())
                       if (name.ends_with("log_temperature"))
                         version = static_cast<int>(file.stored->read<float>(name)[0]);
                     return version;
                   },
                   1});
  kinds.push_back({"expert",
                   [](const fs::path& to, int version) {
                     fs::create_directories(to);
                     mole::detail::write_expert<float>(to / "expert", adapter_of(version));
                   },
                   [](const fs::path& from) {
                     const auto set = adapter_of(1);
                     const mole::detail::ExpertFile<float> file(from / "expert", set);
                     int version = 0;
                     for (const auto& slot : set.slots) {
                       const auto& entry = file.at(slot);
                       if (!file.is_whole(entry)) return 0;
                       version = static_cast<int>(entry.A.shape[0]);
                     }
                     return version;
                   },
                   1});
  kinds.push_back({"run",
                   [](const fs::path& to, int version) {
                     fs::create_directories(to);
                     mole::save_run(to / "run", "a run", run_of(version));
                   },
                   [](const fs::path& from) {
                     auto state = run_of(1);
                     mole::load_run(from / "run", "a run", state);
                     return static_cast<int>(state.steps[0]);
                   },
                   1});
  kinds.push_back(
      {"json",
       [](const fs::path& to, int version) {
         fs::create_directories(to);
         mole::write_json(to / "file.json", {{"version", version}});
       },
       [](const fs::path& from) { return mole::read_json(from / "file.json")["version"].get<int>(); }, 1});
  return kinds;
}

std::size_t files_in(const fs::path& folder) {
  return static_cast<std::size_t>(std::distance(fs::directory_iterator(folder), {}));
}

using Arm = void (*)(int call, int how);
using Disarm = int (*)();

/// Saves version 2 over 1 in a child process whose call number `call` goes wrong. Returns the child's end: 0 saved,
/// 1 a mole::Error, 2 another exception, 100 + n killed by signal n.
int save_in_child(const Kind& kind, const fs::path& folder, int call, int how, Arm arm, Disarm disarm,
                  int* calls) {
  int ends[2];
  if (::pipe(ends) != 0) std::abort();
  const pid_t child = ::fork();
  if (child == 0) {
    int end = 0;
    arm(call, how);
    try {
      kind.save(folder, 2);
    } catch (const mole::Error&) {
      end = 1;
    } catch (...) {
      end = 2;
    }
    const int count = disarm();
    if (::write(ends[1], &count, sizeof count) != sizeof count) end = 3;
    ::_exit(end);
  }
  ::close(ends[1]);
  int status = 0, count = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) continue;
  if (::read(ends[0], &count, sizeof count) == sizeof count && calls) *calls = count;
  ::close(ends[0]);
  return WIFSIGNALED(status) ? 100 + WTERMSIG(status) : WEXITSTATUS(status);
}

int version_in(const Kind& kind, const fs::path& folder) {
  try {
    return kind.load(folder);
  } catch (const std::exception& error) {
    std::printf("%s\n", error.what());
    return -1;
  }
}

void check_files(const fs::path& root) {
  const auto arm = reinterpret_cast<Arm>(::dlsym(RTLD_DEFAULT, "mole_faults_arm"));
  const auto disarm = reinterpret_cast<Disarm>(::dlsym(RTLD_DEFAULT, "mole_faults_disarm"));
  if (!arm || !disarm) return fail("shim.cpp is not preloaded");
  const std::vector<std::pair<const char*, int>> ways{
      {"kill", 1}, {"short write", 2}, {"ENOSPC", ENOSPC}, {"EIO", EIO}, {"EINTR", EINTR}};
  for (const auto& kind : all_kinds()) {
    const auto folder = root / kind.name;
    kind.save(folder, 1);
    int calls = 0;
    if (save_in_child(kind, folder, 0, 0, arm, disarm, &calls) != 0 || version_in(kind, folder) != 2)
      fail(kind.name + ": a save without a fault");
    long faults = 0, kept_old = 0;
    for (const auto& [way, how] : ways) {
      for (int call = 1; call <= calls; ++call) {
        const std::string where =
            kind.name + ": call " + std::to_string(call) + " of " + std::to_string(calls) + " by " + way;
        kind.save(folder, 1);
        const int end = save_in_child(kind, folder, call, how, arm, disarm, nullptr);
        const bool killed = end == 100 + SIGKILL;
        if (end != 0 && end != 1 && !killed) fail(where + ": the process ends with " + std::to_string(end));
        const int version = version_in(kind, folder);
        if (version != 1 && version != 2) fail(where + ": neither old nor new");
        if (end == 0 && version != 2) fail(where + ": saved without an error, but the old is there");
        ++faults;
        kept_old += version == 1;
        // What a killed save left is removed by the next.
        kind.save(folder, 1);
        if (version_in(kind, folder) != 1) fail(where + ": the next save does not work");
        if (files_in(folder) != kind.files) fail(where + ": files are left over");
      }
    }
    std::printf("%s: %d calls, %ld faults, the old kept in %ld\n", kind.name.c_str(), calls, faults,
                kept_old);
    if (calls < 4 || kept_old == 0 || kept_old == faults) fail(kind.name + ": the faults do not bite");
  }
}

void check_memory(const fs::path& root) {
  struct Work {
    std::string name;
    std::function<void()> run;
  };
  std::vector<Work> all;
  const auto kinds = all_kinds();
  for (const auto& kind : kinds) {
    const auto folder = root / kind.name;
    kind.save(folder, 1);
    all.push_back({"load " + kind.name, [&kind, folder] { kind.load(folder); }});
    all.push_back({"save " + kind.name, [&kind, folder] { kind.save(folder, 1); }});
  }
  for (auto& [name, read] : other_readers()) all.push_back({"load " + name, std::move(read)});
  in_json_itself();  // loads what a backtrace needs
  for (const auto& work : all) {
    work.run();  // what is made once and kept, such as tables of a locale, is made here
    const long before = alive;
    until_failure = 1L << 40;
    work.run();
    const long count = (1L << 40) - until_failure;
    until_failure = -1;
    long errors = 0, exhausted = 0, tried = 0;
    spared = 0;
    // All of the first, and a sample of what repeats.
    for (long at = 1; at <= count; at += at < 400 ? 1 : 1 + count / 400) {
      ++tried;
      until_failure = at;
      try {
        work.run();
      } catch (const mole::Error&) {
        ++errors;
      } catch (const std::bad_alloc&) {
        ++exhausted;
      } catch (...) {
        fail(work.name + ": an undocumented exception at allocation " + std::to_string(at));
      }
      until_failure = -1;
      if (alive != before)
        fail(work.name + ": " + std::to_string(alive - before) +
             " allocations are lost after a failure of number " + std::to_string(at));
    }
    std::printf("%s: %ld allocations, %ld tried: %ld errors, %ld bad_alloc, %ld in JSON itself\n",
                work.name.c_str(), count, tried, errors, exhausted, spared);
    std::fflush(stdout);
    if (errors + exhausted == 0) fail(work.name + ": the faults do not bite");
    try {
      work.run();
    } catch (const std::exception& error) {
      fail(work.name + " does not work afterwards: " + error.what());
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  const std::string what = argc > 1 ? argv[1] : "";
  const auto root = fs::temp_directory_path() / ("mole-faults-" + std::to_string(::getpid()));
  fs::create_directories(root);
  if (what == "files")
    check_files(root);
  else if (what == "memory")
    check_memory(root);
  else
    fail("expected files or memory");
  fs::remove_all(root);
  if (failures > 0) std::printf("%d failures\n", failures);
  return failures == 0 ? 0 : 1;
}
