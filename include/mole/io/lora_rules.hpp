#pragma once
// What a LoraConfig says of each slot, by the rules of PEFT: rank_pattern, alpha_pattern, target_modules.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_set>
#include <utility>
#include <vector>

#include <mole/core/error.hpp>
#include <mole/core/quote.hpp>
#include <mole/core/shape.hpp>
#include <mole/io/lora_config.hpp>
#include <mole/io/pattern.hpp>

namespace mole {

namespace detail {

// A pattern that this library cannot read costs a warning where only a check needs it.
struct LoraPattern {
  std::string field, key;
  std::optional<Pattern> compiled;
  std::string why;  // it is not read, else empty

  std::string name() const { return field + " " + quote(key); }
};

// Python's re.match(rf"(.*\.)?({key})$", name), as PEFT has it, or re.fullmatch for target_modules.
inline LoraPattern read_lora_pattern(const std::string& field, const std::string& key, bool whole,
                                     PatternBudget& budget) {
  constexpr std::size_t state_cost = 50;  // of memory, in steps
  LoraPattern pattern{field, key, {}, {}};
  try {
    pattern.compiled.emplace(whole ? key : "(.*\\.)?(" + key + ")$");
    budget.spend(state_cost * pattern.compiled->size());
  } catch (const UnsupportedPattern& error) {
    pattern.compiled.reset();
    pattern.why = error.what();
  } catch (const FormatError& error) {
    throw FormatError(message(pattern.name(), "is no regular expression:", error.what()));
  }
  return pattern;
}

}  // namespace detail

/// The most entries of rank_pattern or alpha_pattern.
inline constexpr std::size_t max_lora_patterns = 10'000;

/// A LoraConfig's patterns, compiled once for all slots. What they may cost in all is bounded (PatternBudget).
class LoraRules {
 public:
  /// Throws FormatError, naming field and pattern, for a pattern that is no regular expression, for one of
  /// alpha_pattern that this library cannot read, as it changes the scale, or for too many of them.
  explicit LoraRules(const LoraConfig& config)
      : rank_(config.rank),
        alpha_(config.alpha),
        targets_(config.target_modules.begin(), config.target_modules.end()) {
    for (const auto& [field, count] : {std::pair("rank_pattern", config.rank_pattern.size()),
                                       std::pair("alpha_pattern", config.alpha_pattern.size())})
      MOLE_CHECK_FORMAT(count <= max_lora_patterns, field, "has", count, "entries; at most",
                        max_lora_patterns, "are read");
    for (const auto& [key, rank] : config.rank_pattern) ranks_.emplace_back(read("rank_pattern", key), rank);
    for (const auto& [key, alpha] : config.alpha_pattern) {
      alphas_.emplace_back(read("alpha_pattern", key), alpha);
      if (!alphas_.back().first.compiled) refuse(alphas_.back().first, alphas_.back().first.why);
    }
    std::string lower = config.target_regex;
    for (char& c : lower)
      if (c >= 'A' && c <= 'Z') c = static_cast<char>(c + 32);
    all_linear_ = lower == "all-linear";
    if (!all_linear_ && !lower.empty())
      target_ = detail::read_lora_pattern("target_modules", config.target_regex, true, budget_);
  }

  /// The rank that PEFT gives a slot: that of the first pattern that matches its name, else `r`. None where a
  /// pattern that cannot be read comes first; warnings() then names it.
  std::optional<Index> rank(const std::string& slot) {
    const PatternText text(slot);
    for (auto& [pattern, value] : ranks_) {
      const auto found = matches(pattern, text, false);
      if (!found) return std::nullopt;
      if (*found) return value;
    }
    return rank_;
  }

  /// The slot's alpha, likewise. Throws UnsupportedPattern where a pattern cannot be matched.
  double alpha(const std::string& slot) {
    const PatternText text(slot);
    for (auto& [pattern, value] : alphas_) {
      const auto found = matches(pattern, text, false);
      if (!found) refuse(pattern, pattern.why);
      if (*found) return value;
    }
    return alpha_;
  }

  /// Whether PEFT would adapt the slot, as far as target_modules tells. None where it cannot be read.
  std::optional<bool> is_target(const std::string& slot) {
    if (all_linear_) return true;
    if (target_) return matches(*target_, PatternText(slot), true);
    if (targets_.contains(slot)) return true;
    for (auto dot = slot.find('.'); dot != slot.npos; dot = slot.find('.', dot + 1))
      if (targets_.contains(slot.substr(dot + 1))) return true;
    return false;
  }

  /// The patterns that were asked for and could not be read, each once and at most 20, with the reason.
  const std::vector<std::string>& warnings() const { return warnings_; }

 private:
  using LoraPattern = detail::LoraPattern;

  LoraPattern read(const std::string& field, const std::string& key) {
    return detail::read_lora_pattern(field, key, false, budget_);
  }

  std::optional<bool> matches(LoraPattern& pattern, const PatternText& text, bool whole) {
    if (pattern.compiled) {
      try {
        return whole ? pattern.compiled->full_match(text, budget_) : pattern.compiled->match(text, budget_);
      } catch (const UnsupportedPattern& error) {
        pattern.compiled.reset();
        pattern.why = error.what();
      }
    }
    if (warned_.insert(pattern.name()).second && warnings_.size() < 20)
      warnings_.push_back(message(pattern.name(), "cannot be read here and was not checked:", pattern.why));
    return std::nullopt;
  }

  [[noreturn]] static void refuse(const LoraPattern& pattern, const std::string& why) {
    throw UnsupportedPattern(message(pattern.name(), "cannot be read, and it changes the scale:", why,
                                     "- name the modules instead"));
  }

  PatternBudget budget_;
  Index rank_;
  double alpha_;
  std::unordered_set<std::string> targets_, warned_;
  std::vector<std::pair<LoraPattern, Index>> ranks_;
  std::vector<std::pair<LoraPattern, double>> alphas_;
  std::optional<LoraPattern> target_;
  bool all_linear_ = false;
  std::vector<std::string> warnings_;
};

/// The rank that PEFT gives a slot: that of the first pattern that matches its name, else `config.rank`.
/// LoraRules answers for many slots. Throws FormatError for a pattern that is no regular expression or cannot
/// be read.
inline Index slot_rank(const LoraConfig& config, const std::string& slot) {
  LoraRules rules(config);
  const auto rank = rules.rank(slot);
  MOLE_CHECK_AS(UnsupportedPattern, rank.has_value(), rules.warnings().front());
  return *rank;
}

/// The scale s: alpha / r, or alpha / sqrt(r) with rsLoRA.
inline double lora_scale(double alpha, Index rank, bool rslora) {
  const auto r = static_cast<double>(rank);
  return alpha / (rslora ? std::sqrt(r) : r);
}

/// The scale of a slot, alpha and r by their patterns. Throws as slot_rank() does.
inline double slot_scale(const LoraConfig& config, const std::string& slot) {
  return lora_scale(LoraRules(config).alpha(slot), slot_rank(config, slot), config.rslora);
}

/// Whether PEFT would adapt the slot, as far as target_modules tells. Throws as slot_rank() does.
inline bool is_target(const LoraConfig& config, const std::string& slot) {
  LoraRules rules(config);
  const auto target = rules.is_target(slot);
  MOLE_CHECK_AS(UnsupportedPattern, target.has_value(), rules.warnings().front());
  return *target;
}

}  // namespace mole
