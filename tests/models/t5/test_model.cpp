// T5 itself: position buckets, decoding with a cache, greedy and beam search, and the goldens.

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <models/t5/tiny_t5.hpp>

using namespace mole;
using namespace mole::testing;

TEST_CASE("Position buckets are those of T5's own table") {
  struct Run {
    Index first, last, bucket;
  };
  for (const Run& run : {Run{0, 0, 0},
                         {1, 1, 1},
                         {7, 7, 7},
                         {8, 11, 8},
                         {12, 15, 9},
                         {16, 22, 10},
                         {23, 31, 11},
                         {32, 45, 12},
                         {46, 63, 13},
                         {64, 90, 14},
                         {91, 4000, 15}})
    for (const Index d : {run.first, run.last}) {
      CAPTURE(d);
      CHECK(relative_position_bucket(-d, true, 32, 128) == run.bucket);
      if (d > 0) CHECK(relative_position_bucket(d, true, 32, 128) == run.bucket + 16);
    }
  for (const Run& run : {Run{0, 0, 0},
                         {15, 15, 15},
                         {16, 18, 16},
                         {19, 20, 17},
                         {21, 23, 18},
                         {24, 26, 19},
                         {27, 30, 20},
                         {31, 34, 21},
                         {35, 39, 22},
                         {40, 45, 23},
                         {46, 51, 24},
                         {52, 58, 25},
                         {59, 66, 26},
                         {67, 76, 27},
                         {77, 86, 28},
                         {87, 98, 29},
                         {99, 112, 30},
                         {113, 4000, 31}})
    for (const Index d : {run.first, run.last}) {
      CAPTURE(d);
      CHECK(relative_position_bucket(-d, false, 32, 128) == run.bucket);
      if (d > 0) CHECK(relative_position_bucket(d, false, 32, 128) == 0);
    }
}

TEST_CASE_TEMPLATE("Decoding step by step with a cache gives the logits of decoding at once", T, float,
                   double) {
  auto model = tiny_t5<T>(2);
  const std::vector<Index> ids{0, 4, 8, 3, 0, 2, 5, 9};
  for (const auto& options : all_policies()) {
    CAPTURE(name_of(options));
    model.attach(tiny_adapters(model), options);
    scatter_gates(model);
    const auto whole = doubles(tiny_logits(model, ids));
    const NoGrad off;
    const auto batch = tiny_batch<T>();
    MolePass<T, Device> pass;
    const auto memory = model.encode(batch.input(), pass);
    KvCache<T, Device> cache;
    const std::size_t V = 11;
    for (std::size_t t = 0; t < 4; ++t) {
      model.mixer().next_step(T5<T, Device>::decoder_stream, pass);
      const auto step = doubles(
          model.decode(Tensor<Index, Device>::from({2, 1}, {ids[t], ids[4 + t]}), memory, pass, &cache));
      for (const std::size_t s : {0u, 1u})
        for (std::size_t j = 0; j < V; ++j)
          CHECK(std::abs(step[s * V + j] - whole[(s * 4 + t) * V + j]) <
                (std::is_same_v<T, float> ? 2e-5 : 1e-13));
    }
  }
}

TEST_CASE("One beam takes the most probable token at each step") {
  auto model = tiny_t5<double>(2);
  for (const auto& options : all_policies()) {
    CAPTURE(name_of(options));
    model.attach(tiny_adapters(model), options);
    scatter_gates(model);
    MolePass<double, Device> pass;
    const auto batch = tiny_batch<double>();
    const auto found = generate(model, batch.input(), pass, {.max_new_tokens = 5});
    REQUIRE(found.size() == 2);
    std::vector<Index> ids{0, 0};
    for (std::size_t t = 0; t < 5; ++t) {
      const auto logits = tiny_logits(model, ids).to_host();
      std::vector<Index> longer;
      for (std::size_t s = 0; s < 2; ++s) {
        const auto row = logits.begin() + static_cast<std::ptrdiff_t>(((s + 1) * (t + 1) - 1) * 11);
        const Index best = std::max_element(row, row + 11) - row;
        longer.insert(longer.end(), ids.begin() + static_cast<std::ptrdiff_t>(s * (t + 1)),
                      ids.begin() + static_cast<std::ptrdiff_t>((s + 1) * (t + 1)));
        longer.push_back(best);
        if (t + 1 < found[s].size()) CHECK(found[s][t + 1] == best);
      }
      ids = longer;
    }
    for (const auto& tokens : found) CHECK((tokens.size() == 6 || tokens.back() == 1));
  }
}

TEST_CASE("A beam wide enough finds the best of all short sequences, under gates of every policy") {
  auto model = tiny_t5<double>();
  auto log_p = [](const std::vector<double>& logits, std::size_t row) {
    std::vector<double> p(logits.begin() + static_cast<std::ptrdiff_t>(row * 11),
                          logits.begin() + static_cast<std::ptrdiff_t>(row * 11 + 11));
    double total = 0;
    for (const double x : p) total += std::exp(x);
    for (double& x : p) x -= std::log(total);
    return p;
  };
  for (const auto& options : all_policies()) {
    CAPTURE(name_of(options));
    model.attach(tiny_adapters(model), options);
    scatter_gates(model);
    MolePass<double, Device> pass;
    const auto batch = tiny_batch<double>();
    const auto found = generate(model, batch.input(), pass, {.max_new_tokens = 2, .beams = 12});
    for (std::size_t s = 0; s < 2; ++s) {
      std::vector<Index> best;
      double score = -1e30;
      for (Index a = 0; a < 11; ++a) {
        const auto logits = doubles(tiny_logits(model, {0, a, 0, a}));
        const auto first = log_p(logits, 2 * s), second = log_p(logits, 2 * s + 1);
        for (Index b = 0; b < 11; ++b) {
          const bool ended = a == 1;
          const double p = first[static_cast<std::size_t>(a)],
                       here = ended ? p : (p + second[static_cast<std::size_t>(b)]) / 2;
          if (here <= score) continue;
          score = here;
          best = ended ? std::vector<Index>{0, a} : std::vector<Index>{0, a, b};
        }
      }
      CHECK(found[s] == best);
    }
  }
}

