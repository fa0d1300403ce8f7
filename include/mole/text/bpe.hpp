#pragma once
// Byte-pair encoding (Sennrich et al. 2016): neighbouring symbols are joined, the lowest rank first and the leftmost
// of equal ones, until no merge applies. A word of n symbols takes O(n log n).

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include <mole/core/error.hpp>
#include <mole/core/quote.hpp>
#include <mole/core/shape.hpp>

namespace mole {

namespace detail {

struct TextHash {
  using is_transparent = void;
  std::size_t operator()(std::string_view text) const { return std::hash<std::string_view>{}(text); }
};

}  // namespace detail

/// Tokens by spelling and by number. Throws FormatError, beginning with `source`, for a number given twice or one
/// that is negative or absurd.
class Vocabulary {
 public:
  static constexpr Index most = 10'000'000;

  Vocabulary() = default;
  Vocabulary(Vocabulary&&) = default;
  Vocabulary& operator=(Vocabulary&&) = default;

  void add(std::string spelling, Index id, const std::string& source) {
    MOLE_CHECK_FORMAT(id >= 0 && id < most, source, "the token", quote(spelling), "has the number", id);
    const auto [found, is_new] = ids_.try_emplace(std::move(spelling), id);
    MOLE_CHECK_FORMAT(is_new || found->second == id, source, "the token", quote(found->first),
                      "has two numbers:", found->second, "and", id);
    if (static_cast<std::size_t>(id) >= spellings_.size())
      spellings_.resize(static_cast<std::size_t>(id) + 1);
    auto& place = spellings_[static_cast<std::size_t>(id)];
    MOLE_CHECK_FORMAT(!place || *place == found->first, source, "the number", id, "is that of", quote(*place),
                      "and of", quote(found->first));
    place = &found->first;
  }
  void reserve(std::size_t n) { ids_.reserve(n); }

  /// -1 where there is none.
  Index find(std::string_view spelling) const {
    const auto found = ids_.find(spelling);
    return found == ids_.end() ? -1 : found->second;
  }
  /// Null where there is none.
  const std::string* spelling(Index id) const {
    return id >= 0 && id < size() ? spellings_[static_cast<std::size_t>(id)] : nullptr;
  }
  /// One above the largest number.
  Index size() const { return static_cast<Index>(spellings_.size()); }

 private:
  std::unordered_map<std::string, Index, detail::TextHash, std::equal_to<>> ids_;
  std::vector<const std::string*> spellings_;
};

/// How a word falls into its first symbols.
struct BpeOptions {
  std::string end_of_word;     ///< stands after a word's last character, such as "</w>"
  Index unknown = -1;          ///< for a character that is no token; -1: it is dropped
  bool fuse_unknown = false;   ///< one such token for several in a row
  bool byte_fallback = false;  ///< a character that is no token becomes tokens of its bytes, "<0xE2>"
  bool ignore_merges = false;  ///< a word that is a token is taken whole
};

/// A trained byte-pair encoding.
class Bpe {
 public:
  Bpe() = default;
  explicit Bpe(BpeOptions options) : options_(std::move(options)) {}

  /// The tokens; to be filled before merges are added.
  Vocabulary& vocabulary() { return vocabulary_; }
  const Vocabulary& vocabulary() const { return vocabulary_; }
  const BpeOptions& options() const { return options_; }

  void reserve_merges(std::size_t n) {
    std::size_t slots = 16;
    while (slots < 2 * n) slots *= 2;
    table_.assign(slots, Slot());
  }
  /// The next merge, after all that stand. Throws FormatError where one of its tokens is none.
  void add_merge(std::string_view left, std::string_view right, const std::string& source) {
    const auto token = [&](std::string_view spelling) {
      const Index id = vocabulary_.find(spelling);
      MOLE_CHECK_FORMAT(id >= 0, source, "merge", merges_, "needs", quote(spelling), ", which is no token");
      return id;
    };
    const Index l = token(left), r = token(right);
    joined_.assign(left).append(right);
    add_merge(l, r, token(joined_));
  }
  void add_merge(Index left, Index right, Index joined) {
    if (2 * (merges_ + 1) > table_.size()) grow();
    put({key(left, right), static_cast<std::uint32_t>(merges_++), static_cast<std::uint32_t>(joined)});
  }

  /// To be called once vocabulary and merges are complete: finds the tokens of single characters and bytes.
  void finish() {
    if (table_.empty()) reserve_merges(8);
    for (std::size_t c = 0; c < low_.size(); ++c) {
      const std::string text =
          c < 0x80 ? std::string(1, static_cast<char>(c))
                   : std::string{static_cast<char>(0xc0 | c >> 6), static_cast<char>(0x80 | (c & 63))};
      low_[c] = static_cast<std::int32_t>(vocabulary_.find(text));
    }
    constexpr std::string_view digits = "0123456789ABCDEF";
    bool all = true;
    for (std::size_t b = 0; b < bytes_.size(); ++b) {
      bytes_[b] = vocabulary_.find(std::string("<0x") + digits[b >> 4] + digits[b & 15] + ">");
      all = all && bytes_[b] >= 0;
    }
    if (!all) bytes_known_ = false;
  }

  /// Appends the tokens of a word of well-formed UTF-8.
  void encode(std::string_view word, std::vector<Index>& tokens) const {
    if (word.empty()) return;
    MOLE_CHECK_ARG(word.size() < std::numeric_limits<std::uint32_t>::max() / 2, "a word of", word.size(),
                   "bytes is too long");
    if (options_.ignore_merges) {
      if (const Index whole = vocabulary_.find(word); whole >= 0) return tokens.push_back(whole);
    }
    const std::size_t begin = tokens.size();
    append_symbols(word, tokens);
    merge(tokens, begin);
  }

