// Matches patterns to texts for check_patterns_with_python.py: it reads lines of a pattern, a tab and a text,
// both in hexadecimal, and answers each with f or m for what re.fullmatch and re.match find, - for what they do
// not, or with "malformed" or "unsupported".

#include <iostream>
#include <string>

#include <mole/io/pattern.hpp>

namespace {

std::string decoded(const std::string& digits) {
  std::string text;
  for (std::size_t i = 0; i + 1 < digits.size(); i += 2)
    text += static_cast<char>(std::stoi(digits.substr(i, 2), nullptr, 16));
  return text;
}

std::string answer(const std::string& pattern, const std::string& text) {
  try {
    const mole::Pattern compiled(pattern);
    return std::string(compiled.full_match(text) ? "f" : "-") + (compiled.match(text) ? "m" : "-");
  } catch (const mole::UnsupportedPattern&) {
    return "unsupported";
  } catch (const mole::FormatError&) {
    return "malformed";
  }
}

}  // namespace

int main() {
  for (std::string line; std::getline(std::cin, line);) {
    const auto tab = line.find('\t');
    std::cout << answer(decoded(line.substr(0, tab)), decoded(line.substr(tab + 1))) << '\n';
  }
}
