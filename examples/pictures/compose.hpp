#pragma once
// `pictures compose`: trains gates over trained LoRAs and compares with other ways to combine them. Rows do not depend
// on each other: on a processor each core works on a row of its own. Several ranks first train the gates of one row
// after another together; then the first rank makes the rows.

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <filesystem>
#include <functional>
#include <iostream>
#include <map>
#include <mutex>
#include <numeric>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <omp.h>

#include <mole/io/gates.hpp>

#include "common/files.hpp"
#include "common/progress.hpp"
#include "pictures/commands.hpp"
#include "pictures/compose_run.hpp"
#include "pictures/meters.hpp"
#include "pictures/paint.hpp"
#include "pictures/spectral_file.hpp"

namespace pictures {

/// What all rows share.
template <class B>
struct Lab {
  const Sprites& sprites;
  std::vector<Index> subjects;
  Experts<B> experts;
  Prompts prompts;
  OwnPictures<B> own;
  const Meters<B>& meters;
  const ComposeOptions& options;
  const std::map<std::string, mole::Curves>& trained;  ///< rows whose gates were trained before, by name
};

/// Units of work of a gate step.
inline Index step_work(const GateTraining& training) {
  return training.pictures * (training.clip > 0 && training.own > 0 ? 2 : 1);
}

/// Units of work of a row: gate steps and batches of pictures, by about what they cost.
inline Index work_of(const Method& method, const Prompts& prompts, std::size_t n_experts, bool trained) {
  const auto pictures = static_cast<Index>(prompts.two.size() + prompts.three.size());
  const Index training = method.trains() && !trained ? method.training.steps * step_work(method.training) : 0;
  const Index factor = method.kind == Method::Kind::composite ? static_cast<Index>(n_experts) : 1;
  return training + 6 * factor * pictures;
}

/// What a run that was stopped says. A row that was not done leaves nothing.
inline mole::Interrupted stopped_at_a_row() {
  return mole::Interrupted("compose: stopped; the gates of rows that were done are saved");
}

/// train(), which, where it is stopped, speaks of the rows and not of the gates it was at.
template <class F>
mole::Curves told_by_rows(F train) {
  try {
    return train();
  } catch (const mole::Interrupted&) {
    throw stopped_at_a_row();
  }
}

/// One row: gates trained where it has any, pictures painted and measured. `tick` is called with units of work.
/// Throws mole::Interrupted where `stop` says so.
template <class B>
Row make_row(Painter<B>& painter, const Method& method, const Lab<B>& lab,
             const std::function<void(Index)>& tick, const std::function<bool()>& stop) {
  const auto& options = lab.options;
  Row row{.method = method};
  set_up(painter, method, lab.experts);
  if (const auto before = lab.trained.find(method.name); before != lab.trained.end()) {
    row.curves = before->second;
    mole::load_gates(options.out / gates_file(method), painter.unet.mixer());
  } else if (method.trains()) {
    mole::TrainingHooks hooks;
    hooks.stop = stop;
    hooks.progress = [&](Index done, double) {
      if (done > 0) tick(step_work(method.training));
    };
    row.curves = told_by_rows([&] {
      return train_gates(painter, method.training, lab.prompts.training, lab.sprites, lab.own, options.seed,
                         options.ranks, hooks);
    });
    mole::save_gates(options.out / gates_file(method), painter.unet.mixer());
  }
  const Index factor =
      method.kind == Method::Kind::composite ? static_cast<Index>(lab.experts.loras.size()) : 1;
  std::size_t numbered = 0;
  const auto painted = [&](const std::vector<Scene>& scenes, std::vector<common::GateMap>& maps) {
    Paintings what{scenes, lab.subjects, options.steps, options.seed + 8, numbered};
    numbered += scenes.size();
    Look<B> look;
    if (method.trains() && method.training.gates.pooling == mole::Pooling::token) {
      maps.resize(scenes.size());
      look = [&](std::size_t first, const mole::SampledStep<Scalar, B>& step) {
        common::gather_maps(painter.unet.mixer(), first, step, options.steps, maps);
      };
    }
    return paint<B>(
        painter, method, what, lab.sprites,
        [&](std::size_t n) {
          tick(6 * factor * static_cast<Index>(n));
          if (stop()) throw stopped_at_a_row();
        },
        look);
  };
  row.two = painted(lab.prompts.two, row.maps);
  std::vector<common::GateMap> of_three;
  row.three = painted(lab.prompts.three, of_three);
  row.maps.insert(row.maps.end(), of_three.begin(), of_three.end());
  row.measured_two = lab.meters(lab.prompts.two, row.two);
  row.measured_three = lab.meters(lab.prompts.three, row.three);
  painter.unet.detach();
  return row;
}

/// All rows: each worker, a thread with models of its own, takes the longest that is left. `finished`, if any, sees
/// each row as soon as it is made, one at a time.
template <class B>
std::vector<Row> make_rows(const std::vector<Method>& methods, const Lab<B>& lab,
                           const std::function<void(const Row&)>& finished = {}) {
  std::vector<std::size_t> order(methods.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  const auto work = [&](std::size_t i) {
    return work_of(methods[i], lab.prompts, lab.experts.loras.size(), lab.trained.contains(methods[i].name));
  };
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return work(a) > work(b); });
  Index total = 0;
  for (const std::size_t i : order) total += work(i);
  const std::size_t cores =
      std::string(B::name) == "cpu" ? static_cast<std::size_t>(omp_get_max_threads()) : 1;
  const std::size_t workers = std::min(cores, methods.size());
  const int threads = static_cast<int>(std::max<std::size_t>(1, cores / workers));

