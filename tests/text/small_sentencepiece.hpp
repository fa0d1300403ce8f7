#pragma once
// SentencePiece models, field by field of their protocol buffers.

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

namespace text_test {

/// A field that holds bytes.
inline std::string proto_field(int number, const std::string& bytes) {
  std::string out(1, static_cast<char>(number << 3 | 2));
  for (std::size_t n = bytes.size();; n >>= 7U) {
    out += static_cast<char>(n < 128 ? n : (n & 127U) | 128U);
    if (n < 128) return out + bytes;
  }
}

/// A piece. Types: 1 plain, 2 unknown, 3 control, 4 the user's.
inline std::string sentencepiece_piece(const std::string& text, int type, float score = -1) {
  std::string own = proto_field(1, text) + '\x15';
  own.append(reinterpret_cast<const char*>(&score), 4);
  return proto_field(1, own + '\x18' + static_cast<char>(type));
}

/// The pieces of a small model. Kinds: 1 unigram, 2 BPE, 3 words, 4 characters.
inline std::string sentencepiece_pieces(int kind = 1) {
  const std::string mark = "\xE2\x96\x81";
  std::string model =
      sentencepiece_piece("<unk>", 2) + sentencepiece_piece("<s>", 3) + sentencepiece_piece("</s>", 3);
  float score = 0;
  for (const auto& text :
       {mark + "the", std::string("th"), std::string("the"), mark, std::string("t"), std::string("h"),
        std::string("e"), mark + "t", std::string("12"), std::string("a")})
    model += sentencepiece_piece(text, 1, score -= 1);
  model += sentencepiece_piece("user", 4);
  return model + proto_field(2, std::string("\x18") + static_cast<char>(kind));
}

/// A table of normal forms in which A is a: a double array from whose start a byte leads to unit 256 ^ byte, that of A to
/// the unit at `offset` from it, which holds the text at `value`.
struct CharsMap : std::string {
  explicit CharsMap(std::uint32_t offset = 1, std::uint32_t value = 0) {
    constexpr std::uint32_t place = 256 ^ 'A', holds_value = 256, is_value = std::uint32_t{1} << 31U;
    std::array<std::uint32_t, 512> units{};
    // No byte is the label of a unit that is unused.
    units.fill(is_value);
    units[0] = 256U << 10U;
    units[place] = offset << 10U | holds_value | 'A';
    units[place ^ 1U] = is_value | value;
    const auto size = static_cast<std::uint32_t>(sizeof units);
    append(reinterpret_cast<const char*>(&size), 4);
    append(reinterpret_cast<const char*>(units.data()), size);
    append("a", 2);
  }
};

/// What normalises texts, or what they are decoded by.
inline std::string sentencepiece_forms(const std::string& map, bool of_decoding = false) {
  return proto_field(of_decoding ? 5 : 3, proto_field(1, "some") + proto_field(2, map) +
                                              std::string("\x18\x01\x20\x01\x28\x01", 6));
}

}  // namespace text_test
