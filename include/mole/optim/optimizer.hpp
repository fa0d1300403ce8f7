#pragma once
// What optimisers share: the parameters, their state and their step counts, so that a run can be saved and
// resumed bit for bit.

#include <cmath>
#include <cstddef>
#include <utility>
#include <vector>

#include <mole/autodiff/tensor.hpp>
#include <mole/optim/pieces.hpp>

namespace mole {

namespace detail {

/// A piece of a parameter p with its gradient g, its state tensors, and the numbers its update depends on.
template <class T>
struct UpdatePiece {
  T* p;
  const T* g;
  Compute<T>* state[2];  ///< null where there is none
  Compute<T>* exact;     ///< of a narrow p its value in float, else null
  const Compute<T>* numbers;
  Index size;

  /// The value that an update starts from. Where a narrow p is not its exact value, rounded, somebody has set it since,
  /// and p counts.
  MOLE_HD Compute<T> value(Index i) const {
    const Compute<T> stored = p[i];
    if constexpr (Narrow<T>)
      if (const Compute<T> kept = exact[i]; Compute<T>(T(kept)) == stored) return kept;
    return stored;
  }
  MOLE_HD void set(Index i, Compute<T> value) const {
    if constexpr (Narrow<T>) exact[i] = value;
    p[i] = value;
  }
};

/// update(piece, i) for each element i of a piece.
template <class T, class Update>
struct UpdatePieceRow {
  Update update;

  template <class Row>
  MOLE_HD void operator()(const Row& row, const UpdatePiece<T>& piece) const {
    const auto one = piece;
    const auto f = update;
    row.each(one.size, [=](Index i) { f(one, i); });
  }
};

}  // namespace detail

/// Base of Sgd and AdamW, which add step(rate), and its two halves: prepare(rate) on the host and apply() on
/// the device. A step captured in a graph holds apply(); prepare() goes before each replay. A checkpoint
/// saves state() and steps(); to resume, assign() the saved values to state() and give the counts to
/// set_steps().
template <class T, class B>
class Optimizer {
 public:
  /// Sgd and AdamW update exactly these, in place.
  const std::vector<Tensor<T, B>>& parameters() const { return parameters_; }

  /// The state tensors, in a fixed order; they exist from the start, as zeros. Float for narrow parameters, of which
  /// each has one more, its last: its own value before it is rounded, in which updates add up that are too small to
  /// change a bf16 or half.
  const std::vector<Tensor<Compute<T>, B>>& state() const { return state_; }

  /// How often each parameter was updated: a parameter without a gradient sits a step out.
  const std::vector<Index>& steps() const { return steps_; }

  /// Throws ArgumentError unless there is one count >= 0 a parameter.
  void set_steps(std::vector<Index> steps) {
    MOLE_CHECK_ARG(steps.size() == parameters_.size(), "set_steps: expected", parameters_.size(),
                   "counts, got", steps.size(), "; was the checkpoint made with other parameters?");
    for (const Index count : steps) MOLE_CHECK_ARG(count >= 0, "set_steps: negative count", count);
    steps_ = std::move(steps);
  }

  /// Forgets the gradients of all parameters.
  void zero_grad() const {
    for (const auto& parameter : parameters_) parameter.zero_grad();
  }

 protected:
  /// Throws ArgumentError for no parameters, one that is undefined or needs no gradient, or one given twice.
  Optimizer(const char* name, std::vector<Tensor<T, B>> parameters, std::size_t states_each)
      : parameters_(std::move(parameters)),
        steps_(parameters_.size()),
        reached_(parameters_.size(), 1),
        name_(name) {
    MOLE_CHECK_ARG(!parameters_.empty(), name, ": no parameters to train");
    for (std::size_t i = 0; i < parameters_.size(); ++i) {
      MOLE_CHECK_ARG(parameters_[i].requires_grad(), name, ": parameter", i,
                     "requires no gradient; mark it with set_requires_grad()");
      for (std::size_t j = 0; j < i; ++j)
        MOLE_CHECK_ARG(parameters_[i].buffer() != parameters_[j].buffer(), name, ": parameters", j, "and", i,
                       "are the same tensor; give it once");
      for (std::size_t s = 0; s < states_each + (Narrow<T> ? 1 : 0); ++s)
        state_.push_back(Tensor<Compute<T>, B>::zeros(parameters_[i].shape()));
    }
  }
  ~Optimizer() = default;
  Optimizer(const Optimizer&) = default;
  Optimizer& operator=(const Optimizer&) = default;
  Optimizer(Optimizer&&) noexcept = default;
  Optimizer& operator=(Optimizer&&) noexcept = default;

  /// Raises the counts of the parameters that the last update reached (at first: of all) and uploads what
  /// an update depends on, numbers(i) for parameter i, as many for each.
  template <class F>
  void upload_numbers(double rate, F numbers) {
    MOLE_CHECK_ARG(is_finite(rate) && rate >= 0, name_, ": expected a learning rate >= 0, got", rate);
    std::vector<Compute<T>> values;
    for (std::size_t i = 0; i < parameters_.size(); ++i) {
      steps_[i] += reached_[i];
      for (const double number : numbers(i)) values.push_back(static_cast<Compute<T>>(number));
    }
    const Shape shape{static_cast<Index>(parameters_.size()),
                      static_cast<Index>(values.size() / parameters_.size())};
    if (numbers_.defined())
      B::upload(numbers_.data(), values.data(), numbers_.size());
    else
      numbers_ = Tensor<Compute<T>, B>::from(shape, values);
  }

  /// update(piece, i) on the device, for each element of each parameter that has a gradient.
  template <class Update>
  void update_all(const Update& update) {
    MOLE_CHECK_ARG(numbers_.defined(), name_, ": call prepare() with a learning rate before apply()");
    std::vector<detail::UpdatePiece<T>> pieces;
    const std::size_t states_each = state_.size() / parameters_.size();
    for (std::size_t i = 0; i < parameters_.size(); ++i) {
      const auto gradient = parameters_[i].grad();
      reached_[i] = gradient.defined() ? 1 : 0;
      if (!gradient.defined()) continue;
      detail::for_each_piece(gradient.size(), [&](Index first, Index size) {
        detail::UpdatePiece<T> piece{parameters_[i].data() + first,
                                     gradient.data() + first,
                                     {},
                                     nullptr,
                                     numbers_.data() + static_cast<Index>(i) * numbers_.size(1),
                                     size};
        for (std::size_t s = 0; s < states_each; ++s) {
          auto& place = Narrow<T> && s + 1 == states_each ? piece.exact : piece.state[s];
          place = state_[i * states_each + s].data() + first;
        }
        pieces.push_back(piece);
      });
    }
    detail::for_pieces<B>(pieces, detail::UpdatePieceRow<T, Update>{update});
  }

  /// Before an update by the gradients at hand: only their parameters count.
  void look_for_gradients() {
    for (std::size_t i = 0; i < parameters_.size(); ++i)
      reached_[i] = parameters_[i].grad().defined() ? 1 : 0;
  }

 private:
  std::vector<Tensor<T, B>> parameters_;
  std::vector<Tensor<Compute<T>, B>> state_;
  std::vector<Index> steps_;
  std::vector<Index> reached_;  // 1 for each parameter that the last update reached, else 0
  Tensor<Compute<T>, B> numbers_;
  const char* name_;
};

}  // namespace mole
