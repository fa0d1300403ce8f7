#pragma once
// The devices of a backend, for ranks that have one each.

#include <chrono>
#include <string>

#include <mole/dist/any_group.hpp>

namespace common {

/// What a backend has.
struct Devices {
  /// How many this process may use.
  int (*count)();
  /// This thread works on device `local` of this machine from now on, as a rank of `host`: gives the group to use,
  /// which sums on the devices where it can. Each rank of `host` calls it at once. Where there is but one device, it is
  /// that one.
  mole::dist::AnyGroup (*join)(int local, mole::dist::AnyGroup host, std::chrono::milliseconds timeout);
};

/// Of the backend called "cpu" or "cuda". Throws mole::ArgumentError for another one, or one that this program was
/// built without.
const Devices& devices_on(const std::string& backend);

}  // namespace common
