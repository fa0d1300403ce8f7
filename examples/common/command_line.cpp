#include "common/command_line.hpp"

#include <cerrno>
#include <cmath>
#include <cstring>
#include <limits>
#include <sstream>

#include <omp.h>

#include <mole/core/error.hpp>

namespace common {

std::vector<std::string> split_list(const std::string& text, char separator) {
  std::vector<std::string> parts;
  std::istringstream stream(text);
  for (std::string part; std::getline(stream, part, separator);)
    if (!part.empty()) parts.push_back(part);
  return parts;
}

std::vector<std::string> given_list(const CLI::App& command, const std::string& option,
                                    const std::string& text) {
  auto list = split_list(text);
  MOLE_CHECK_ARG(!list.empty() || command.count(option) == 0, option,
                 "names nothing; leave it out, or name one");
  return list;
}

CLI::Validator whole(Index low, Index high, const std::string& name) {
  return CLI::Range(low, high).description(name);
}

CLI::Validator positive() { return whole(1, Index{1} << 40, ">=1"); }

CLI::Validator natural() {
  // CLI11 would take -1 for the largest number.
  return {[](const std::string& text) {
            return text.find_first_not_of("0123456789") == text.npos
                       ? ""
                       : "expected a whole number >= 0, got " + text;
          },
          ">=0"};
}

CLI::Validator number(double low, double high, const std::string& name) {
  // CLI::Range takes NaN for a number of any range, and spells the largest double with all its digits.
  return {
      [low, high, name](const std::string& text) -> std::string {
        double value = 0;
        if (CLI::detail::lexical_cast(text, value) && std::isfinite(value) && value >= low && value <= high)
          return "";
        return "expected a finite number " + name + ", got " + text;
      },
      name};
}

CLI::Validator positive_number() {
  return number(std::numeric_limits<double>::min(), std::numeric_limits<double>::max(), ">0");
}

CLI::Validator number_from_zero() { return number(0, std::numeric_limits<double>::max(), ">=0"); }

void add_run_options(CLI::App& app, RunOptions& run, const char* out_help) {
  app.add_option("--steps", run.steps, "training steps")->capture_default_str()->check(positive());
  app.add_option("--batch", run.batch, "examples a step")->capture_default_str()->check(positive());
  app.add_option("--lr", run.rate, "peak learning rate of AdamW")
      ->capture_default_str()
      ->check(positive_number());
  app.add_option("--seed", run.seed, "same seed: the same result to the bit, on any number of threads")
      ->capture_default_str()
      ->check(natural());
  app.add_option("--out", run.out, out_help)->capture_default_str();
  app.add_option("--checkpoint", run.checkpoint, "save the run here every 25 steps and on Ctrl-C");
  app.add_flag("--resume", run.resume, "continue the run saved in --checkpoint");
}

void add_machine_options(CLI::App& app, Machine& machine) {
  app.add_option("--threads", machine.threads, "processor threads; 0 uses all")
      ->check(whole(0, 4096, "0..4096"));
  app.add_option("--backend", machine.backend, "where the model runs: cpu, cuda")->capture_default_str();
  app.parse_complete_callback([&machine] {
    if (machine.threads > 0) omp_set_num_threads(machine.threads);
  });
}

int parse(CLI::App& app, int argc, char** argv) {
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error);
  }
  return 0;
}

void check_output() {
  std::cout.flush();
  MOLE_CHECK_AS(mole::Error, std::cout.good(), "standard output cannot be written to:", std::strerror(errno));
}

}  // namespace common