  std::vector<std::optional<Row>> rows(methods.size());
  common::Progress bar("rows", total);
  const mole::CatchInterrupt interrupt;
  std::mutex mutex;  // of the bar and the first failure
  std::exception_ptr failure;
  std::atomic<bool> failed{false};
  std::atomic<std::size_t> next{0};
  Index done = 0;
  const auto worker = [&](Painter<B>& painter) {
    try {
      for (std::size_t i; !failed && (i = next++) < order.size();) {
        auto row = make_row<B>(
            painter, methods[order[i]], lab,
            [&](Index units) {
              const std::lock_guard lock(mutex);
              bar.update(done += units);
            },
            [&] { return failed || interrupt.requested(); });
        if (finished) {
          const std::lock_guard lock(mutex);
          finished(row);
        }
        rows[order[i]] = std::move(row);
      }
    } catch (...) {
      const std::lock_guard lock(mutex);
      if (!failed.exchange(true)) failure = std::current_exception();
    }
  };
  std::vector<Painter<B>> painters;
  for (std::size_t i = 0; i < workers; ++i) painters.push_back(load_painter<B>(lab.options.base));
  if (workers == 1) {
    worker(painters.front());
  } else {
    std::vector<std::thread> pool;
    for (auto& painter : painters)
      pool.emplace_back([&worker, &painter, threads] {
        omp_set_num_threads(threads);  // of this thread's loops alone
        worker(painter);
      });
    for (auto& thread : pool) thread.join();
  }
  if (failure) std::rethrow_exception(failure);
  bar.finish();
  std::vector<Row> all;
  for (auto& row : rows) all.push_back(std::move(*row));
  return all;
}

/// Trains the gates of all rows that have any, one after another, with the other ranks. The first writes them; their
/// curves are returned by the rows' names. Throws as train_gates().
template <class B>
std::map<std::string, mole::Curves> train_together(const std::vector<Method>& methods,
                                                   const Experts<B>& experts, const Prompts& prompts,
                                                   const Sprites& sprites, const OwnPictures<B>& own,
                                                   const ComposeOptions& options) {
  const auto& ranks = options.ranks;
  auto painter = load_painter<B>(options.base);
  Index total = 0, before = 0;
  for (const auto& method : methods)
    if (method.trains()) total += method.training.steps * step_work(method.training);
  std::optional<common::Progress> bar;
  if (ranks.first()) bar.emplace("gates", total);
  const mole::CatchInterrupt interrupt;
  std::map<std::string, mole::Curves> curves;
  for (const auto& method : methods) {
    if (!method.trains()) continue;
    set_up(painter, method, experts);
    mole::TrainingHooks hooks;
    hooks.stop = [&] { return interrupt.requested(); };
    hooks.progress = [&](Index done, double) {
      if (bar) bar->update(before + done * step_work(method.training));
    };
    curves[method.name] = told_by_rows([&] {
      return train_gates(painter, method.training, prompts.training, sprites, own, options.seed, ranks,
                         hooks);
    });
    before += method.training.steps * step_work(method.training);
    if (ranks.first()) mole::save_gates(options.out / gates_file(method), painter.unet.mixer());
  }
  return curves;
}

/// What the measures say of true pictures of the same prompts.
template <class B>
Row true_row(const Lab<B>& lab) {
  Row real{.method = {.name = true_pictures}};
  mole::Generator random{lab.options.seed + 77};
  for (const auto& scene : lab.prompts.two)
    real.two.push_back(render(scene, place(scene.layout, random.next()), lab.sprites));
  for (const auto& scene : lab.prompts.three)
    real.three.push_back(render(scene, place(scene.layout, random.next()), lab.sprites));
  real.measured_two = lab.meters(lab.prompts.two, real.two);
  real.measured_three = lab.meters(lab.prompts.three, real.three);
  return real;
}

