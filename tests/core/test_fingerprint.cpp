// Fingerprints, which files keep: they must never change.

#include <doctest/doctest.h>

#include <span>
#include <string_view>

#include <mole/core/fingerprint.hpp>

using mole::Fingerprint;

// Values of the FNV-1a reference for "" and "a".
TEST_CASE("A fingerprint of bytes is FNV-1a's of 64 bits") {
  const std::string_view a = "a";
  CHECK(Fingerprint().hex() == "cbf29ce484222325");
  CHECK(Fingerprint().add(std::as_bytes(std::span(a))).hex() == "af63dc4c8601ec8c");
}

TEST_CASE("Texts have an end, and numbers eight bytes, the least first") {
  CHECK(Fingerprint().add("ab").add("c").hex() != Fingerprint().add("a").add("bc").hex());
  const std::string_view end = "a\xff", one("\1\0\0\0\0\0\0\0", 8);
  CHECK(Fingerprint().add("a").hex() == Fingerprint().add(std::as_bytes(std::span(end))).hex());
  CHECK(Fingerprint().add(std::uint64_t{1}).hex() == Fingerprint().add(std::as_bytes(std::span(one))).hex());
}
