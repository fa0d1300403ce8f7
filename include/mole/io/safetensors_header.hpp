#pragma once
// The JSON header of a safetensors file, taken apart as it is parsed.

#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include <mole/core/error.hpp>
#include <mole/core/quote.hpp>
#include <mole/core/shape.hpp>
#include <mole/io/json.hpp>

namespace mole::detail {

/// What the header says of one tensor; nothing of it is checked yet.
struct HeaderTensor {
  std::optional<std::string> dtype;
  std::optional<std::vector<Index>> shape, offsets;
};

/// A handler of nlohmann's parser. A key given twice cannot hide behind the last one, and a hostile 100 MB
/// costs no tree. Fields of a tensor that the format does not know are passed over, as the reference
/// implementation does.
class HeaderReader : public JsonHandler {
 public:
  /// Far above what any file holds, and little enough to be read in a second. A tensor has three fields.
  static constexpr std::size_t most_texts = 100'000, most_tensors = 500'000, most_fields = 100;

  /// `known` tells whether a name was accepted before; `accept` takes a tensor whose object has ended.
  HeaderReader(std::string source, std::function<bool(const std::string&)> known,
               std::function<void(const std::string&, const HeaderTensor&)> accept)
      : source_(std::move(source)), known_(std::move(known)), accept_(std::move(accept)) {}

  std::map<std::string, std::string> metadata;

  bool null() override {
    // The reference implementation takes it for no metadata.
    if (place_ == Place::top && name_ == "__metadata__") return true;
    return unexpected_unless_passed("null");
  }
  bool boolean(bool) override { return unexpected_unless_passed("a boolean"); }
  bool number_integer(std::int64_t value) override {
    return unexpected_unless_passed("the negative number " + std::to_string(value));
  }
  bool number_float(double, const std::string& text) override {
    return unexpected_unless_passed("the number " + shortened(text, 60));
  }
  bool binary(Json::binary_t&) override { unexpected("binary data"); }
  bool number_unsigned(std::uint64_t value) override {
    if (pass()) return true;
    if (list_ == nullptr || value > static_cast<std::uint64_t>(std::numeric_limits<Index>::max()))
      unexpected("the number " + std::to_string(value));
    if (list_->size() >= Shape::max_rank)
      unexpected("a list longer than the " + std::to_string(Shape::max_rank) + " axes supported");
    list_->push_back(static_cast<Index>(value));
    return true;
  }
  bool string(std::string& value) override {
    if (pass()) return true;
    if (place_ == Place::metadata)
      text_->second = std::move(value);
    else if (place_ == Place::tensor && list_ == nullptr && field_ == "dtype")
      tensor_.dtype = std::move(value);
    else
      unexpected("the text " + quote(value, 60));
    return true;
  }
  bool start_object(std::size_t) override {
    if (pass()) return deeper();
    if (place_ == Place::outside) {
      place_ = Place::top;
    } else if (place_ == Place::top) {
      place_ = name_ == "__metadata__" ? Place::metadata : Place::tensor;
      tensor_ = {};
      field_.clear();
      fields_.clear();
    } else {
      unexpected("an object");
    }
    return true;
  }
  bool key(std::string& key) override {
    if (passed_depth_ > 0) return true;
    if (place_ == Place::top) {
      const bool first = key == "__metadata__" ? !std::exchange(metadata_seen_, true) : !known_(key);
      named_ += key == "__metadata__" ? 0 : 1;
      MOLE_CHECK_FORMAT(named_ <= most_tensors, source_, "the header names too many tensors; at most",
                        most_tensors, "are read");
      name_ = std::move(key);
      field_.clear();
      MOLE_CHECK_FORMAT(first, source_, "the header names", quote(name_), "twice");
      return true;
    }
    field_ = std::move(key);
    bool is_new;
    if (place_ == Place::metadata) {
      MOLE_CHECK_FORMAT(metadata.size() < most_texts, source_, "metadata holds too many texts; at most",
                        most_texts, "are read");
      std::tie(text_, is_new) = metadata.try_emplace(field_);
    } else {
      MOLE_CHECK_FORMAT(fields_.size() < most_fields, source_, "tensor", quote(name_),
                        "has too many fields; at most", most_fields, "are read");
      is_new = fields_.insert(field_).second;
    }
    MOLE_CHECK_FORMAT(is_new, where(), "is given twice");
    return true;
  }
  bool end_object() override {
    if (passed_depth_ > 0) return shallower();
    if (place_ == Place::tensor) accept_(name_, tensor_);
    place_ = place_ == Place::top ? Place::outside : Place::top;
    return true;
  }
  bool start_array(std::size_t) override {
    if (pass()) return deeper();
    if (place_ != Place::tensor || list_ != nullptr || field_ == "dtype") unexpected("a list");
    list_ = &(field_ == "shape" ? tensor_.shape : tensor_.offsets).emplace();
    return true;
  }
  bool end_array() override {
    if (passed_depth_ > 0) return shallower();
    list_ = nullptr;
    return true;
  }
  bool parse_error(std::size_t byte, const std::string&, const Json::exception& error) override {
    throw FormatError(message(source_, "the header is malformed JSON at its byte", byte,
                              "(" + shortened(error.what(), 300) + ")"));
  }

 private:
  enum class Place { outside, top, metadata, tensor };

  // Whether what comes belongs to a field that the format does not know.
  bool passes() const {
    return place_ == Place::tensor && field_ != "dtype" && field_ != "shape" && field_ != "data_offsets";
  }
  // The same, and counts it.
  bool pass() {
    if (!passes()) return false;
    MOLE_CHECK_FORMAT(++passed_ <= max_json_values, where(),
                      "is unknown, and with others such it holds more than", max_json_values, "values");
    return true;
  }
  bool deeper() {
    MOLE_CHECK_FORMAT(++passed_depth_ <= max_json_depth, where(), "is unknown and nested deeper than",
                      max_json_depth);
    return true;
  }
  bool shallower() {
    --passed_depth_;
    return true;
  }

  std::string where() const {
    const std::string field = field_.empty() ? "" : " field " + quote(field_);
    if (place_ == Place::outside) return source_ + " the header";
    return source_ + (name_ == "__metadata__" ? " metadata" : " tensor " + quote(name_)) + field;
  }
  bool unexpected_unless_passed(const std::string& found) {
    if (!pass()) unexpected(found);
    return true;
  }
  [[noreturn]] void unexpected(const std::string& found) const {
    const char* expected = "an object";
    if (place_ == Place::metadata) expected = "text";
    if (place_ == Place::tensor)
      expected = field_ == "dtype" ? "text" : "a list of whole numbers, none negative";
    throw FormatError(message(where(), "should be", expected, "and is", found));
  }

  std::string source_, name_, field_;
  std::function<bool(const std::string&)> known_;
  std::function<void(const std::string&, const HeaderTensor&)> accept_;
  std::set<std::string> fields_;
  std::map<std::string, std::string>::iterator text_;  ///< the place of a metadata key's text
  HeaderTensor tensor_;
  std::vector<Index>* list_ = nullptr;
  Place place_ = Place::outside;
  int passed_depth_ = 0;
  std::size_t named_ = 0, passed_ = 0;
  bool metadata_seen_ = false;
};

}  // namespace mole::detail
