// The CLIP guidance losses against the golden, known values and finite differences.

#include <doctest/doctest.h>
#include <loss/golden.hpp>
#include <mole/autodiff/backward.hpp>
#include <mole/autodiff/grad_check.hpp>
#include <mole/loss/clip_guidance.hpp>
#include <mole/ops/shape.hpp>

using mole::testing::Device;
using D = mole::Tensor<double, Device>;

namespace {

D randn(mole::Shape shape, std::uint64_t stream) { return D::randn(shape, {11, stream}); }

}  // namespace

TEST_CASE_TEMPLATE("The three CLIP losses and their gradients equal the golden", T, float, double) {
  const Golden golden("clip_loss");
  auto image = golden.tensor<T>("image").set_requires_grad();
  const auto source = golden.tensor<T>("source"), text = golden.tensor<T>("text");
  const auto global = clip_global_loss(image, text);
  CHECK(global.rank() == 0);
  CHECK(golden.error(global, "global_loss") <= golden_tolerance<T>);
  backward(global);
  CHECK(golden.error(image.grad(), "d_global") <= golden_tolerance<T>);

  image.zero_grad();
  const auto direction =
      clip_text_direction(golden.tensor<T>("target_texts"), golden.tensor<T>("source_texts"));
  const auto directional = clip_directional_loss(image, source, direction);
  CHECK(directional.rank() == 0);
  CHECK(golden.error(directional, "direction_loss") <= golden_tolerance<T>);
  backward(directional);
  CHECK(golden.error(image.grad(), "d_direction") <= golden_tolerance<T>);

  auto patches = golden.tensor<T>("patches").set_requires_grad();
  const auto local = clip_patch_loss(patches, golden.tensor<T>("source_patches"), direction);
  CHECK(local.rank() == 0);
  CHECK(golden.error(local, "patch_loss") <= golden_tolerance<T>);
  backward(local);
  CHECK(golden.error(patches.grad(), "d_patch") <= golden_tolerance<T>);
}

TEST_CASE_TEMPLATE("The losses are 0 along the wanted direction, 1 across it and 2 against it", T, float,
                   double) {
  using Tensor = mole::Tensor<T, Device>;
  const auto x = Tensor::from({1, 2}, {3, 0}), y = Tensor::from({1, 2}, {0, 2}),
             minus_x = Tensor::from({1, 2}, {-1, 0});
  CHECK(clip_global_loss(x, x).item() == T(0));
  CHECK(clip_global_loss(x, y).item() == T(1));
  CHECK(clip_global_loss(x, minus_x).item() == T(2));
  const auto direction = clip_text_direction(y, x);
  CHECK(static_cast<double>(clip_directional_loss(y, x, direction).item()) == doctest::Approx(0));
  CHECK(static_cast<double>(clip_directional_loss(x, y, direction).item()) == doctest::Approx(2));
}

TEST_CASE("Every image is compared with every text when shapes broadcast so") {
  const auto image = randn({2, 1, 4}, 0), text = randn({3, 4}, 1);
  double expected = 0;
  for (mole::Index i = 0; i < 2; ++i)
    for (mole::Index j = 0; j < 3; ++j)
      expected += clip_global_loss(slice(image, 0, i, i + 1), slice(text, 0, j, j + 1)).item() / 6;
  CHECK(clip_global_loss(image, text).item() == doctest::Approx(expected));
}

TEST_CASE_TEMPLATE("An image equal to its source has loss 1 and no gradient", T, float, double) {
  using Tensor = mole::Tensor<T, Device>;
  auto image = Tensor::from({2, 3}, {1, 2, 3, 4, 5, 6}).set_requires_grad();
  const auto direction =
      clip_text_direction(Tensor::from({1, 3}, {1, 0, 0}), Tensor::from({1, 3}, {0, 1, 0}));
  const auto loss = clip_directional_loss(image, image.clone(), direction);
  CHECK(loss.item() == T(1));
  backward(loss);
  CHECK(image.grad().to_host() == std::vector<T>(6, T(0)));
}

TEST_CASE("The gradients of the CLIP losses to all arguments equal finite differences") {
  const auto global = mole::grad_check<Device>(
      [](const auto& x) { return mole::clip_global_loss(x[0], x[1]); }, {randn({2, 4}, 2), randn({2, 4}, 3)});
  CHECK_MESSAGE(global.ok, global.where);
  const auto text =
      mole::grad_check<Device>([](const auto& x) { return mole::clip_text_direction(x[0], x[1]); },
                               {randn({3, 4}, 4), randn({2, 4}, 5)});
  CHECK_MESSAGE(text.ok, text.where);
  const auto direction =
      mole::grad_check<Device>([](const auto& x) { return mole::clip_directional_loss(x[0], x[1], x[2]); },
                               {randn({2, 4}, 6), randn({2, 4}, 7), randn({4}, 8)});
  CHECK_MESSAGE(direction.ok, direction.where);
  const auto patch =
      mole::grad_check<Device>([](const auto& x) { return mole::clip_patch_loss(x[0], x[1], x[2]); },
                               {randn({2, 3, 4}, 9), randn({2, 1, 4}, 10), randn({4}, 11)});
  CHECK_MESSAGE(patch.ok, patch.where);
}

TEST_CASE("Embeddings that do not fit are refused with the loss named") {
  const auto a = randn({2, 4}, 0), b = randn({2, 5}, 1), direction = randn({4}, 2);
  CHECK_THROWS_WITH_AS(clip_global_loss(a, b), doctest::Contains("clip_global_loss"), mole::ShapeError);
  CHECK_THROWS_WITH_AS(clip_text_direction(a, b), doctest::Contains("clip_text_direction"), mole::ShapeError);
  CHECK_THROWS_AS(clip_text_direction(direction, direction), mole::ShapeError);
  CHECK_THROWS_WITH_AS(clip_directional_loss(a, a, b), doctest::Contains("direction [D]"), mole::ShapeError);
  CHECK_THROWS_WITH_AS(clip_directional_loss(a, b, direction), doctest::Contains("clip_directional_loss"),
                       mole::ShapeError);
  CHECK_THROWS_AS(clip_directional_loss(a, randn({3, 2, 4}, 3), direction), mole::ShapeError);
  CHECK_THROWS_WITH_AS(clip_patch_loss(a, a, direction), doctest::Contains("patches [S, P, D]"),
                       mole::ShapeError);
}
