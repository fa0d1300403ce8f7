#pragma once
// Regular expressions of Python's `re`, as PEFT's configurations hold them, matched in linear time.
//
// A pattern is parsed to a tree and compiled to a Thompson automaton. Matching follows all of its states at
// once: a text of n characters costs at most n times the pattern's size, and (a+)+b hangs nothing. A
// lookaround is an automaton of its own. Where it matches is found for every place of the text before the
// main one runs, from the end to the start for a lookahead.

#include <cstddef>
#include <cstdint>
#include <map>
#include <string_view>
#include <utility>
#include <vector>

#include <mole/core/error.hpp>
#include <mole/core/quote.hpp>
#include <mole/io/pattern_tree.hpp>

namespace mole {

/// What the patterns that share it may still cost, in steps of a nanosecond or two.
struct PatternBudget {
  std::size_t steps = 100'000'000;

  /// Throws UnsupportedPattern where there is less left.
  void spend(std::size_t count) {
    if (count > steps) throw UnsupportedPattern("the patterns take too long to match; there are too many");
    steps -= count;
  }
};

/// A text to match, decoded once for all patterns.
class PatternText {
 public:
  explicit PatternText(std::string_view text) {
    points_.reserve(text.size());
    while (!text.empty()) {
      const auto [value, bytes] = first_code_point(text);
      // A byte that is no UTF-8 becomes what Python reads it as, which no pattern holds.
      points_.push_back(bytes > 0 ? value : 0xdc00 + static_cast<unsigned char>(text.front()));
      text.remove_prefix(bytes > 0 ? bytes : 1);
    }
  }
  const std::vector<char32_t>& points() const { return points_; }

 private:
  std::vector<char32_t> points_;
};

/// A compiled regular expression. It knows literals, `.`, sets with \d \w \s, alternation, groups (also named
/// ones and (?:..)), the anchors ^ $ \A \Z \b \B, the quantifiers * + ? {m,n} and their lazy forms,
/// lookahead and lookbehind, and the flags i and s. Back references, atomic groups, possessive quantifiers and
/// conditionals are unsupported, as is what exceeds max_pattern_bytes, max_pattern_nesting or
/// max_pattern_states.
class Pattern {
 public:
  /// Throws FormatError for what Python refuses too, UnsupportedPattern for what this matcher lacks.
  explicit Pattern(std::string_view text) {
    detail::PatternTree tree = detail::PatternParser(text).parse();
    std::map<std::size_t, std::size_t> compiled;
    main_ = compile(tree, tree.root, false, compiled);
    collect_tail(tree, tree.root);
    anchored_ = ends_in_anchor(tree, tree.root);
    sets_ = std::move(tree.sets);
  }

  /// Whether all of the text matches, as re.fullmatch. Throws UnsupportedPattern where the budget is spent, or
  /// where a text beyond ASCII meets \d, \w, \s, \b or the flag i, which go by tables of Unicode.
  bool full_match(const PatternText& text, PatternBudget& budget) const {
    return ends_well(text, budget) && run(text, budget).back();
  }
  /// The same with a budget of its own.
  bool full_match(std::string_view text) const {
    PatternBudget budget;
    return full_match(PatternText(text), budget);
  }

  /// Whether the text begins with a match, as re.match. Throws as full_match() does.
  bool match(const PatternText& text, PatternBudget& budget) const {
    const auto& points = text.points();
    // Before a last line break $ holds too.
    const bool to_the_end = anchored_ && (points.empty() || points.back() != '\n');
    if (to_the_end && !ends_well(text, budget)) return false;
    for (const bool accepted : run(text, budget))
      if (accepted) return true;
    return false;
  }
  /// The same with a budget of its own.
  bool match(std::string_view text) const {
    PatternBudget budget;
    return match(PatternText(text), budget);
  }

  /// The automaton's states.
  std::size_t size() const { return states_; }

