#pragma once
// Exceptions and the checks that throw them. Checks are on in every build type: a wrong shape or a lying
// file must never become a wrong number.

#include <initializer_list>
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

namespace detail {

/// A part of a message: any value that can be streamed, seen through a pointer. Each type costs one function;
/// a template over the list of parts would be compiled again for each of some hundred checks.
class MessagePart {
 public:
  MessagePart(const char* text) : value_(text), write_(nullptr) {}
  template <class T>
  MessagePart(const T& value) : value_(&value), write_(&write<T>) {}

  std::string text() const {
    if (!write_) return value_ ? static_cast<const char*>(value_) : "";
    std::ostringstream out;
    write_(out, value_);
    return out.str();
  }

 private:
  template <class T>
  static void write(std::ostream& out, const void* value) {
    out << *static_cast<const T*>(value);
  }

  const void* value_;
  void (*write_)(std::ostream&, const void*);
};

inline std::string message_of(std::initializer_list<MessagePart> parts) {
  std::string text;
  for (const MessagePart& part : parts) {
    const std::string next = shortened(printable(part.text()), max_message_part_bytes);
    if (next.empty()) continue;
    const char begin = next.front(), end = text.empty() ? '(' : text.back();
    const bool closes = begin == ',' || begin == ';' || begin == ':' || begin == ')';
    if (!closes && end != '(' && end != '[') text += ' ';
    text += next;
  }
  return shortened(text, max_message_bytes);
}

template <class Exception>
[[noreturn]] void fail(std::initializer_list<MessagePart> parts) {
  throw Exception(message_of(parts));
}

}  // namespace detail

/// The parts, each streamed, joined by single spaces, but none before a closing sign or after an opening one:
/// `message("got", shape, "; pad to [0,", n, ")")` -> "got [2, 3]; pad to [0, 4)". Parts and whole are
/// printable and cut to their limits, whatever a file calls its tensors.
template <class... Parts>
std::string message(const Parts&... parts) {
  return detail::message_of({parts...});
}

}  // namespace mole

/// Throws EXCEPTION with the message made of the remaining arguments unless CONDITION holds.
#define MOLE_CHECK_AS(EXCEPTION, CONDITION, ...)                                                        \
  do {                                                                                                  \
    if (!(CONDITION))                                                                                   \
      ::mole::detail::fail<EXCEPTION>(std::initializer_list<::mole::detail::MessagePart>{__VA_ARGS__}); \
  } while (false)

/// Shapes: throws ShapeError.
#define MOLE_CHECK_SHAPE(CONDITION, ...) MOLE_CHECK_AS(::mole::ShapeError, CONDITION, __VA_ARGS__)
/// Arguments and options: throws ArgumentError.
#define MOLE_CHECK_ARG(CONDITION, ...) MOLE_CHECK_AS(::mole::ArgumentError, CONDITION, __VA_ARGS__)
/// Files: throws FormatError.
#define MOLE_CHECK_FORMAT(CONDITION, ...) MOLE_CHECK_AS(::mole::FormatError, CONDITION, __VA_ARGS__)
