#pragma once
// The syntax of pattern.hpp: a regular expression of Python's `re` as a tree.

#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string_view>
#include <utility>
#include <vector>

#include <mole/core/error.hpp>
#include <mole/core/quote.hpp>
#include <mole/io/pattern_set.hpp>

namespace mole {

/// The longest pattern that is read, in bytes; the deepest nesting of its groups; the most states of its
/// automaton, which counted repetitions such as x{1000} multiply.
inline constexpr std::size_t max_pattern_bytes = 10'000, max_pattern_nesting = 100,
                             max_pattern_states = 10'000;

namespace detail {

enum class PatternAnchor : std::uint8_t { begin, end, very_end, boundary, no_boundary };

struct PatternNode {
  enum class Kind : std::uint8_t { set, anchor, sequence, choice, repeat, look };
  static constexpr std::size_t unbounded = std::numeric_limits<std::size_t>::max();

  Kind kind = Kind::sequence;
  PatternAnchor anchor = PatternAnchor::begin;
  bool negated = false, behind = false;  ///< of a lookaround
  std::size_t set = 0;                   ///< which of the tree's sets
  std::size_t least = 0, most = 0;       ///< of a repetition
  std::vector<std::size_t> children;
};

struct PatternTree {
  std::vector<PatternNode> nodes;
  std::vector<CharacterSet> sets;
  std::size_t root = 0;
};

/// Recursive descent, its depth bounded by max_pattern_nesting.
class PatternParser {
 public:
  explicit PatternParser(std::string_view text) {
    if (text.size() > max_pattern_bytes)
      throw UnsupportedPattern(
          message("it has", text.size(), "bytes; at most", max_pattern_bytes, "are read"));
    while (!text.empty()) {
      const auto [value, bytes] = first_code_point(text);
      MOLE_CHECK_FORMAT(bytes > 0, "it is not UTF-8");
      points_.push_back(value);
      text.remove_prefix(bytes);
    }
    literals_.fill(none);
  }

  PatternTree parse() && {
    Flags flags;
    tree_.root = choice(0, flags);
    if (!done()) malformed("a parenthesis is closed that was not opened");
    return std::move(tree_);
  }

 private:
  using Kind = PatternNode::Kind;
  struct Flags {
    bool fold_case = false, dot_all = false;
  };
  // What a quantifier finds before it.
  enum class Last { nothing, anchor, repeat, item };
  static constexpr std::size_t none = std::numeric_limits<std::size_t>::max();

  [[noreturn]] static void malformed(const char* what) { throw FormatError(message("malformed:", what)); }
  [[noreturn]] static void unsupported(const char* what) {
    throw UnsupportedPattern(message(what, "are not supported"));
  }

  bool done() const { return next_ == points_.size(); }
  bool sees(char32_t c) const { return !done() && points_[next_] == c; }
  bool take(char32_t c) {
    if (!sees(c)) return false;
    ++next_;
    return true;
  }
  char32_t take_any(const char* otherwise) {
    if (done()) malformed(otherwise);
    return points_[next_++];
  }

  std::size_t add(PatternNode node) {
    tree_.nodes.push_back(std::move(node));
    return tree_.nodes.size() - 1;
  }
  std::size_t add(CharacterSet set) {
    tree_.sets.push_back(std::move(set));
    return add_set(tree_.sets.size() - 1);
  }
  std::size_t add_set(std::size_t set) {
    PatternNode node;
    node.kind = Kind::set;
    node.set = set;
    return add(std::move(node));
  }
  std::size_t add(PatternAnchor anchor) {
    PatternNode node;
    node.kind = Kind::anchor;
    node.anchor = anchor;
    return add(std::move(node));
  }
  std::size_t literal(char32_t c, const Flags& flags) {
    // A pattern repeats its characters: each has one set.
    std::size_t* known = c < 128 ? &literals_[c + (flags.fold_case ? 128 : 0)] : nullptr;
    if (known && *known != none) return add_set(*known);
    CharacterSet set;
    set.add(c, c);
    set.finish(false, flags.fold_case);
    if (known) *known = tree_.sets.size();
    return add(std::move(set));
  }
  std::size_t class_set(char name) {
    CharacterSet set;
    set.add_class(name);
    set.finish(false, false);
    return add(std::move(set));
  }

  std::size_t choice(std::size_t depth, Flags& flags) {
    if (depth > max_pattern_nesting)
      throw UnsupportedPattern(message("its groups are nested deeper than", max_pattern_nesting));
    PatternNode node;
    node.kind = Kind::choice;
    node.children.push_back(sequence(depth, flags, depth == 0));
    while (take('|')) node.children.push_back(sequence(depth, flags, false));
    return node.children.size() == 1 ? node.children.front() : add(std::move(node));
  }

