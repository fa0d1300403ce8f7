#pragma once
// Training steps of gates over the experts of a UNet, on one rank or several: by pictures in flight that a guide such as
// CLIP judges, by pictures of one's own with the diffusion loss, or by both.
//
//   L = guided G + own D + alpha L_balance
//
// G is the guide's loss, the mean over the pictures in flight; D the diffusion loss of a batch of own pictures. Where there
// are both, each has a pass of the UNet, and L_balance is the mean of the two passes'.

#include <cstdint>
#include <functional>
#include <type_traits>
#include <utility>
#include <vector>

#include <mole/models/diffusion/noisy_batch.hpp>
#include <mole/models/diffusion/trajectory_pool.hpp>
#include <mole/train/data_parallel.hpp>
#include <mole/train/loop.hpp>

#include "common/ranks.hpp"

namespace common {

using mole::Index;

/// The parts of the loss, by their weights; a part of weight 0 is not computed.
struct PictureLoss {
  double guided = 1, own = 0, alpha = 0.01;
  bool balanced = true;    ///< whether there is a balance loss
  Index pictures = 8;      ///< a step; of each kind, where there are two
  std::uint64_t seed = 1;  ///< of the own pictures that a step draws

  bool both() const { return guided > 0 && own > 0; }
};

/// The steps of a run. All that is drawn depends on seed and step alone; each rank computes its share of the pictures of
/// either kind.
template <class T, class B>
class PictureSteps {
 public:
  /// The guide's loss of some pictures on their way, their mean, a scalar on the tape.
  using Guide = std::function<mole::Tensor<T, B>(const mole::PoolStep<T, B>& seen)>;
  using Number = mole::Compute<T>;

  /// Of gates that are attached to `unet`, which must outlive this, as must the schedule. `pool` has loss.pictures
  /// pictures. `own` is read where its weight is above 0. Throws as mole::DataParallel does.
  PictureSteps(const mole::UNet<T, B>& unet, const mole::NoiseSchedule& schedule,
               mole::TrajectoryPool<T, B> pool, Guide guide, mole::CaptionedLatents<T, B> own,
               const PictureLoss& loss, const RankOptions& ranks)
      : unet_(unet),
        schedule_(schedule),
        pool_(std::move(pool)),
        guide_(std::move(guide)),
        own_(std::move(own)),
        loss_(loss),
        ranks_(ranks.group, unet.mixer(),
               {.balanced = loss.balanced,
                .alpha = loss.both() ? loss.alpha / 2 : loss.alpha,
                .fixed_shards = ranks.fixed_shards}),
        parameters_(unet.mixer().parameters()),
        kept_(mole::Tensor<Number, B>::zeros(pool_.latents().shape())) {}

  /// The ranks, for common::train().
  mole::DataParallel<T, B>& ranks() { return ranks_; }

  /// What a checkpoint holds beside the optimiser's state: the pictures in flight at the beginning of the last step. See
  /// mole::KeepingMore.
  std::vector<mole::Tensor<Number, B>> kept() const { return {kept_}; }

  /// Step number `step`: leaves the gradients of the whole loss in the gates' parameters. Measures "clip", "diffusion" and
  /// "balance", as far as there are such parts.    Throws as mole::DataParallel::step().
  mole::StepResult operator()(Index step) {
    mole::StepResult result;
    double balance = 0;
    const auto count = [&](const mole::BatchLoss<T, B>& loss, const char* name, double weight) {
      result.loss += static_cast<double>(loss.total.item());
      result.measures.emplace_back(name, static_cast<double>(loss.task.item()) / weight);
      if (loss_.balanced) balance += static_cast<double>(loss.balance.item()) / (loss_.both() ? 2 : 1);
    };
    std::vector<mole::Tensor<T, B>> gradients;
    if (loss_.guided > 0) {
      count(guided_step(step), "clip", loss_.guided);
      for (const auto& parameter : parameters_) gradients.push_back(parameter.grad());
    }
    if (loss_.own > 0) {
      count(own_step(step), "diffusion", loss_.own);
      for (std::size_t i = 0; i < gradients.size(); ++i) add_gradient(parameters_[i], gradients[i]);
    }
    if (loss_.balanced) result.measures.emplace_back("balance", balance);
    return result;
  }

 private:
  using Pass = mole::MolePass<T, B>;
  using Values = mole::Tensor<T, B>;

  /// Every picture in flight moves on.
  mole::BatchLoss<T, B> guided_step(Index step) {
    if (pool_.done() != step) pool_.resume(step, as<T>(kept_));
    kept_.assign(as<Number>(pool_.latents()));
    std::vector<Values> next;
    const auto loss = in_shares(loss_.guided, [&](Index first, Index last, Pass& pass) {
      const auto seen = pool_.look(unet_, pass, first, last);
      next.push_back(seen.next);
      return guide_(seen);
    });
    pool_.move_on(ranks_.gather_rows(next, pool_.latents().shape()));
    return loss;
  }

  mole::BatchLoss<T, B> own_step(Index step) {
    const auto batch =
        mole::draw_noisy(schedule_, own_, loss_.pictures,
                         {loss_.seed + (std::uint64_t{1} << 32), static_cast<std::uint64_t>(step)});
    return in_shares(loss_.own, [&](Index first, Index last, Pass& pass) {
      return mole::diffusion_loss(unet_, batch.rows(first, last), pass);
    });
  }

  /// weight times f(first, last, pass), the mean loss of the pictures [first, last), over all shares.
  template <class F>
  mole::BatchLoss<T, B> in_shares(double weight, F f) {
    return ranks_.step([&](Index shard) -> mole::ShareResult<T, B> {
      const auto [first, last] = ranks_.range(shard, loss_.pictures);
      if (first == last) return {};
      Pass pass;
      const auto task = scale(f(first, last, pass), static_cast<Number>(weight));
      return {task, static_cast<double>(last - first), unet_.mixer().records(pass)};
    });
  }

  static void add_gradient(const Values& parameter, const Values& more) {
    if (!more.defined()) return;
    const mole::NoGrad off;
    const auto gradient = parameter.grad();
    parameter.set_grad(gradient.defined() ? add(gradient, more) : more);
  }

  /// The same numbers as another scalar.
  template <class S, class From>
  static mole::Tensor<S, B> as(const mole::Tensor<From, B>& x) {
    if constexpr (std::is_same_v<S, From>) {
      return x;
    } else {
      const auto values = x.to_host();
      return mole::Tensor<S, B>::from(x.shape(), std::vector<S>(values.begin(), values.end()));
    }
  }

  const mole::UNet<T, B>& unet_;
  const mole::NoiseSchedule& schedule_;
  mole::TrajectoryPool<T, B> pool_;
  Guide guide_;
  mole::CaptionedLatents<T, B> own_;
  PictureLoss loss_;
  mole::DataParallel<T, B> ranks_;
  std::vector<Values> parameters_;
  mole::Tensor<Number, B> kept_;
};

}  // namespace common
