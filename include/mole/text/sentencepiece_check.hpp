#pragma once
// What libsentencepiece takes on trust in a model: its tables of normal forms, which it follows wherever they point, and
// that few pieces of the user's begin with one another.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <mole/core/error.hpp>

namespace mole::detail {

/// Reads on through the fields of a protocol buffer's message.
class ProtoFields {
 public:
  explicit ProtoFields(std::string_view bytes) : bytes_(bytes) {}

  /// Goes to the next field: its number, and its bytes or its whole number where it has such. False at the end; whole()
  /// says whether it was that of the message.
  bool next() {
    if (bytes_.empty()) return false;
    const auto tag = varint();
    number = tag >> 3U;
    content = {};
    value = 0;
    switch (tag & 7U) {
      case 0:
        value = varint();
        break;
      case 1:
        take(8);
        break;
      case 2:
        content = take(varint());
        break;
      case 5:
        take(4);
        break;
      default:  // groups, which models have none of
        whole_ = false;
    }
    return whole_;
  }
  bool whole() const { return whole_; }

  std::uint64_t number = 0, value = 0;
  std::string_view content;

 private:
  std::uint64_t varint() {
    std::uint64_t read = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
      const auto byte = take(1);
      if (byte.empty()) return 0;
      read |= (static_cast<std::uint64_t>(static_cast<unsigned char>(byte[0])) & 127U) << shift;
      if (static_cast<unsigned char>(byte[0]) < 128) return read;
    }
    whole_ = false;
    return 0;
  }
  std::string_view take(std::uint64_t n) {
    if (n > bytes_.size()) {
      whole_ = false;
      return {};
    }
    const auto taken = bytes_.substr(0, static_cast<std::size_t>(n));
    bytes_.remove_prefix(static_cast<std::size_t>(n));
    return taken;
  }

  std::string_view bytes_;
  bool whole_ = true;
};

/// The double array of a table of normal forms (darts-clone): from a place a byte leads to the unit at place ^ byte, if
/// that has the byte for its label. A unit may hold a value, the place of a text.
class CharsTable {
 public:
  /// The results that libsentencepiece has room for: keys of which each is the beginning of the next.
  static constexpr std::size_t most_nested = 32;

  CharsTable(std::string_view bytes, std::size_t texts) : units_(bytes.size() / 4), texts_(texts) {
    if (!units_.empty()) std::memcpy(units_.data(), bytes.data(), units_.size() * 4);
  }

  /// Whether every way from the start stays inside, ends, holds no more than most_nested values, and every value is the
  /// place of a text.
  bool is_sound() const {
    if (units_.empty()) return false;
    enum class Seen : std::uint8_t { no, open, done };
    std::vector<Seen> seen(units_.size(), Seen::no);
    std::vector<std::uint8_t> nested(units_.size(), 0);  // values on the longest way from a place on
    struct Step {
      std::size_t place, key;
    };
    std::vector<Step> path;
    const auto enter = [&](std::size_t place) {
      if ((place | 255U) >= units_.size()) return false;
      if (seen[place] == Seen::no) path.push_back({place, 0});
      // A way that leads back into itself has no end.
      const bool opens = seen[place] != Seen::open;
      if (seen[place] == Seen::no) seen[place] = Seen::open;
      return opens;
    };
    if (!enter(offset(units_[0]))) return false;
    while (!path.empty()) {
      auto& [place, key] = path.back();
      if (key == 256) {
        seen[place] = Seen::done;
        path.pop_back();
        continue;
      }
      const std::size_t child = place ^ key;
      const auto unit = units_[child];
      if ((unit & (value_bit | 255U)) != key) {
        ++key;
        continue;
      }
      const std::size_t to = child ^ offset(unit);
      if ((to | 255U) >= units_.size()) return false;
      if (seen[to] != Seen::done) {
        if (!enter(to)) return false;
        continue;  // with this key again, once that is done
      }
      const bool holds = (unit & 256U) != 0;
      if (holds && (units_[to] & ~value_bit) >= texts_) return false;
      const std::size_t count = nested[to] + std::size_t{holds};
      if (count > most_nested) return false;
      if (count > nested[place]) nested[place] = static_cast<std::uint8_t>(count);
      ++key;
    }
    return true;
  }

 private:
  static constexpr std::uint32_t value_bit = std::uint32_t{1} << 31U;
  static std::size_t offset(std::uint32_t unit) { return (unit >> 10U) << ((unit & 512U) >> 6U); }

  std::vector<std::uint32_t> units_;
  std::size_t texts_;
};

/// Throws FormatError unless a precompiled_charsmap is sound: the size of its double array, that, and the texts.
inline void check_chars_map(std::string_view map, const std::string& source) {
  constexpr std::size_t most = 8'000'000;
  if (map.empty()) return;
  std::uint32_t size = 0;
  if (map.size() >= 4) std::memcpy(&size, map.data(), 4);
  const bool fits = map.size() > 4 && map.size() <= most && size % 4 == 0 && size <= map.size() - 4;
  MOLE_CHECK_FORMAT(fits, source, "the model's table of normal forms is damaged");
  const auto texts = map.substr(4 + std::size_t{size});
  MOLE_CHECK_FORMAT(
      (texts.empty() || texts.back() == '\0') && CharsTable(map.substr(4, size), texts.size()).is_sound(),
      source, "the model's table of normal forms is damaged");
}

/// Throws FormatError where more pieces begin with one another than libsentencepiece has room for.
inline void check_nested(std::vector<std::string_view> pieces, const std::string& source) {
  constexpr std::size_t most = 64;
  std::sort(pieces.begin(), pieces.end());
  std::vector<std::string_view> nested;
  for (const auto& piece : pieces) {
    while (!nested.empty() && !piece.starts_with(nested.back())) nested.pop_back();
    nested.push_back(piece);
    MOLE_CHECK_FORMAT(nested.size() <= most, source, "more than", most,
                      "pieces of the user's begin with one another");
  }
}

/// Throws FormatError, beginning with `source`, for bytes that are no message, or whose tables or pieces
/// libsentencepiece would not survive.
inline void check_sentencepiece(std::string_view model, const std::string& source) {
  constexpr std::uint64_t piece = 1, normaliser = 3, denormaliser = 5;           // of the model
  constexpr std::uint64_t chars_map = 2, spelling = 1, kind = 3, users_own = 4;  // of these
  std::vector<std::string_view> own;
  ProtoFields fields(model);
  while (fields.next()) {
    if (fields.number != piece && fields.number != normaliser && fields.number != denormaliser) continue;
    const bool is_piece = fields.number == piece;
    bool is_own = false;
    std::string_view text;
    ProtoFields inner(fields.content);
    while (inner.next()) {
      if (is_piece && inner.number == spelling) text = inner.content;
      if (is_piece && inner.number == kind) is_own = inner.value == users_own;
      if (!is_piece && inner.number == chars_map) check_chars_map(inner.content, source);
    }
    MOLE_CHECK_FORMAT(inner.whole(), source, "this is no SentencePiece model");
    if (is_own) own.push_back(text);
  }
  MOLE_CHECK_FORMAT(fields.whole(), source, "this is no SentencePiece model");
  check_nested(std::move(own), source);
}

}  // namespace mole::detail