/// Gives the experts SVDiff's shifts. Returns what is missing, empty if nothing is.
template <class B>
std::string add_shifts(const Painter<B>& painter, const std::vector<std::string>& names,
                       Experts<B>& experts) {
  for (const auto& name : names) {
    const auto file = expert_place(name).path / spectral_file;
    if (!std::filesystem::exists(file))
      return "no rows of SVDiff: there is no " + file.string() +
             " (`pictures train-expert --svdiff` makes it)";
    experts.shifts.push_back(load_shifts(file, painter.unet.layers().table));
  }
  experts.spectra = std::make_shared<mole::SpectralSlots<Scalar, B>>(painter.unet.layers().table);
  return "";
}

/// Gives the experts the prompts that gradient fusion paints. Returns why it cannot, empty if it can.
template <class B>
std::string add_prompts(const Painter<B>& painter, const std::vector<Index>& subjects, const Sprites& sprites,
                        Experts<B>& experts) {
  if (!can_fuse(painter, experts.loras)) return "no row of Mix-of-Show: a LoRA adapts convolutions";
  for (const Index subject : subjects) {
    std::vector<std::string> captions;
    for (const auto& scene : own_scenes(subject, 4)) captions.push_back(caption(scene, sprites));
    experts.prompts.push_back(painter.states(captions));
  }
  return "";
}

/// The experts that options name, with what the methods need of them. Methods that cannot be made are left out, which
/// is said.
template <class B>
Experts<B> study_experts(const Painter<B>& painter, const std::vector<std::string>& names,
                         const std::vector<Index>& subjects, const Sprites& sprites,
                         std::vector<mole::LoraSet> loras, std::vector<Method>& methods) {
  Experts<B> experts{std::move(loras)};
  const auto prepare = [&](auto needs, auto add) {
    if (std::none_of(methods.begin(), methods.end(), needs)) return;
    const std::string missing = add();
    if (missing.empty()) return;
    std::cerr << missing << "\n";
    std::erase_if(methods, needs);
  };
  prepare([](const Method& method) { return method.is_spectral(); },
          [&] { return add_shifts(painter, names, experts); });
  prepare([](const Method& method) { return method.kind == Method::Kind::fused; },
          [&] { return add_prompts(painter, subjects, sprites, experts); });
  return experts;
}

/// Rows, what they were judged by, and the names of the experts.
struct Study {
  std::vector<Row> rows;
  Prompts prompts;
  std::vector<std::string> names;
};

/// Makes the rows of a study on the experts of the options; `named` of them, or all, are in the prompts. Of several
/// ranks the first alone has rows.
template <class B>
Study study(const ComposeOptions& options, const Sprites& sprites, std::size_t named = 0,
            const std::function<void(const Row&)>& finished = {}) {
  const auto painter = load_painter<B>(options.base);
  std::vector<Index> subjects;
  Study result;
  auto loras = load_experts(painter, options.experts);
  for (const auto& lora : loras) {
    subjects.push_back(sprites.find(lora.name));
    result.names.push_back(lora.name);
  }
  MOLE_CHECK_ARG(subjects.size() >= 2, "compose: expected two experts or more to combine, got",
                 subjects.size());
  auto methods = chosen_methods(result.names, options);
  auto experts = study_experts(painter, options.experts, subjects, sprites, std::move(loras), methods);
  experts.prompt_steps = options.steps;
  auto in_prompts = subjects;
  if (named > 0) in_prompts.resize(std::min(named, subjects.size()));
  result.prompts = prompts_of(in_prompts, options.validation);
  limit(result.prompts, options.prompts);
  const auto own = own_pictures(painter, sprites, subjects);
  std::map<std::string, mole::Curves> trained;
  if (options.ranks.first()) common::prepare_folder(options.out);
  if (options.ranks.group.size() > 1)
    trained = train_together(methods, experts, result.prompts, sprites, own, options);
  if (!options.ranks.first()) return result;

  std::vector<Index> others(static_cast<std::size_t>(sprites.count() - sprites.subjects));
  std::iota(others.begin(), others.end(), sprites.subjects);
  const Judge judge(sprites, in_prompts, result.prompts.training, others);
  const Meters<B> meters(load_study_clip<B>(options.judge, "--judge"), painter, sprites, in_prompts, judge);
  const Lab<B> lab{sprites, subjects, experts, result.prompts, own, meters, options, trained};
  const auto made = [&](const Row& row) {
    if (options.save_pictures) save_pictures(options, row, result.prompts, sprites);
    if (finished) finished(row);
  };
  result.rows = make_rows<B>(methods, lab, made);
  result.rows.push_back(true_row(lab));
  made(result.rows.back());
  return result;
}

/// See commands.hpp.
template <class B>
void compose(const ComposeOptions& options) {
  const common::QuietRank quiet(options.ranks);
  const auto sprites = read_sprites(shipped());
  const auto made = study<B>(options, sprites);
  if (!options.ranks.first()) return;
  report(options, made.rows, made.prompts, made.names, sprites);
}

}  // namespace pictures
