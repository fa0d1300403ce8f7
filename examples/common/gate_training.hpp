#pragma once
// A training step of gates, whatever the model and its batches.

#include <iterator>
#include <string>
#include <vector>

#include <mole/autodiff/backward.hpp>
#include <mole/experts/gate_statistics.hpp>
#include <mole/loss/total.hpp>
#include <mole/models/expert_model.hpp>
#include <mole/train/batch_loss.hpp>
#include <mole/train/data_parallel.hpp>
#include <mole/train/loop.hpp>

namespace common {

/// What a training step of the gates computed, off the tape.
template <class T, class B>
struct GateStep {
  mole::Tensor<T, B> total, task;
  mole::Tensor<T, B> balance;  ///< undefined where there is no balance loss
  std::vector<mole::GateRecord<T, B>> gates;
};

/// The total loss (eq. 16) of a pass and, in the gates' grad(), its gradients: `task` is the domain loss of the pass;
/// without `balanced` the balance loss is left out.    Throws as mole::ExpertModel::balance() and mole::total_loss().
template <class T, class B, class Model>
GateStep<T, B> gate_step(const Model& model, const mole::Tensor<T, B>& task, const mole::MolePass<T, B>& pass,
                         bool balanced, double alpha) {
  const auto balance = balanced ? model.balance(pass) : mole::Tensor<T, B>();
  const auto total = balanced ? mole::total_loss(task, balance, alpha) : task;
  mole::backward(total);
  GateStep<T, B> step{total.detach(), task.detach(), balanced ? balance.detach() : balance,
                      model.mixer().records(pass)};
  for (auto& gate : step.gates) gate.value = {gate.value.weights.detach(), gate.value.dense.detach()};
  return step;
}

/// A step as the curves of a run have it: total, task, balance, and "entropy GATE" of each gate.
template <class T, class B>
mole::StepResult step_result(const GateStep<T, B>& step) {
  mole::Measures measures{{"task", static_cast<double>(step.task.item())}};
  if (step.balance.defined()) measures.emplace_back("balance", static_cast<double>(step.balance.item()));
  for (const auto& gate : mole::gate_statistics(step.gates))
    measures.emplace_back("entropy " + gate.name, gate.entropy());
  return {static_cast<double>(step.total.item()), measures};
}

/// The same of the loss of a batch that was computed in shares; `gates` are the gates' names.
template <class T, class B>
mole::StepResult step_result(const mole::BatchLoss<T, B>& loss, const std::vector<std::string>& gates) {
  mole::Measures measures{{"task", static_cast<double>(loss.task.item())}};
  if (loss.balance.defined()) measures.emplace_back("balance", static_cast<double>(loss.balance.item()));
  for (std::size_t i = 0; i < gates.size(); ++i)
    measures.emplace_back("entropy " + gates[i], loss.entropy[i]);
  return {static_cast<double>(loss.total.item()), measures};
}

/// The loss of the whole batch `examples`, of which each rank computes a share or some, and in the gates' grad() its
/// gradients: forward(some, pass) is the loss of some examples and how much it is the mean of, such as labels.
/// Throws as mole::DataParallel::step() does.
template <class T, class B, class G, class Model, class E, class F>
mole::StepResult step_in_shares(mole::DataParallel<T, B, G>& ranks, const Model& model,
                                const std::vector<E>& examples, F forward) {
  const auto loss = ranks.step([&](mole::Index shard) -> mole::ShareResult<T, B> {
    const auto [first, last] = ranks.range(shard, std::ssize(examples));
    if (first == last) return {};
    mole::MolePass<T, B> pass;
    const auto [task, counted] =
        forward(std::vector<E>(examples.begin() + first, examples.begin() + last), pass);
    return {task, counted, model.mixer().records(pass)};
  });
  return step_result(loss, ranks.gate_names());
}

}  // namespace common
