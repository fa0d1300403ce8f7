// Prompts, methods and masks of the study.

#include <algorithm>
#include <set>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "pictures/assets.hpp"
#include "pictures/compose_run.hpp"
#include "pictures/study.hpp"

namespace pictures::study_tests {

TEST_CASE("Gates see 108 prompts and are judged by 24 and 12 on other colours") {
  for (const bool validation : {false, true}) {
    const auto prompts = prompts_of({0, 1, 5}, validation);
    CHECK(prompts.training.size() == (validation ? 72 : 108));
    CHECK(prompts.two.size() == 24);
    CHECK(prompts.three.size() == 12);
    std::set<std::size_t> trained, judged;
    for (const auto& scene : prompts.training) trained.insert(scene.colour);
    for (const auto* list : {&prompts.two, &prompts.three})
      for (const auto& scene : *list) judged.insert(scene.colour);
    for (const auto colour : judged) CHECK(trained.count(colour) == 0);
    const std::set<std::string> names{colours[*judged.begin()].name, colours[*judged.rbegin()].name};
    CHECK(names ==
          (validation ? std::set<std::string>{"gray", "white"} : std::set<std::string>{"yellow", "purple"}));
  }
  CHECK(prompts_of({0, 1}).three.empty());
}

TEST_CASE("Masks give each part of the picture and of the caption to its object's expert") {
  const Scene scene{Layout::triangle, {0, 1, 5}, 0};
  const auto mask = picture_mask(scene, {2, 0, 1}, 4, 3);
  const auto expert = [](const std::vector<float>& m, std::size_t row) {
    return std::max_element(m.begin() + static_cast<std::ptrdiff_t>(3 * row),
                            m.begin() + static_cast<std::ptrdiff_t>(3 * row + 3)) -
           (m.begin() + static_cast<std::ptrdiff_t>(3 * row));
  };
  CHECK(expert(mask, 0) == 2);
  CHECK(expert(mask, 3) == 0);
  CHECK(expert(mask, 8) == 1);
  CHECK(expert(mask, 15) == 1);
  CHECK(std::count(mask.begin(), mask.end(), 1.f) == 16);
  // <start> a dog face left of a cat face on red <end>: words 1..5 are the first's.
  const auto words = caption_mask("a dog face left of a cat face on red", {2, 0}, 12, 3);
  for (std::size_t token = 0; token < 12; ++token) CHECK(expert(words, token) == (token < 6 ? 2 : 0));
  CHECK_THROWS_AS(caption_mask("a dog face on red", {0, 1}, 12, 3), mole::ArgumentError);
}

TEST_CASE("Rows are chosen by how their names begin, and an unknown one names all") {
  ComposeOptions options;
  const std::vector<std::string> experts{"dog face", "pizza"};
  CHECK(chosen_methods(experts, options).size() == methods_of(experts).size());
  options.methods = {"MoLE layer", "base", "base"};
  options.rate = 0.01;
  options.own = 1;
  const auto chosen = chosen_methods(experts, options);
  REQUIRE(chosen.size() == 3);
  CHECK(chosen[0].kind == Method::Kind::base);
  CHECK(chosen[1].training.own == 0);
  CHECK(chosen[2].name == best_method);
  CHECK(chosen[2].training.own == 1);
  CHECK(chosen[2].training.rate == 0.01);
  options.methods = {"MoLE layer/token"};
  CHECK(chosen_methods(experts, options).size() == 1);
  options.methods = {"nothing"};
  CHECK_THROWS_AS(chosen_methods(experts, options), mole::ArgumentError);
  std::set<std::string> files;
  std::size_t trained = 0;
  for (const auto& method : methods_of(experts)) {
    if (!method.trains()) continue;
    ++trained;
    files.insert(gates_file(method));
  }
  CHECK(files.size() == trained);
  CHECK(files.count("gates.safetensors") == 1);
  CHECK(files.count("gates-network-mean.safetensors") == 1);
}

TEST_CASE("At most so many prompts are judged") {
  auto prompts = prompts_of({0, 1, 5});
  limit(prompts, 0);
  CHECK(prompts.two.size() == 24);
  limit(prompts, 5);
  CHECK(prompts.two.size() == 5);
  CHECK(prompts.three.size() == 5);
  CHECK(prompts.training.size() == 108);
}

}  // namespace pictures::study_tests