TEST_CASE("One beam and three beams agree with a model that leaves no doubt") {
  auto model = tiny_t5<double>();
  model.visit([](const std::string& name, const Shape&, Tensor<double, Device>& tensor) {
    if (name == "lm_head.weight") tensor = scale(tensor, 60.0);
  });
  model.attach(tiny_adapters(model), {.scope = Scope::network});
  scatter_gates(model);
  auto run = [&](Index beams) {
    MolePass<double, Device> pass;
    const auto batch = tiny_batch<double>();
    return generate(model, batch.input(), pass, {.max_new_tokens = 6, .beams = beams, .length_penalty = 0});
  };
  CHECK(run(1) == run(3));
}

TEST_CASE("Generation ends at any token of the configuration's list") {
  const auto run = [](const std::vector<Index>& further) {
    auto config = tiny_config(2);
    config.further_eos_token_ids = further;
    T5<double, Device> model(config);
    Generator generator{42};
    model.initialize(generator);
    MolePass<double, Device> pass;
    const auto batch = tiny_batch<double>();
    return generate(model, batch.input(), pass, {.max_new_tokens = 5});
  };
  const auto plain = run({});
  for (Index token = 2; token < 11; ++token) {
    CAPTURE(token);
    const auto found = run({token, 1});
    for (std::size_t s = 0; s < plain.size(); ++s) {
      auto wanted = plain[s];
      const auto end = std::find(wanted.begin(), wanted.end(), token);
      if (end != wanted.end()) wanted.erase(end + 1, wanted.end());
      CHECK(found[s] == wanted);
    }
  }
  CHECK(plain[0].size() > 2);
}

TEST_CASE("Generation refuses to make nothing") {
  auto model = tiny_t5<double>();
  MolePass<double, Device> pass;
  const auto ids = tiny_batch<double>().input();
  CHECK_THROWS_AS(generate(model, ids, pass, {.max_new_tokens = 0}), ArgumentError);
  CHECK_THROWS_AS(generate(model, ids, pass, {.beams = 0}), ArgumentError);
}

TEST_CASE_TEMPLATE("Detached, the model is the frozen base again", T, float, double) {
  auto model = tiny_t5<T>();
  const auto before = doubles(tiny_logits(model, {0, 4, 0, 2}));
  model.attach(tiny_adapters(model), {});
  CHECK(worst_error(tiny_logits(model, {0, 4, 0, 2}), before) > 1e-3);
  model.detach();
  CHECK(doubles(tiny_logits(model, {0, 4, 0, 2})) == before);
}

TEST_CASE_TEMPLATE("Norms rounded as Transformers does differ from the exact ones by float32's rounding", T,
                   float, double) {
  auto model = tiny_t5<T>();
  const auto exact = doubles(tiny_logits(model, {0, 4, 0, 2}));
  model.round_norms(true);
  const double error = worst_error(tiny_logits(model, {0, 4, 0, 2}), exact);
  CHECK(error < 1e-5);
  if (std::is_same_v<T, double>) CHECK(error > 1e-12);
}

TEST_CASE("A rounded norm's gradient is that of the exact one up to float32's rounding") {
  for (const Index n : {1, 7, 40, 600}) {
    const auto w = noise<double>({n}, 1).set_requires_grad(), v = w.clone().set_requires_grad();
    const auto x = noise<double>({3, n}, 2).set_requires_grad(), y = x.clone().set_requires_grad();
    const auto seed = noise<double>({3, n}, 3);
    backward(rounded_rms_norm(x, w, 1e-6), seed);
    backward(rms_norm(y, v, 1e-6), seed);
    CHECK(worst_error(x.grad(), doubles(y.grad())) < 1e-5);
    CHECK(worst_error(w.grad(), doubles(v.grad())) < 1e-5);
  }
  CHECK_THROWS_AS(rounded_rms_norm(noise<double>({2, 3}), noise<double>({4}), 1e-6), ShapeError);
}

TEST_CASE("A configuration with an impossible size is refused") {
  auto config = tiny_config();
  config.num_heads = 0;
  CHECK_THROWS_AS((T5<double, Device>(config)), ArgumentError);
}

TEST_CASE_TEMPLATE("Generation refuses logits that are NaN or infinite", T, float, double) {
  for (const double bad : {std::nan(""), HUGE_VAL, -HUGE_VAL}) {
    auto model = tiny_t5<T>();
    model.visit([&](const std::string& name, const Shape& shape, Tensor<T, Device>& tensor) {
      if (name == "decoder.final_layer_norm.weight")
        tensor = Tensor<T, Device>::full(shape, static_cast<T>(bad));
    });
    for (const Index beams : {1, 3}) {
      MolePass<T, Device> pass;
      CHECK_THROWS_WITH_AS(
          generate(model, tiny_batch<T>().input(), pass, {.max_new_tokens = 3, .beams = beams}),
          doctest::Contains("generate: the logits hold NaN"), NumericError);
    }
  }
}