  // `first`: flags for the whole pattern may stand here.
  std::size_t sequence(std::size_t depth, Flags& flags, bool first) {
    PatternNode node;
    Last last = Last::nothing;
    while (!done() && !sees('|') && !sees(')')) {
      std::size_t least = 0, most = 0;
      if (quantifier(least, most)) {
        if (last == Last::nothing || last == Last::anchor) malformed("there is nothing to repeat");
        if (last == Last::repeat) malformed("a repetition is repeated");
        if (sees('+')) unsupported("possessive quantifiers");
        take('?');  // lazy or not makes no difference to whether there is a match
        PatternNode repeat;
        repeat.kind = Kind::repeat;
        repeat.least = least;
        repeat.most = most;
        repeat.children.push_back(node.children.back());
        node.children.back() = add(std::move(repeat));
        last = Last::repeat;
        continue;
      }
      const bool anchor = sees('^') || sees('$');
      const std::size_t item_node = item(depth, flags, first && node.children.empty());
      if (item_node == none) continue;
      node.children.push_back(item_node);
      const bool is_anchor = anchor || (escaped_ && tree_.nodes[item_node].kind == Kind::anchor);
      last = is_anchor ? Last::anchor : Last::item;
    }
    return node.children.size() == 1 ? node.children.front() : add(std::move(node));
  }

