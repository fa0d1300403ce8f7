#pragma once
// What the command lines of programs share.

#include <exception>
#include <iostream>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include <mole/train/interrupt.hpp>

#include "common/training.hpp"

namespace common {

/// The parts of "a,b,c"; empty ones are left out.
std::vector<std::string> split_list(const std::string& text, char separator = ',');

/// The parts of an option's text by comma. Throws mole::ArgumentError where the option was given and names nothing.
std::vector<std::string> given_list(const CLI::App& command, const std::string& option,
                                    const std::string& text);

/// Accepts whole numbers from `low` to `high`; `name` says so in the help.
CLI::Validator whole(Index low, Index high, const std::string& name);

/// Accepts whole numbers from 1.
CLI::Validator positive();

/// Accepts whole numbers from 0, such as seeds.
CLI::Validator natural();

/// Accepts finite numbers from `low` to `high`, which NaN is not; `name` says so in the help and in the error.
CLI::Validator number(double low, double high, const std::string& name);

/// Accepts finite numbers above 0, such as learning rates.
CLI::Validator positive_number();

/// Accepts finite numbers from 0, such as weights of a loss.
CLI::Validator number_from_zero();

/// Adds --steps, --batch, --lr, --seed, --out, --checkpoint and --resume, whose defaults are the run's.
void add_run_options(CLI::App& app, RunOptions& run, const char* out_help);

/// Where a program computes.
struct Machine {
  int threads = 0;  ///< of the processor; 0: all
  std::string backend = "cpu";
};

/// Adds --threads and --backend. The number of threads is set as soon as the line is parsed.
void add_machine_options(CLI::App& app, Machine& machine);

/// Parses the line, which calls the subcommand it names. Returns the exit status: of help, or of a line that
/// is wrong, or 0.
int parse(CLI::App& app, int argc, char** argv);

/// Throws mole::Error where what was printed could not be written.
void check_output();

/// What main() returns for run(): its result, 130 where Ctrl-C stopped it, 1 for an error, either of which it
/// says on stderr behind the program's name.
template <class F>
int guarded(const std::string& program, F run) {
  try {
    const int status = run();
    check_output();
    return status;
  } catch (const mole::Interrupted& stop) {
    std::cerr << program << ": " << stop.what() << "\n";
    return 130;
  } catch (const std::exception& error) {
    std::cerr << program << ": " << error.what() << "\n";
    return 1;
  }
}

}  // namespace common
