#pragma once
// One description of each op: input shapes and a call. It serves the gradient check, the comparison of float
// with double and the search for allocations in a steady loop.

#include <string>
#include <vector>

#include <mole/mole.hpp>

#include "image_cases.hpp"
#include "op_case.hpp"

namespace mole::testing {

template <class T>
std::vector<OpCase<T>> arithmetic_cases() {
  using In = const std::vector<Tensor<T, Device>>&;
  std::vector<OpCase<T>> cases;
  const std::vector<std::vector<Shape>> pairs{
      {{2, 3, 4}, {2, 3, 4}}, {{2, 3, 4}, {3, 1}}, {{2, 1, 4}, {3, 1}},
      {{4}, {2, 3, 4}},       {{}, {3, 2}},        {{}, {}},
      {{1}, {1, 1}},          {{0, 3}, {3}},       {{0, 3}, {1, 1}},
      {{1, 3}, {0, 1}},       {{5, 1}, {1, 5}},    {{2, 1, 3, 1, 2}, {4, 1, 2, 1}}};
  for (const auto& shapes : pairs) {
    const std::string on = " " + message(shapes[0], shapes[1]);
    cases.push_back({"add" + on, shapes, [](In v) { return v[0] + v[1]; }});
    cases.push_back({"sub" + on, shapes, [](In v) { return v[0] - v[1]; }});
    cases.push_back({"mul" + on, shapes, [](In v) { return v[0] * v[1]; }});
    cases.push_back({"div" + on, shapes, [](In v) { return v[0] / v[1]; }, 0.5});
  }
  cases.push_back({"scale", {{2, 3}}, [](In v) { return 3 * v[0] / 7; }});
  cases.push_back({"shift and negate", {{2, 3}}, [](In v) { return -(v[0] + T(2)) - T(0.5); }});
  cases.push_back({"add to itself", {{2, 3}}, [](In v) { return v[0] + v[0]; }});
  cases.push_back({"mul by itself", {{2, 3}}, [](In v) { return v[0] * v[0]; }});
  cases.push_back({"div by itself plus itself", {{3}}, [](In v) { return v[0] / v[0] + v[0]; }, 0.5});
  cases.push_back({"mse", {{2, 3}, {3}}, [](In v) { return mse(v[0], v[1]); }});
  return cases;
}

template <class T>
std::vector<OpCase<T>> activation_cases() {
  using In = const std::vector<Tensor<T, Device>>&;
  std::vector<OpCase<T>> cases;
  for (const Shape& shape : {Shape{2, 5}, Shape{}, Shape{1}, Shape{0, 4}}) {
    const std::string on = " " + message(shape);
    cases.push_back({"relu" + on, {shape}, [](In v) { return relu(v[0]); }});
    cases.push_back({"gelu" + on, {shape}, [](In v) { return gelu(v[0]); }});
    cases.push_back({"gelu_tanh" + on, {shape}, [](In v) { return gelu_tanh(v[0]); }});
    cases.push_back({"glu" + on, {shape, shape}, [](In v) { return glu(v[0], v[1], functor::GeluTanh{}); }});
    cases.push_back(
        {"glu of one tensor" + on, {shape}, [](In v) { return glu(v[0], v[0], functor::Tanh{}); }});
    cases.push_back({"silu" + on, {shape}, [](In v) { return silu(v[0]); }});
    cases.push_back({"quick_gelu" + on, {shape}, [](In v) { return quick_gelu(v[0]); }});
    cases.push_back({"sigmoid" + on, {shape}, [](In v) { return sigmoid(v[0]); }});
    cases.push_back({"tanh" + on, {shape}, [](In v) { return tanh(v[0]); }});
    cases.push_back({"exp" + on, {shape}, [](In v) { return exp(v[0]); }});
    cases.push_back({"log" + on, {shape}, [](In v) { return log(v[0]); }, 0.5});
    cases.push_back({"square" + on, {shape}, [](In v) { return square(v[0]); }});
    cases.push_back({"dropout" + on, {shape}, [](In v) { return dropout(v[0], 0.4, {5, 6}); }});
  }
  return cases;
}

template <class T>
std::vector<OpCase<T>> matrix_cases() {
  using In = const std::vector<Tensor<T, Device>>&;
  std::vector<OpCase<T>> cases;
  struct Batch {
    std::vector<Index> a, b;
  };
  const std::vector<Batch> batches{{{}, {}}, {{3}, {3}}, {{2, 3}, {2, 3}}, {{2}, {}}, {{}, {2}}, {{0}, {}}};
  const std::vector<std::array<Index, 3>> sizes{{3, 2, 4}, {1, 3, 1}, {1, 1, 2}, {2, 0, 3}, {0, 2, 3}};
  auto matrix = [](std::vector<Index> batch, Index rows, Index columns, bool transposed) {
    batch.push_back(transposed ? columns : rows);
    batch.push_back(transposed ? rows : columns);
    return Shape(batch);
  };
  for (const auto& batch : batches)
    for (const auto& [m, k, n] : sizes)
      for (int flags = 0; flags < 4; ++flags) {
        const bool ta = flags & 1, tb = flags & 2;
        const std::vector<Shape> shapes{matrix(batch.a, m, k, ta), matrix(batch.b, k, n, tb)};
        cases.push_back({message("matmul", shapes[0], shapes[1], ta, tb), shapes,
                         [=](In v) { return matmul(v[0], v[1], Transpose(ta), Transpose(tb)); }});
      }
  cases.push_back({"matmul by itself", {{3, 3}}, [](In v) { return matmul(v[0], v[0], Transpose::yes); }});
  for (const Shape& x : {Shape{4}, Shape{3, 4}, Shape{2, 3, 4}, Shape{0, 4}, Shape{2, 0}, Shape{1, 1}}) {
    const Index d = x[-1];
    cases.push_back({message("linear", x), {x, {5, d}}, [](In v) { return linear(v[0], v[1]); }});
    cases.push_back(
        {message("biased linear", x), {x, {5, d}, {5}}, [](In v) { return linear(v[0], v[1], v[2]); }});
  }
  cases.push_back({"linear of one tensor", {{3, 3}}, [](In v) { return linear(v[0], v[0]); }});
  cases.push_back({"linear twice", {{3, 4}, {2, 4}, {2, 4}}, [](In v) {
                     return linear(v[0], v[1]) * linear(v[0], v[2]);
                   }});
  cases.push_back({"linear, add and reshape", {{3, 4}, {4, 4}}, [](In v) {
                     return linear(v[0], v[1]) + v[0] + linear(reshape(v[0], {3, 4}), v[1]);
                   }});
  return cases;
}

template <class T>
std::vector<OpCase<T>> reduction_cases() {
  using In = const std::vector<Tensor<T, Device>>&;
  std::vector<OpCase<T>> cases;
  const std::vector<std::vector<int>> axes_lists{{},     {0},    {1},       {-1},  {0, 2},
                                                 {0, 1}, {2, 1}, {0, 1, 2}, {1, 1}};
  for (const auto& axes : axes_lists)
    for (const Shape& shape : {Shape{2, 3, 4}, Shape{1, 3, 1}})
      for (const bool keep : {false, true}) {
        std::string on = " " + message(shape, keep);
        for (const int axis : axes) on += " " + std::to_string(axis);
        cases.push_back({"sum" + on, {shape}, [=](In v) { return sum(v[0], axes, keep); }});
        cases.push_back({"mean" + on, {shape}, [=](In v) { return mean(v[0], axes, keep); }});
        cases.push_back({"max" + on, {shape}, [=](In v) { return max(v[0], axes, keep); }});
      }
  cases.push_back({"sum of nothing", {{2, 0}}, [](In v) { return sum(v[0], {1}); }});
  cases.push_back({"sum of a scalar", {{}}, [](In v) { return sum(v[0]); }});
  cases.push_back({"max over one of an empty shape", {{0, 3}}, [](In v) { return max(v[0], {1}); }});
  return cases;
}

template <class T>
std::vector<OpCase<T>> row_cases() {
  using In = const std::vector<Tensor<T, Device>>&;
  std::vector<OpCase<T>> cases;
  for (const Shape& shape : {Shape{2, 3, 5}, Shape{4}, Shape{3, 2}, Shape{0, 3}}) {
    const std::string on = " " + message(shape);
    const Index n = shape[-1];
    cases.push_back({"softmax" + on, {shape}, [](In v) { return softmax(v[0]); }});
    cases.push_back({"log_softmax" + on, {shape}, [](In v) { return log_softmax(v[0]); }});
    cases.push_back({"masked softmax" + on, {shape}, [n](In v) {
                       std::vector<T> keep(static_cast<std::size_t>(n), T(1));
                       keep[1] = 0;
                       return softmax(v[0], Tensor<T, Device>::from({n}, keep));
                     }});
    cases.push_back({"unit_rows" + on, {shape}, [](In v) { return unit_rows(v[0]); }});
    cases.push_back({"short unit_rows" + on, {shape}, [](In v) { return unit_rows(v[0], 100); }});
    cases.push_back({"rms_norm" + on, {shape, {n}}, [](In v) { return rms_norm(v[0], v[1]); }});
    cases.push_back({"add_rms_norm" + on, {shape, shape, {n}}, [](In v) {
                       const auto [sum, y] = add_rms_norm(v[0], v[1], v[2]);
                       return sum + square(y);
                     }});
    cases.push_back({"rms_norm beside the residual" + on, {shape, {n}}, [](In v) {
                       const auto x = v[0] * Compute<T>(0.5);
                       return x + square(rms_norm(x, v[1]));
                     }});
    cases.push_back(
        {"layer_norm" + on, {shape, {n}, {n}}, [](In v) { return layer_norm(v[0], v[1], v[2], T(0.1)); }});
    cases.push_back(
        {"cosine_similarity" + on, {shape, {n}}, [](In v) { return cosine_similarity(v[0], v[1]); }});
    cases.push_back({"cosine of itself" + on, {shape}, [](In v) { return cosine_similarity(v[0], v[0]); }});
  }
  cases.push_back({"softmax of one column", {{3, 1}}, [](In v) { return softmax(v[0]); }});
  cases.push_back({"log_softmax beside a mask", {{2, 4}}, [](In v) {
                     return slice(log_softmax(v[0], Tensor<T, Device>::from({4}, {1, 1, 1, 0})), 1, 0, 3);
                   }});
  for (const double smoothing : {0.0, 0.1})
    for (const Index ignored : {Index{-100}, Index{2}})
      cases.push_back({message("cross_entropy", smoothing, ignored), {{2, 2, 5}}, [=](In v) {
                         return cross_entropy(v[0], indices({2, 2}, {0, ignored, 2, 4}),
                                              {.ignore_index = ignored, .label_smoothing = smoothing});
                       }});
  for (const Index chunk : {Index{1}, Index{12}, Index{1000}})
    for (const Index ignored : {Index{-100}, Index{3}})
      cases.push_back({message("head_cross_entropy", chunk, ignored), {{2, 3, 4}}, [=](In v) {
                         return head_cross_entropy(v[0], noise<T>({5, 4}, 9),
                                                   indices({2, 3}, {0, ignored, 2, 4, ignored, 1}),
                                                   {.chunk_numbers = chunk});
                       }});
  cases.push_back({"cross_entropy of ignored labels", {{2, 3}}, [](In v) {
                     return cross_entropy(v[0], indices({2}, {-100, -100}));
                   }});
  cases.push_back(
      {"cross_entropy of nothing", {{0, 3}}, [](In v) { return cross_entropy(v[0], indices({0}, {})); }});
  return cases;
}

template <class T>
std::vector<OpCase<T>> layout_cases() {
  using In = const std::vector<Tensor<T, Device>>&;
  std::vector<OpCase<T>> cases;
  cases.push_back({"reshape", {{2, 6}}, [](In v) { return reshape(v[0], {3, -1, 2}); }});
  cases.push_back(
      {"reshape to itself and add", {{2, 2}}, [](In v) { return reshape(v[0], {4}) + reshape(v[0], {4}); }});
  cases.push_back({"reshape of nothing", {{0, 3}}, [](In v) { return reshape(v[0], {3, -1}); }});
  cases.push_back({"permute", {{2, 3, 4}}, [](In v) { return permute(v[0], {2, 0, 1}); }});
  cases.push_back({"permute of rank 1", {{3}}, [](In v) { return permute(v[0], {0}); }});
  cases.push_back({"permute of nothing", {{2, 0, 3}}, [](In v) { return permute(v[0], {2, 1, 0}); }});
  cases.push_back({"transpose", {{2, 3, 4}}, [](In v) { return transpose(v[0]); }});
  cases.push_back({"transpose of outer axes", {{2, 3, 4}}, [](In v) { return transpose(v[0], 0, -1); }});
  for (int axis = 0; axis < 3; ++axis) {
    cases.push_back(
        {message("slice along", axis), {{3, 3, 3}}, [axis](In v) { return slice(v[0], axis, 1, 3); }});
    cases.push_back(
        {message("empty slice along", axis), {{3, 3, 3}}, [axis](In v) { return slice(v[0], axis, 2, 2); }});
    const Shape shape{2, 2, 2};
    cases.push_back(
        {message("concat along", axis), {shape, shape.with(axis, 3), shape.with(axis, 0)}, [axis](In v) {
           return concat<T, Device>({v[0], v[1], v[2]}, axis);
         }});
    cases.push_back({message("concat with itself along", axis), {shape}, [axis](In v) {
                       return concat<T, Device>({v[0], v[0]}, axis);
                     }});
  }
  cases.push_back({"gather", {{4, 3}}, [](In v) {
                     return gather(v[0], indices({2, 3}, {0, 3, 3, 1, 0, 3}));
                   }});
  cases.push_back({"gather of nothing", {{4, 3}}, [](In v) { return gather(v[0], indices({0}, {})); }});
  cases.push_back({"embedding", {{5, 2}}, [](In v) { return embedding(v[0], indices({}, {4})); }});
  cases.push_back({"scatter_add", {{2, 3, 2}}, [](In v) {
                     return scatter_add(v[0], indices({2, 3}, {0, 3, 3, 1, 0, 3}), 5);
                   }});
  cases.push_back(
      {"scatter_add of nothing", {{0, 2}}, [](In v) { return scatter_add(v[0], indices({0}, {}), 3); }});
  return cases;
}

template <class T>
std::vector<OpCase<T>> attention_cases() {
  using In = const std::vector<Tensor<T, Device>>&;
  std::vector<OpCase<T>> cases;
  struct Sizes {
    Index S, Lq, Lk, H, d;
  };
  for (const auto& [S, Lq, Lk, H, d] : {Sizes{2, 3, 5, 2, 2}, Sizes{1, 1, 4, 1, 3}, Sizes{2, 2, 2, 3, 1},
                                        Sizes{0, 2, 3, 1, 2}, Sizes{2, 0, 2, 1, 2}})
    for (const bool causal : {false, true})
      for (const bool masked : {false, true}) {
        std::vector<T> keep(static_cast<std::size_t>(S * Lk), T(1));
        for (std::size_t i = 0; i < keep.size(); i += 3) keep[i] = 0;
        const auto mask = masked ? Tensor<T, Device>::from({S, Lk}, keep) : Tensor<T, Device>();
        cases.push_back({message("attention", S, Lq, Lk, H, d, causal, masked),
                         {{S, Lq, H * d}, {S, Lk, H * d}, {S, Lk, H * d}, {H, Lq, Lk}},
                         [=, H = H](In v) {
                           return attention(v[0], v[1], v[2], {H, T(0.7), v[3], mask, causal});
                         }});
      }
  for (const Index window : {Index{1}, Index{2}, Index{9}})
    cases.push_back(
        {message("attention with a window of", window), {{2, 3, 4}, {2, 5, 4}, {2, 5, 4}}, [=](In v) {
           return attention(v[0], v[1], v[2],
                            {.heads = 2, .scale = T(0.5), .causal = true, .window = window});
         }});
  cases.push_back({"rope", {{2, 3, 8}}, [](In v) {
                     const auto turn = rotation<T>(indices({2, 3}, {0, 1, 2, 0, 0, 7}),
                                                   Tensor<double, Device>::from({2}, {1.0, 0.3}));
                     return rope(v[0], turn);
                   }});
  cases.push_back({"rope of queries and keys", {{2, 3, 12}, {2, 3, 4}}, [](In v) {
                     const auto turn = rotation<T>(indices({2, 3}, {0, 1, 2, 0, 0, 7}),
                                                   Tensor<double, Device>::from({2}, {1.0, 0.3}));
                     const auto [q, k] = rope(v[0], v[1], turn);
                     return concat<T, Device>({k, q}, 2);
                   }});
  for (const Index times : {Index{2}, Index{3}})
    cases.push_back({message("repeat_heads", times), {{2, 3, 4}}, [=](In v) {
                       return repeat_heads(v[0], Index{2}, times);
                     }});
  cases.push_back({"attention to no key", {{2, 3, 4}, {2, 0, 4}, {2, 0, 4}}, [](In v) {
                     return attention(v[0], v[1], v[2], {.heads = 2});
                   }});
  cases.push_back({"self-attention of one tensor", {{2, 3, 4}}, [](In v) {
                     return attention(v[0], v[0], v[0], {.heads = 2, .scale = T(0.5), .causal = true});
                   }});
  return cases;
}

template <class T>
std::vector<OpCase<T>> mixture_cases() {
  using In = const std::vector<Tensor<T, Device>>&;
  std::vector<OpCase<T>> cases;
  for (const Shape& shape : {Shape{2, 3, 4}, Shape{1, 1, 1}, Shape{2, 0, 3}, Shape{0, 2, 3}}) {
    const Index S = shape[0], L = shape[1], n = shape[2];
    std::vector<T> keep(static_cast<std::size_t>(S * L), T(1));
    for (std::size_t i = 1; i < keep.size(); i += 2) keep[i] = 0;
    const auto mask = Tensor<T, Device>::from({S, L}, keep);
    cases.push_back({message("masked_mean", shape), {shape}, [=](In v) { return masked_mean(v[0], mask); }});
    cases.push_back({message("gate_softmax", shape), {shape, {n, 3}, {}}, [](In v) {
                       return gate_softmax(v[0], v[1], v[2]);
                     }});
    cases.push_back({message("gate_softmax of kept experts", shape), {shape, {n, 3}, {}}, [](In v) {
                       return gate_softmax(v[0], v[1], v[2], Tensor<T, Device>::from({3}, {1, 0, 1}));
                     }});
    cases.push_back({message("gate_softmax of short rows", shape), {shape, {n, 3}, {}}, [](In v) {
                       return gate_softmax(v[0], v[1], v[2], {}, 100);
                     }});
    for (const Index factors : {n, Index{1}}) {
      const GateScale<T, Device> scale{noise<T>({n}, 94) / 3, square(noise<T>({factors}, 95)) / 2};
      cases.push_back(
          {message("gate_softmax of a scaled input", shape, factors), {shape, {n, 3}, {}}, [=](In v) {
             return gate_softmax(v[0], v[1], v[2], Tensor<T, Device>::from({3}, {1, 0, 1}), Compute<T>(1e-12),
                                 scale);
           }});
      cases.push_back({message("gate_softmax of short scaled rows", shape, factors),
                       {shape, {n, 3}, {}},
                       [=](In v) { return gate_softmax(v[0], v[1], v[2], {}, 100, scale); }});
    }
    const auto W = noise<T>({5, n}, 90), c = noise<T>({5}, 91), Q = noise<T>({5, 4}, 92);
    const auto of = indices({4}, {0, 0, 1, 3});
    for (const bool token : {false, true})
      cases.push_back(
          {message("mixture", shape, token),
           {shape, {S, L, 4}, token ? Shape{S, L, 4} : Shape{S, 4}},
           [=](In v) { return mixture(v[0], W, token ? c : Tensor<T, Device>(), v[1], v[2], Q, of); }});
    const auto A = noise<T>({4, n}, 93);
    cases.push_back({message("token gate and mixture", shape), {shape, {4, 4}, {}}, [=](In v) {
                       const auto h = linear(v[0], A);
                       return mixture(v[0], W, c, h, gate_softmax(h, v[1], v[2]), Q, of);
                     }});
    cases.push_back({message("token gate and mixture as one", shape), {shape, {4, 4}, {}}, [=](In v) {
                       const auto one = gated_mixture(v[0], {W, c, A, Q, of, v[1], v[2], {}});
                       return one.y * sum(square(one.g));
                     }});
    const GateScale<T, Device> scale{noise<T>({4}, 96) / 3, square(noise<T>({4}, 97)) / 2};
    cases.push_back({message("scaled token gate and mixture as one", shape), {shape, {4, 4}, {}}, [=](In v) {
                       const auto one = gated_mixture(v[0], {W, c, A, Q, of, v[1], v[2], {}, scale});
                       return one.y * sum(square(one.g));
                     }});
    cases.push_back({message("sequence gate and mixture", shape), {shape, {4, 4}, {}}, [=](In v) {
                       const auto h = linear(v[0], A);
                       const auto g = gate_softmax(masked_mean(h, mask), v[1], v[2]);
                       return mixture(v[0], W, c, h, g, Q, of);
                     }});
  }
  const auto W = noise<T>({5, 4}, 90), Q = noise<T>({5, 4}, 92);
  cases.push_back({"mixture of one tensor", {{2, 3, 4}}, [=](In v) {
                     return mixture(v[0], W, {}, v[0], v[0], Q, indices({4}, {0, 1, 2, 3}));
                   }});
  cases.push_back(
      {"gate_softmax of one tensor", {{3, 3}, {}}, [](In v) { return gate_softmax(v[0], v[0], v[1]); }});
  return cases;
}

template <class T>
std::vector<OpCase<T>> op_cases() {
  std::vector<OpCase<T>> all;
  for (auto family : {arithmetic_cases<T>, activation_cases<T>, matrix_cases<T>, reduction_cases<T>,
                      row_cases<T>, layout_cases<T>, attention_cases<T>, mixture_cases<T>, image_cases<T>})
    for (auto& one : family()) all.push_back(std::move(one));
  return all;
}

}  // namespace mole::testing
