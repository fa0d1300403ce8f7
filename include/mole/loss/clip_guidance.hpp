#pragma once
// CLIP guidance on embeddings, the domain loss in vision-language (L_D of eq. 16): global, directional, and
// directional on patches. Embeddings need not be normalised.

#include <mole/ops/activation.hpp>
#include <mole/ops/norm.hpp>
#include <mole/ops/reduce.hpp>

namespace mole {

namespace detail {

/// 1 where a squared length is that of a direction, 0 where the vector is as good as zero.
template <class T>
struct HasDirection {
  T eps;
  MOLE_HD T operator()(T squares) const { return squares > eps * eps ? T(1) : T(0); }
};

/// mean(1 - cosine), a scalar.
template <class T, class B>
Tensor<T, B> mean_distance(const Tensor<T, B>& cosine) {
  return shift(-mean(cosine), 1);
}

}  // namespace detail

/// 1 - cos(image, text), the mean over all pairs that broadcasting makes, a scalar.
/// image, text [.., D]: both [S, D] compares row by row; image [S, 1, D] and text [C, D] every image with
/// every text. Pullback: that of cosine_similarity.    Throws ShapeError for a scalar or shapes that do not
/// broadcast.
template <class T, class B>
Tensor<T, B> clip_global_loss(const Tensor<T, B>& image, const Tensor<T, B>& text) {
  MOLE_CHECK_SHAPE(image.rank() >= 1 && text.rank() >= 1 && image.size(-1) == text.size(-1),
                   "clip_global_loss: expected image and text [.., D], got", image.shape(), "and",
                   text.shape());
  return detail::mean_distance(cosine_similarity(image, text));
}

/// dT = unit(mean of unit(target) - mean of unit(source)), the way from the source texts to the target texts.
/// target [C, D], source [C', D]: one row a prompt template; the result [D].
/// Pullback: that of unit_rows, sub and mean.    Throws ShapeError.
template <class T, class B>
Tensor<T, B> clip_text_direction(const Tensor<T, B>& target, const Tensor<T, B>& source) {
  MOLE_CHECK_SHAPE(target.rank() == 2 && source.rank() == 2 && target.size(1) == source.size(1),
                   "clip_text_direction: expected target and source texts [templates, D], got",
                   target.shape(), "and", source.shape());
  return unit_rows(sub(mean(unit_rows(target), {0}), mean(unit_rows(source), {0})));
}

/// 1 - cos(dI, dT) with dI = unit(image) - unit(source), the mean over rows, a scalar.
/// image [.., D]; source broadcastable to image; direction [D] from clip_text_direction.
/// An image equal to its source has no direction: its loss is 1 and it gets no gradient.
/// Pullback: that of unit_rows, sub and mul.    Throws ShapeError.
template <class T, class B>
Tensor<T, B> clip_directional_loss(const Tensor<T, B>& image, const Tensor<T, B>& source,
                                   const Tensor<T, B>& direction) {
  MOLE_CHECK_SHAPE(image.rank() >= 1 && direction.shape() == Shape{image.size(-1)},
                   "clip_directional_loss: expected image [.., D] and direction [D], got", image.shape(),
                   "and", direction.shape());
  MOLE_CHECK_SHAPE(
      detail::broadcast_shape("clip_directional_loss", image.shape(), source.shape()) == image.shape() &&
          source.rank() >= 1 && source.size(-1) == image.size(-1),
      "clip_directional_loss: expected a source [.., D] that broadcasts to the image, got", source.shape(),
      "for", image.shape());
  const auto way = sub(unit_rows(image), unit_rows(source));
  const auto moved = detail::reduce_axes("clip_directional_loss", Reduction::sum, square(way.detach()), {-1});
  // Without this, unit_rows would pass on the gradient of a zero vector divided by its eps.
  transform<B>(moved.size(), detail::HasDirection<Compute<T>>{Compute<T>(1e-12)}, moved.data(), moved.data());
  return detail::mean_distance(sum(mul(mul(unit_rows(way), moved), unit_rows(direction)), {-1}));
}

/// The local loss: the directional one on patches of the image, averaged over all of them, a scalar.
/// patches [S, P, D]; source [S, P, D], or [S, 1, D] for one source embedding an image; direction [D].
/// Pullback and errors as clip_directional_loss.
template <class T, class B>
Tensor<T, B> clip_patch_loss(const Tensor<T, B>& patches, const Tensor<T, B>& source,
                             const Tensor<T, B>& direction) {
  MOLE_CHECK_SHAPE(patches.rank() == 3 && source.rank() == 3,
                   "clip_patch_loss: expected patches [S, P, D] and source [S, P, D] or [S, 1, D], got",
                   patches.shape(), "and", source.shape());
  return clip_directional_loss(patches, source, direction);
}

/// -log((2.5 - global - directional) / 2), as the paper's released script has it: a growing function of the
/// sum, whose gradient it divides by 2.5 - global - directional.    global, directional and the result
/// scalars.
/// Pullback: that of log and add.    NaN where the sum is 2.5 or more.
template <class T, class B>
Tensor<T, B> clip_released_loss(const Tensor<T, B>& global, const Tensor<T, B>& directional) {
  return -log(scale(shift(-add(global, directional), Compute<T>(2.5)), Compute<T>(0.5)));
}

}  // namespace mole
