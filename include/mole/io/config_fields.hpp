#pragma once
// The fields of a configuration, with their types and ranges checked.

#include <cstdint>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include <mole/core/error.hpp>
#include <mole/core/shape.hpp>
#include <mole/io/json.hpp>

namespace mole::detail {

// The fields of a JSON object, each checked for its type; a missing or null one has its default.
class ConfigFields {
 public:
  ConfigFields(const Json& json, std::string source) : json_(json), source_(std::move(source)) {}

  bool has(const char* name) const { return given_field(json_, name); }

  // What stands for a missing value is held to the bounds too: they may hang on other values.
  Index integer(const char* name, Index otherwise, Index least, Index most) const {
    if (const auto* value = given_field(json_, name)) return integer(name, *value, least, most);
    MOLE_CHECK_FORMAT(otherwise >= least && otherwise <= most, source_, name,
                      "is not given, and its usual value", otherwise, "is not from", least, "to", most);
    return otherwise;
  }
  // One whole number, or a list of them that is not empty.
  std::vector<Index> integers(const char* name, Index otherwise, Index least, Index most) const {
    const auto* const given = given_field(json_, name);
    if (!given) return {integer(name, otherwise, least, most)};
    const auto& value = *given;
    if (!value.is_array()) return {integer(name, value, least, most)};
    MOLE_CHECK_FORMAT(!value.empty() && value.size() <= 100, source_, name,
                      "should be a whole number or a list of 1 to 100 and is", shown_json(value));
    std::vector<Index> list;
    for (const auto& one : values_of(value)) list.push_back(integer(name, one, least, most));
    return list;
  }
  Index integer(const char* name, const Json& value, Index least, Index most) const {
    const bool fits = value.is_number_integer() &&
                      !(value.is_number_unsigned() &&
                        value.get<std::uint64_t>() > std::uint64_t{std::numeric_limits<Index>::max()}) &&
                      value.get<Index>() >= least && value.get<Index>() <= most;
    MOLE_CHECK_FORMAT(fits, source_, name, "should be a whole number from", least, "to", most, "and is",
                      shown_json(value));
    return value.get<Index>();
  }
  double number(const char* name, double otherwise) const {
    const auto* const value = given_field(json_, name);
    if (!value) return otherwise;
    MOLE_CHECK_FORMAT(value->is_number(), source_, name, "should be a number and is", shown_json(*value));
    return value->get<double>();
  }
  bool flag(const char* name, bool otherwise) const {
    const auto* const value = given_field(json_, name);
    if (!value) return otherwise;
    MOLE_CHECK_FORMAT(value->is_boolean(), source_, name, "should be true or false and is",
                      shown_json(*value));
    return value->get<bool>();
  }
  std::string text(const char* name, const std::string& otherwise) const {
    const auto* const value = given_field(json_, name);
    if (!value) return otherwise;
    MOLE_CHECK_FORMAT(value->is_string(), source_, name, "should be text and is", shown_json(*value));
    return text_of(*value);
  }

 private:
  const Json& json_;
  std::string source_;
};

}  // namespace mole::detail
