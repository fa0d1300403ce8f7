#pragma once
// Devices of backend B, compiled once for each.

#include <chrono>
#include <string>

#include "common/devices.hpp"

#if defined(__CUDACC__) && defined(MOLE_NCCL)
#  include <mole/dist/nccl.cuh>
#endif

namespace common {

template <class B>
int count_devices() {
  if constexpr (requires { B::devices(); })
    return B::devices();
  else
    return 1;
}

template <class B>
mole::dist::AnyGroup join_on_device([[maybe_unused]] int local, mole::dist::AnyGroup host,
                                    [[maybe_unused]] std::chrono::milliseconds timeout) {
  if constexpr (requires { B::select(local); }) {
    B::select(B::devices() == 1 ? 0 : local);
#if defined(__CUDACC__) && defined(MOLE_NCCL)
    return mole::dist::NcclGroup(host, timeout);
#endif
  }
  return host;
}

/// See Devices.
template <class B>
const Devices* devices_of() {
  static constexpr Devices devices{count_devices<B>, join_on_device<B>};
  return &devices;
}

}  // namespace common