 private:
  using Kind = detail::PatternNode::Kind;
  using Anchor = detail::PatternAnchor;
  enum class Op : std::uint8_t { set, anchor, look, split, jump, accept };
  // `to` and `other` are sets, programs or states, as the operation has it.
  struct State {
    Op op;
    Anchor anchor = Anchor::begin;
    bool negated = false;
    std::uint32_t to = 0, other = 0;
  };
  struct Program {
    std::vector<State> states;
    bool backward = false;
  };
  // A flag for each place before, between and behind the characters.
  using Places = std::vector<bool>;

  std::uint32_t push(Program& program, State state) {
    if (++states_ > max_pattern_states)
      throw UnsupportedPattern(message("it takes more than", max_pattern_states, "states"));
    program.states.push_back(state);
    return static_cast<std::uint32_t>(program.states.size() - 1);
  }

  Program compile(const detail::PatternTree& tree, std::size_t node, bool backward,
                  std::map<std::size_t, std::size_t>& compiled) {
    Program program{{}, backward};
    emit(tree, node, program, compiled);
    push(program, {Op::accept});
    return program;
  }

  void emit(const detail::PatternTree& tree, std::size_t which, Program& program,
            std::map<std::size_t, std::size_t>& compiled) {
    const auto& node = tree.nodes[which];
    const auto end = [&] { return static_cast<std::uint32_t>(program.states.size()); };
    const auto inner = [&](std::size_t child) { emit(tree, child, program, compiled); };
    switch (node.kind) {
      case Kind::set:
        push(program, {Op::set, {}, false, static_cast<std::uint32_t>(node.set)});
        return;
      case Kind::anchor:
        push(program, {Op::anchor, node.anchor});
        return;
      case Kind::look: {
        // Inside a counted repetition the same lookaround comes up again.
        const auto known = compiled.find(which);
        std::size_t look = known == compiled.end() ? 0 : known->second;
        if (known == compiled.end()) {
          Program found = compile(tree, node.children.front(), !node.behind, compiled);
          look = looks_.size();
          looks_.push_back(std::move(found));
          compiled[which] = look;
        }
        push(program, {Op::look, {}, node.negated, static_cast<std::uint32_t>(look)});
        return;
      }
      case Kind::sequence:
        for (std::size_t i = 0; i < node.children.size(); ++i)
          inner(node.children[program.backward ? node.children.size() - 1 - i : i]);
        return;
      case Kind::choice: {
        std::vector<std::uint32_t> jumps;
        for (std::size_t i = 0; i + 1 < node.children.size(); ++i) {
          const auto split = push(program, {Op::split});
          program.states[split].to = end();
          inner(node.children[i]);
          jumps.push_back(push(program, {Op::jump}));
          program.states[split].other = end();
        }
        inner(node.children.back());
        for (const auto jump : jumps) program.states[jump].to = end();
        return;
      }
      case Kind::repeat:
        return emit_repeat(tree, node, program, compiled);
    }
  }

  void emit_repeat(const detail::PatternTree& tree, const detail::PatternNode& node, Program& program,
                   std::map<std::size_t, std::size_t>& compiled) {
    const auto end = [&] { return static_cast<std::uint32_t>(program.states.size()); };
    // Whether the child takes a state: nothing, repeated, is nothing, however often.
    const auto once = [&] {
      const auto before = end();
      emit(tree, node.children.front(), program, compiled);
      return end() > before;
    };
    for (std::size_t i = 0; i < node.least; ++i)
      if (!once()) return;
    std::vector<std::uint32_t> splits;
    if (node.most == detail::PatternNode::unbounded) {
      splits.push_back(push(program, {Op::split}));
      program.states[splits.back()].to = end();
      once();
      push(program, {Op::jump, {}, false, splits.back()});
    } else {
      for (std::size_t i = node.least; i < node.most; ++i) {
        splits.push_back(push(program, {Op::split}));
        program.states[splits.back()].to = end();
        if (!once()) break;
      }
    }
    for (const auto split : splits) program.states[split].other = end();
  }

  // The sets of the last characters, last first, as far as each match must end in them; false where they end.
  bool collect_tail(const detail::PatternTree& tree, std::size_t which) {
    const auto& node = tree.nodes[which];
    if (node.kind == Kind::anchor || node.kind == Kind::look) return true;
    if (node.kind == Kind::set) {
      tail_.push_back(static_cast<std::uint32_t>(node.set));
      return true;
    }
    if (node.kind != Kind::sequence) return false;
    for (auto child = node.children.rbegin(); child != node.children.rend(); ++child)
      if (!collect_tail(tree, *child)) return false;
    return true;
  }

