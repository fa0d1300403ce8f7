// golden_check on the CPU.

#include <mole/backends/cpu.hpp>

#include <golden_check/check.hpp>

const golden::Checks* golden::cpu_checks() { return checks_of<mole::Cpu>(); }
