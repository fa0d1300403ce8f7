#pragma once
// Cases of the ops on images, for op_cases.hpp.

#include <vector>

#include "op_case.hpp"

namespace mole::testing {

template <class T>
std::vector<OpCase<T>> image_cases() {
  using In = const std::vector<Tensor<T, Device>>&;
  std::vector<OpCase<T>> cases;
  struct Conv {
    Shape x, W;
    ConvOptions options;
  };
  for (const auto& [x, W, options] :
       {Conv{{2, 3, 4, 2}, {3, 2, 3, 3}, {1, Padding::all(1)}},
        Conv{{1, 5, 4, 1}, {2, 1, 3, 3}, {2, Padding::all(1)}},
        Conv{{1, 4, 5, 2}, {1, 2, 3, 3}, {2, {0, 0, 1, 1}}}, Conv{{2, 4, 4, 2}, {3, 2, 2, 2}, {2, {}}},
        Conv{{1, 5, 3, 1}, {2, 1, 3, 1}, {3, {2, 0, 1, 1}}}, Conv{{2, 3, 2, 3}, {2, 3, 1, 1}, {}},
        Conv{{1, 5, 6, 1}, {2, 1, 2, 2}, {3, {}}}, Conv{{1, 2, 11, 2}, {3, 2, 3, 3}, {1, Padding::all(1)}},
        Conv{{1, 3, 3, 2}, {2, 2, 1, 1}, {2, {}}}, Conv{{0, 3, 3, 2}, {2, 2, 3, 3}, {1, Padding::all(1)}}}) {
    const auto by = options;
    cases.push_back(
        {message("conv2d", x, W, by.stride), {x, W}, [by](In v) { return conv2d(v[0], v[1], {}, by); }});
    cases.push_back({message("biased conv2d", x, W, by.stride), {x, W, {W[0]}}, [by](In v) {
                       return conv2d(v[0], v[1], v[2], by);
                     }});
  }
  cases.push_back({"conv2d beside the residual", {{1, 3, 3, 2}, {2, 2, 3, 3}}, [](In v) {
                     const auto x = v[0] * Compute<T>(0.5);
                     return x + square(conv2d(x, v[1], {}, {1, Padding::all(1)}));
                   }});
  cases.push_back({"channels_last and channels_first", {{2, 3, 2, 4}}, [](In v) {
                     return channels_first(square(channels_last(v[0])));
                   }});
  for (const auto& x : {Shape{2, 2, 3, 4}, Shape{1, 5, 4}, Shape{3, 4}, Shape{0, 2, 2, 4}})
    for (const Index groups : {1, 2, 4})
      if (x.rank() > 2 || groups < 4)
        cases.push_back({message("group_norm", x, groups), {x, {4}, {4}}, [groups](In v) {
                           return group_norm(v[0], groups, v[1], v[2], T(0.1));
                         }});
  cases.push_back({"group_norm beside the residual", {{2, 3, 4}, {4}, {4}}, [](In v) {
                     const auto x = v[0] * Compute<T>(0.5);
                     return x + square(group_norm(x, 2, v[1], v[2], T(0.1)));
                   }});
  for (const auto& x : {Shape{2, 3, 4}, Shape{2}, Shape{0, 6}})
    cases.push_back({message("geglu", x), {x}, [](In v) { return geglu(v[0]); }});
  for (const auto& size : {Shape{4, 6}, Shape{5, 3}, Shape{2, 3}, Shape{1, 7}, Shape{3, 2}}) {
    const Index h = size[0], w = size[1];
    cases.push_back({message("resize_nearest to", size), {{2, 2, 3, 2}}, [=](In v) {
                       return resize_nearest(v[0], h, w);
                     }});
    cases.push_back({message("resize_bicubic to", size), {{2, 3, 4, 2}}, [=](In v) {
                       return resize_bicubic(v[0], h, w);
                     }});
  }
  cases.push_back(
      {"resize_bicubic of nothing", {{0, 3, 4, 2}}, [](In v) { return resize_bicubic(v[0], 2, 2); }});
  cases.push_back({"crop", {{2, 4, 5, 2}}, [](In v) { return crop(v[0], 1, 2, 2, 3); }});
  // Wider than the differences that the check takes: no element lies at the kink.
  cases.push_back({"clamp", {{3, 5}}, [](In v) { return clamp(v[0], -0.4, 0.7); }});
  cases.push_back({"clamp of nothing", {{0, 2}}, [](In v) { return clamp(v[0], 0, 1); }});
  return cases;
}

}  // namespace mole::testing