 private:
  struct Slot {
    std::uint64_t pair = none;
    std::uint32_t rank = 0, joined = 0;
  };
  static constexpr std::uint64_t none = ~std::uint64_t{0};
  static constexpr std::uint32_t no_rank = ~std::uint32_t{0};

  static std::uint64_t key(Index left, Index right) {
    return static_cast<std::uint64_t>(left) << 32 | static_cast<std::uint64_t>(right);
  }
  std::size_t place(std::uint64_t pair) const {
    std::uint64_t h = pair * 0x9E3779B97F4A7C15ULL;
    h ^= h >> 29;
    std::size_t at = static_cast<std::size_t>(h) & (table_.size() - 1);
    while (table_[at].pair != none && table_[at].pair != pair) at = (at + 1) & (table_.size() - 1);
    return at;
  }
  /// Of two merges of one pair the later counts, as in the reference's map.
  void put(const Slot& slot) { table_[place(slot.pair)] = slot; }
  void grow() {
    auto old = std::move(table_);
    table_.assign(std::max<std::size_t>(16, 2 * old.size()), Slot());
    for (const auto& slot : old)
      if (slot.pair != none) put(slot);
  }

  Index character(std::string_view text, char32_t value, bool last) const {
    if (last && !options_.end_of_word.empty())
      return vocabulary_.find(std::string(text) + options_.end_of_word);
    return value < low_.size() ? low_[value] : vocabulary_.find(text);
  }

  void append_symbols(std::string_view word, std::vector<Index>& symbols) const {
    bool fusing = false;
    while (!word.empty()) {
      const auto c = first_code_point(word);
      const auto text = word.substr(0, std::max<std::size_t>(1, c.bytes));
      word.remove_prefix(text.size());
      const Index id = character(text, c.value, word.empty());
      const bool unknown = id < 0 && !(options_.byte_fallback && bytes_known_);
      if (id >= 0) {
        symbols.push_back(id);
      } else if (!unknown) {
        for (const char byte : text) symbols.push_back(bytes_[static_cast<unsigned char>(byte)]);
      } else if (options_.unknown >= 0 && !(fusing && options_.fuse_unknown)) {
        symbols.push_back(options_.unknown);
      }
      fusing = unknown;
    }
  }

  /// The rank of the merge of two symbols, and what they become.
  const Slot* find_merge(Index left, Index right) const {
    const auto& slot = table_[place(key(left, right))];
    return slot.pair == none ? nullptr : &slot;
  }

  /// Merges tokens[begin, end).
  void merge(std::vector<Index>& tokens, std::size_t begin) const {
    const auto n = static_cast<std::uint32_t>(tokens.size() - begin);
    if (n < 2) return;
    Index* const symbols = tokens.data() + begin;
    // Joined symbols stand at the place of the first; next and before are places, rank is that of the pair which
    // begins at a place. A pair waits as its rank and place in one number.
    std::vector<std::uint32_t> next(n), before(n), rank(n, no_rank);
    const auto look = [&](std::uint32_t at) {
      rank[at] = no_rank;
      if (next[at] >= n) return false;
      const auto* found = find_merge(symbols[at], symbols[next[at]]);
      if (found) rank[at] = found->rank;
      return found != nullptr;
    };
    const auto waiting = [&](std::uint32_t at) { return std::uint64_t{rank[at]} << 32 | at; };
    for (std::uint32_t i = 0; i < n; ++i) {
      next[i] = i + 1;
      before[i] = i - 1;  // of the first: n or more
    }
    // The pairs that wait: some in order, and later ones in a heap. In a long run of one letter each merge's pairs
    // come in order, so that no heap is searched.
    std::vector<std::uint64_t> ordered, heap;
    const auto later = std::greater<>();
    for (std::uint32_t i = 0; i + 1 < n; ++i)
      if (look(i)) ordered.push_back(waiting(i));
    if (!std::is_sorted(ordered.begin(), ordered.end())) std::sort(ordered.begin(), ordered.end());
    std::size_t at_ordered = 0;
    while (at_ordered < ordered.size() || !heap.empty()) {
      if (at_ordered == ordered.size()) {
        if (!std::is_sorted(heap.begin(), heap.end())) std::sort(heap.begin(), heap.end());
        ordered.swap(heap);
        heap.clear();
        at_ordered = 0;
      }
      std::uint64_t best = ordered[at_ordered];
      if (!heap.empty() && heap.front() < best) {
        best = heap.front();
        std::pop_heap(heap.begin(), heap.end(), later);
        heap.pop_back();
      } else {
        ++at_ordered;
      }
      const auto at = static_cast<std::uint32_t>(best);
      if (symbols[at] < 0 || rank[at] != static_cast<std::uint32_t>(best >> 32)) continue;
      const std::uint32_t gone = next[at];
      symbols[at] = static_cast<Index>(find_merge(symbols[at], symbols[gone])->joined);
      symbols[gone] = -1;
      next[at] = next[gone];
      if (next[at] < n) before[next[at]] = at;
      for (const std::uint32_t place : {before[at], at}) {
        if (place >= n || !look(place)) continue;
        heap.push_back(waiting(place));
        std::push_heap(heap.begin(), heap.end(), later);
      }
    }
    tokens.erase(std::remove(tokens.begin() + static_cast<std::ptrdiff_t>(begin), tokens.end(), Index{-1}),
                 tokens.end());
  }

  BpeOptions options_;
  Vocabulary vocabulary_;
  std::vector<Slot> table_;
  std::size_t merges_ = 0;
  std::string joined_;
  std::array<std::int32_t, 0x200> low_{};  ///< by code point
  std::array<Index, 256> bytes_{};
  bool bytes_known_ = true;
};

}  // namespace mole