  static bool ends_in_anchor(const detail::PatternTree& tree, std::size_t which) {
    const auto& node = tree.nodes[which];
    if (node.kind == Kind::anchor) return node.anchor == Anchor::end || node.anchor == Anchor::very_end;
    return node.kind == Kind::sequence && !node.children.empty() &&
           ends_in_anchor(tree, node.children.back());
  }

  // The cheap look that tells most names from most patterns.
  bool ends_well(const PatternText& text, PatternBudget& budget) const {
    const auto& points = text.points();
    std::size_t i = 0;
    while (i < tail_.size() && i < points.size() && sets_[tail_[i]].contains(points[points.size() - 1 - i]))
      ++i;
    budget.spend(1 + i);
    return i == tail_.size();
  }

  Places run(const PatternText& text, PatternBudget& budget) const {
    std::vector<Places> found;
    for (const Program& look : looks_) found.push_back(follow(look, true, text, found, budget));
    return follow(main_, false, text, found, budget);
  }

  // Where the program accepts, having begun at the text's start, or `anywhere`.
  Places follow(const Program& program, bool anywhere, const PatternText& text,
                const std::vector<Places>& found, PatternBudget& budget) const {
    constexpr std::size_t cost = 8;  // of a state, beside a comparison in ends_well()
    const auto& points = text.points();
    const std::size_t n = points.size();
    budget.spend(cost + program.states.size());
    Places accepted(n + 1, false);
    std::vector<std::uint32_t> now, next, open;
    std::vector<std::size_t> seen(program.states.size(), 0);
    for (std::size_t step = 0; step <= n; ++step) {
      const std::size_t place = program.backward ? n - step : step;
      if (anywhere || step == 0) now.push_back(0);
      if (now.empty()) break;
      next.clear();
      std::size_t visited = 0;
      for (const std::uint32_t start : now) {
        open.push_back(start);
        while (!open.empty()) {
          const std::uint32_t at = open.back();
          open.pop_back();
          if (seen[at] == step + 1) continue;
          seen[at] = step + 1;
          ++visited;
          const State& state = program.states[at];
          switch (state.op) {
            case Op::accept:
              accepted[place] = true;
              break;
            case Op::jump:
              open.push_back(state.to);
              break;
            case Op::split:
              open.push_back(state.other);
              open.push_back(state.to);
              break;
            case Op::anchor:
              if (holds(state.anchor, points, place)) open.push_back(at + 1);
              break;
            case Op::look:
              if (found[state.to][place] != state.negated) open.push_back(at + 1);
              break;
            case Op::set:
              if (step < n && sets_[state.to].contains(points[program.backward ? place - 1 : place]))
                next.push_back(at + 1);
              break;
          }
        }
      }
      budget.spend(cost * (1 + visited));
      std::swap(now, next);
    }
    return accepted;
  }

  static bool holds(Anchor anchor, const std::vector<char32_t>& points, std::size_t place) {
    const std::size_t n = points.size();
    if (anchor == Anchor::begin) return place == 0;
    if (anchor == Anchor::very_end) return place == n;
    if (anchor == Anchor::end) return place == n || (place + 1 == n && points[place] == '\n');
    const auto word = [&](std::size_t i) {
      if (points[i] >= 128) throw UnsupportedPattern("\\b is supported for names of ASCII alone");
      return detail::CharacterSet::in_class(points[i], 'w');
    };
    if (n == 0) return false;
    const bool before = place > 0 && word(place - 1), behind = place < n && word(place);
    return (before != behind) == (anchor == Anchor::boundary);
  }

  std::vector<detail::CharacterSet> sets_;
  std::vector<Program> looks_;  // those inside another stand before it
  Program main_;
  std::vector<std::uint32_t> tail_;
  std::size_t states_ = 0;
  bool anchored_ = false;
};

}  // namespace mole
