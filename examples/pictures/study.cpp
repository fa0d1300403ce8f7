#include "pictures/study.hpp"

#include <algorithm>
#include <sstream>

#include <mole/core/error.hpp>

namespace pictures {

namespace {

std::vector<std::size_t> colours_named(const std::vector<std::string>& names) {
  std::vector<std::size_t> list;
  for (std::size_t i = 0; i < colours.size(); ++i)
    if (std::find(names.begin(), names.end(), colours[i].name) != names.end()) list.push_back(i);
  return list;
}

void add_scenes(const std::vector<Index>& subjects, std::size_t colour, std::vector<Scene>& two,
                std::vector<Scene>& three) {
  for (const Index a : subjects)
    for (const Index b : subjects) {
      if (a == b) continue;
      for (const Layout layout : {Layout::left_of, Layout::above}) two.push_back({layout, {a, b}, colour});
      for (const Index c : subjects)
        if (c != a && c != b) three.push_back({Layout::triangle, {a, b, c}, colour});
    }
}

Method gates(const std::string& name, mole::Scope scope, mole::Pooling pooling, Index steps) {
  Method method{name, Method::Kind::gates, 0, {}};
  method.training.gates.scope = scope;
  method.training.gates.pooling = pooling;
  method.training.steps = steps;
  return method;
}

}  // namespace

Prompts prompts_of(const std::vector<Index>& subjects, bool validation) {
  const std::vector<std::string> training =
      validation ? std::vector<std::string>{"red", "green", "blue", "black"}
                 : std::vector<std::string>{"red", "green", "blue", "gray", "white", "black"};
  const std::vector<std::string> judged =
      validation ? std::vector<std::string>{"gray", "white"} : std::vector<std::string>{"yellow", "purple"};
  Prompts prompts;
  std::vector<Scene> three;
  for (const std::size_t colour : colours_named(training))
    add_scenes(subjects, colour, prompts.training, three);
  prompts.training.insert(prompts.training.end(), three.begin(), three.end());
  for (const std::size_t colour : colours_named(judged))
    add_scenes(subjects, colour, prompts.two, prompts.three);
  return prompts;
}

std::vector<Scene> own_scenes(Index subject, std::size_t count) {
  std::vector<Scene> scenes;
  for (std::size_t i = 0; i < count; ++i) scenes.push_back({Layout::alone, {subject}, i % colours.size()});
  return scenes;
}

std::vector<std::vector<float>> own_pictures_of(Index subject, std::size_t count, const Sprites& sprites) {
  std::vector<std::vector<float>> pictures;
  mole::Generator random{1000 + static_cast<std::uint64_t>(subject)};
  for (const auto& scene : own_scenes(subject, count))
    pictures.push_back(render(scene, place(scene.layout, random.next(), expert_sizes), sprites));
  return pictures;
}

std::vector<Method> methods_of(const std::vector<std::string>& experts, double effort) {
  using Kind = Method::Kind;
  using mole::Pooling;
  using mole::Scope;
  const auto steps = [&](double usual) { return std::max<Index>(1, static_cast<Index>(usual * effort)); };
  std::vector<Method> list{{"base", Kind::base, 0, {}}};
  for (std::size_t i = 0; i < experts.size(); ++i)
    list.push_back({"expert " + experts[i], Kind::single, i, {}});
  list.push_back({"sum (eq. 1)", Kind::sum, 0, {}});
  list.push_back({"mean (eq. 2; NLA)", Kind::mean, 0, {}});
  list.push_back({"SVDiff", Kind::svdiff_sum, 0, {}});
  list.push_back({"SVDiff (mean)", Kind::svdiff_mean, 0, {}});
  list.push_back({"Mix-of-Show (fusion)", Kind::fused, 0, {}});
  list.push_back({"LoRA Switch", Kind::switching, 0, {}});
  list.push_back({"LoRA Composite", Kind::composite, 0, {}});
  list.push_back(gates("MoLE network/mean", Scope::network, Pooling::mean, steps(60)));
  list.push_back(gates("MoLE matrix/mean", Scope::matrix, Pooling::mean, steps(80)));
  list.push_back(gates("MoLE block/token", Scope::block, Pooling::token, steps(120)));
  list.push_back(gates("MoLE layer/token", Scope::layer, Pooling::token, steps(130)));
  auto best = gates(best_method, Scope::layer, Pooling::token, steps(150));
  best.training.own = 6;
  best.training.pictures = 5;
  list.push_back(best);
  list.push_back({"hand-made masks", Kind::masks, 0, {}});
  return list;
}

std::vector<Method> further_methods(double effort) {
  using mole::Pooling;
  using mole::Scope;
  const auto steps = [&](double usual) { return std::max<Index>(1, static_cast<Index>(usual * effort)); };
  return {gates("MoLE layer/mean", Scope::layer, Pooling::mean, steps(80)),
          gates("MoLE block/mean", Scope::block, Pooling::mean, steps(80)),
          gates("MoLE matrix/token", Scope::matrix, Pooling::token, steps(130))};
}

std::vector<float> picture_mask(const Scene& scene, const std::vector<std::size_t>& experts, Index level,
                                std::size_t n_experts) {
  std::vector<float> mask(static_cast<std::size_t>(level * level) * n_experts);
  for (Index y = 0; y < level; ++y)
    for (Index x = 0; x < level; ++x) {
      const bool right = x >= level / 2, low = y >= level / 2;
      const std::size_t object = scene.layout == Layout::alone     ? 0
                                 : scene.layout == Layout::left_of ? right
                                 : scene.layout == Layout::above   ? low
                                 : low                             ? 2
                                                                   : right;
      mask[static_cast<std::size_t>(y * level + x) * n_experts + experts.at(object)] = 1;
    }
  return mask;
}

std::vector<float> caption_mask(const std::string& caption, const std::vector<std::size_t>& experts,
                                Index length, std::size_t n_experts) {
  // Token 0 is the mark of the start; an object's part begins with its article.
  std::vector<Index> begins;
  std::istringstream stream(caption);
  Index at = 0;
  for (std::string word; stream >> word;) {
    ++at;
    if (word == "a" || word == "an") begins.push_back(at);
  }
  MOLE_CHECK_ARG(begins.size() == experts.size(), "caption_mask: \"" + caption + "\" names", begins.size(),
                 "objects, expected", experts.size());
  std::vector<float> mask(static_cast<std::size_t>(length) * n_experts);
  for (Index token = 0; token < length; ++token) {
    std::size_t object = 0;
    while (object + 1 < begins.size() && token >= begins[object + 1]) ++object;
    mask[static_cast<std::size_t>(token) * n_experts + experts[object]] = 1;
  }
  return mask;
}

}  // namespace pictures