  // A quantifier is taken, or nothing is: {x} is no quantifier, and its brace a character like others.
  bool quantifier(std::size_t& least, std::size_t& most) {
    least = sees('+') ? 1 : 0;
    most = sees('?') ? 1 : PatternNode::unbounded;
    if (take('*') || take('+') || take('?')) return true;
    if (!sees('{')) return false;
    const std::size_t start = next_++;
    if (sees('}')) return next_ = start, false;
    const std::size_t low = number();
    const bool comma = take(',');
    const std::size_t high = comma ? number() : low;
    if (!take('}')) return next_ = start, false;
    if (!comma && low == none) return next_ = start, false;
    least = low == none ? 0 : low;
    most = high == none ? PatternNode::unbounded : high;
    if (least > most) malformed("a repetition's least count is above its most");
    return true;
  }
  std::size_t number() {
    std::size_t value = none;
    for (; !done() && points_[next_] >= '0' && points_[next_] <= '9'; ++next_) {
      value = (value == none ? 0 : value * 10) + (points_[next_] - U'0');
      if (value > 1'000'000'000) throw UnsupportedPattern("a repetition's count is above 1000000000");
    }
    return value;
  }

  // A node, or none for a comment or flags.
  std::size_t item(std::size_t depth, Flags& flags, bool flags_allowed) {
    escaped_ = false;
    const char32_t c = take_any("");
    switch (c) {
      case '^':
        return add(PatternAnchor::begin);
      case '$':
        return add(PatternAnchor::end);
      case '.': {
        CharacterSet set;
        if (!flags.dot_all) set.add('\n', '\n');
        set.finish(true, false);
        return add(std::move(set));
      }
      case '[':
        return bracket(flags);
      case '(':
        return group(depth, flags, flags_allowed);
      case '\\':
        escaped_ = true;
        return escape(flags);
      default:
        return literal(c, flags);
    }
  }

  std::size_t escape(const Flags& flags) {
    constexpr std::pair<char32_t, PatternAnchor> anchors[] = {{'A', PatternAnchor::begin},
                                                              {'Z', PatternAnchor::very_end},
                                                              {'z', PatternAnchor::very_end},
                                                              {'b', PatternAnchor::boundary},
                                                              {'B', PatternAnchor::no_boundary}};
    for (const auto& [name, anchor] : anchors)
      if (take(name)) return add(anchor);
    const auto [c, is_class] = escaped_character();
    return is_class ? class_set(static_cast<char>(c)) : literal(c, flags);
  }

  // After a backslash: a character, or the name of a class.
  std::pair<char32_t, bool> escaped_character() {
    const char32_t c = take_any("it ends in a backslash");
    constexpr std::string_view classes = "dDwWsS", names = "afnrtv", values = "\a\f\n\r\t\v";
    const bool ascii = c < 128;
    if (ascii && classes.find(static_cast<char>(c)) != classes.npos) return {c, true};
    if (const auto i = ascii ? names.find(static_cast<char>(c)) : names.npos; i != names.npos)
      return {static_cast<unsigned char>(values[i]), false};
    if (c == 'x') return {hexadecimal(2), false};
    if (c == 'u') return {hexadecimal(4), false};
    if (c == 'U') return {hexadecimal(8), false};
    if (c == 'N') unsupported("names of characters");
    if (c == '0') {
      char32_t value = 0;
      for (int i = 0; i < 2 && !done() && points_[next_] >= '0' && points_[next_] <= '7'; ++i)
        value = value * 8 + (points_[next_++] - U'0');
      return {value, false};
    }
    if (c >= '1' && c <= '9') unsupported("back references and octal numbers");
    if (CharacterSet::in_class(c, 'w') && ascii && c != '_')
      malformed("a letter is escaped that means nothing");
    return {c, false};
  }
  char32_t hexadecimal(int digits) {
    char32_t value = 0;
    for (int i = 0; i < digits; ++i) {
      const char32_t c = take_any("an escape lacks its digits");
      const bool digit = c >= '0' && c <= '9', lower = c >= 'a' && c <= 'f', upper = c >= 'A' && c <= 'F';
      if (!digit && !lower && !upper) malformed("an escape lacks its digits");
      value = value * 16 + (digit ? c - U'0' : lower ? c - U'a' + 10 : c - U'A' + 10);
    }
    if (value > 0x10ffff) malformed("there is no such character");
    return value;
  }

  std::size_t bracket(const Flags& flags) {
    constexpr const char* open = "a set of characters is not closed";
    CharacterSet set;
    const bool negated = take('^');
    const auto member = [&]() -> std::pair<char32_t, bool> {
      const char32_t c = take_any(open);
      if (c != '\\') return {c, false};
      if (take('b')) return {U'\b', false};
      return escaped_character();
    };
    const auto put = [&](const std::pair<char32_t, bool>& one) {
      one.second ? set.add_class(static_cast<char>(one.first)) : set.add(one.first, one.first);
    };
    for (bool first = true; first || !take(']'); first = false) {
      const auto low = member();
      if (!take('-')) {
        put(low);
        continue;
      }
      if (take(']')) {
        put(low);
        put({U'-', false});
        break;
      }
      const auto high = member();
      if (low.second || high.second || low.first > high.first) malformed("a range of characters is empty");
      set.add(low.first, high.first);
    }
    set.finish(negated, flags.fold_case);
    return add(std::move(set));
  }

  std::size_t group(std::size_t depth, Flags& flags, bool flags_allowed) {
    constexpr const char* open = "a group is not closed";
    Flags inside = flags;
    PatternNode look;
    if (take('?')) {
      const char32_t kind = take_any(open);
      if (kind == '#') {
        while (take_any(open) != ')') continue;
        return none;
      }
      if (kind == 'P') {
        if (sees('=')) unsupported("back references");
        if (!take('<')) malformed("(?P is followed by no name");
        group_name();
      } else if (kind == '=' || kind == '!' || kind == '<') {
        look.kind = Kind::look;
        look.behind = kind == '<';
        const char32_t sign = look.behind ? take_any(open) : kind;
        if (sign != '=' && sign != '!') malformed("(?< is followed by neither = nor !");
        look.negated = sign == '!';
      } else if (kind == '>') {
        unsupported("atomic groups");
      } else if (kind == '(') {
        unsupported("conditionals");
      } else if (kind != ':') {
        --next_;
        if (group_flags(inside)) {
          if (!flags_allowed) unsupported("flags inside a pattern");
          flags = inside;
          return none;
        }
      }
    }
    const std::size_t content = choice(depth + 1, inside);
    if (!take(')')) malformed(open);
    escaped_ = false;
    if (look.kind != Kind::look) return content;
    look.children.push_back(content);
    return add(std::move(look));
  }
  void group_name() {
    bool first = true;
    for (char32_t c = take_any("a group's name is not closed"); c != '>' || first;
         c = take_any("a group's name is not closed")) {
      const bool right =
          c >= 128 || (CharacterSet::in_class(c, 'w') && !(first && CharacterSet::in_class(c, 'd')));
      if (!right) malformed("a group's name is no identifier");
      first = false;
    }
  }
  // Whether they are for the whole pattern: (?i), and not for a group: (?i:..).
  bool group_flags(Flags& flags) {
    bool on = true;
    for (;;) {
      const char32_t c = take_any("flags are not closed");
      if (c == 'i')
        flags.fold_case = on;
      else if (c == 's')
        flags.dot_all = on;
      else if (c == '-' && on)
        on = false;
      else if (c == ':')
        return false;
      else if (c == ')' && on)
        return true;
      else if (c == 'a' || c == 'L' || c == 'm' || c == 'u' || c == 'x')
        unsupported("flags other than i and s");
      else
        malformed("(? is followed by nothing that is known");
    }
  }

  std::vector<char32_t> points_;
  std::size_t next_ = 0;
  bool escaped_ = false;
  std::array<std::size_t, 256> literals_{};
  PatternTree tree_;
};

}  // namespace detail

}  // namespace mole
