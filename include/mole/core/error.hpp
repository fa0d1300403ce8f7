#pragma once
// Exceptions and the checks that throw them. Checks are on in every build type: a wrong shape or a lying
// file must never become a wrong number.

#include <sstream>
#include <stdexcept>
#include <string>

#include <mole/core/quote.hpp>

namespace mole {

/// Base of everything the library throws.
struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// Operands whose shapes do not fit; the message names the op and the shapes.
struct ShapeError : Error {
  using Error::Error;
};

/// An argument or option with an impossible value (top-k above N, all experts masked, an unknown task).
struct ArgumentError : Error {
  using Error::Error;
};

/// A file that is damaged, unsupported or does not belong to the model; the message names file and tensor.
struct FormatError : Error {
  using Error::Error;
};

/// A number that ended up NaN or infinite where training cannot go on.
struct NumericError : Error {
  using Error::Error;
};

/// An allocation or a device call that failed.
struct DeviceError : Error {
  using Error::Error;
};

/// The most bytes of a message, and of one of its parts.
inline constexpr std::size_t max_message_bytes = 4000, max_message_part_bytes = 1000;

/// The parts, each streamed, joined by single spaces, but none before a closing sign or after an opening one:
/// `message("got", shape, "; pad to [0,", n, ")")` -> "got [2, 3]; pad to [0, 4)". Parts and whole are
/// printable and cut to their limits, whatever a file calls its tensors.
template <class... Parts>
std::string message(const Parts&... parts) {
  std::string text;
  auto append = [&](const auto& part) {
    std::ostringstream out;
    out << part;
    const std::string next = shortened(printable(out.str()), max_message_part_bytes);
    if (next.empty()) return;
    const bool closes = std::string(",;:)").find(next.front()) != std::string::npos;
    const bool opened = !text.empty() && std::string("([").find(text.back()) != std::string::npos;
    if (!text.empty() && !closes && !opened) text += ' ';
    text += next;
  };
  (append(parts), ...);
  return shortened(text, max_message_bytes);
}

}  // namespace mole

/// Throws EXCEPTION with the message made of the remaining arguments unless CONDITION holds.
#define MOLE_CHECK_AS(EXCEPTION, CONDITION, ...)                     \
  do {                                                               \
    if (!(CONDITION)) throw EXCEPTION(::mole::message(__VA_ARGS__)); \
  } while (false)

/// Shapes: throws ShapeError.
#define MOLE_CHECK_SHAPE(CONDITION, ...) MOLE_CHECK_AS(::mole::ShapeError, CONDITION, __VA_ARGS__)
/// Arguments and options: throws ArgumentError.
#define MOLE_CHECK_ARG(CONDITION, ...) MOLE_CHECK_AS(::mole::ArgumentError, CONDITION, __VA_ARGS__)
/// Files: throws FormatError.
#define MOLE_CHECK_FORMAT(CONDITION, ...) MOLE_CHECK_AS(::mole::FormatError, CONDITION, __VA_ARGS__)
