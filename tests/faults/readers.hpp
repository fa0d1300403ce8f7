#pragma once
// Readers whose files no save of the library writes.

#include <functional>
#include <string>
#include <utility>
#include <vector>

/// What reads each of them, by name.
std::vector<std::pair<std::string, std::function<void()>>> other_readers();
