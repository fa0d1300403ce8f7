// The subcommands on the CPU.

#include <mole/backends/cpu.hpp>

#include "numbers/commands_of.hpp"

const numbers::Commands* numbers::cpu_commands() { return commands_of<mole::Cpu>(); }
