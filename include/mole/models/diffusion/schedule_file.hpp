#pragma once
// The scheduler_config.json of diffusers.

#include <array>
#include <filesystem>
#include <string>

#include <mole/io/config_fields.hpp>
#include <mole/models/diffusion/schedule.hpp>
#include <mole/models/unet/config_file.hpp>

namespace mole {

namespace detail {

inline constexpr std::array<FixedField, 3> fixed_schedule_fields{{
    {"thresholding", "false", "the clean sample would be cut at a quantile"},
    {"trained_betas", "null", "the betas would be a list"},
    {"rescale_betas_zero_snr", "false", "the last step would hold no signal"},
}};

}  // namespace detail

/// Reads scheduler_config.json, whichever sampler it names: the numbers serve DDIM and DDPM alike. Missing
/// keys have the defaults of diffusers (clip_sample and set_alpha_to_one are true there).
/// Throws FormatError, naming file, key and reason, for what is not supported or impossible; Error where the
/// file cannot be read.
inline ScheduleConfig read_schedule_config(const std::filesystem::path& path) {
  const auto json = read_json_object(path);
  const std::string source = message(path) + ":";
  detail::check_fixed_fields(json, source, detail::fixed_schedule_fields);
  const detail::ConfigFields fields(json, source);
  ScheduleConfig c;
  c.train_steps = fields.integer("num_train_timesteps", 1000, 1, 1'000'000);
  c.beta_start = fields.number("beta_start", 0.0001);
  c.beta_end = fields.number("beta_end", 0.02);
  MOLE_CHECK_FORMAT(c.beta_start > 0 && c.beta_end >= c.beta_start && c.beta_end < 1, source,
                    "beta_start and beta_end should be in order within (0, 1) and are", c.beta_start, "and",
                    c.beta_end);
  const auto one_of = [&](const char* field, const std::string& otherwise,
                          std::initializer_list<const char*> known) {
    const auto text = fields.text(field, otherwise);
    std::string choices;
    for (const char* choice : known) {
      if (text == choice) return text;
      choices += (choices.empty() ? "" : ", ") + std::string(choice);
    }
    throw FormatError(
        message(source, field, "is", quote(text), ", which is not supported: expected one of", choices));
  };
  const auto betas = one_of("beta_schedule", "linear", {"linear", "scaled_linear", "squaredcos_cap_v2"});
  c.betas = betas == "linear"          ? BetaSchedule::linear
            : betas == "scaled_linear" ? BetaSchedule::scaled_linear
                                       : BetaSchedule::squared_cosine;
  c.prediction = one_of("prediction_type", "epsilon", {"epsilon", "v_prediction"}) == "epsilon"
                     ? Prediction::epsilon
                     : Prediction::velocity;
  c.clip_sample = fields.flag("clip_sample", true);
  c.clip_sample_range = fields.number("clip_sample_range", 1);
  MOLE_CHECK_FORMAT(c.clip_sample_range > 0, source, "clip_sample_range should be above 0 and is",
                    c.clip_sample_range);
  c.set_alpha_to_one = fields.flag("set_alpha_to_one", true);
  c.steps_offset = fields.integer("steps_offset", 0, 0, c.train_steps);
  const auto spacing = one_of("timestep_spacing", "leading", {"leading", "linspace", "trailing"});
  c.spacing = spacing == "leading"    ? StepSpacing::leading
              : spacing == "linspace" ? StepSpacing::linspace
                                      : StepSpacing::trailing;
  return c;
}

/// The scheduler_config.json that diffusers loads, as a DDIMScheduler.
inline Json schedule_config_json(const ScheduleConfig& c) {
  constexpr const char* betas[] = {"linear", "scaled_linear", "squaredcos_cap_v2"};
  constexpr const char* spacings[] = {"leading", "linspace", "trailing"};
  return detail::json_object(
      {{"_class_name", "DDIMScheduler"},
       {"num_train_timesteps", c.train_steps},
       {"beta_start", c.beta_start},
       {"beta_end", c.beta_end},
       {"beta_schedule", betas[static_cast<int>(c.betas)]},
       {"prediction_type", c.prediction == Prediction::epsilon ? "epsilon" : "v_prediction"},
       {"clip_sample", c.clip_sample},
       {"clip_sample_range", c.clip_sample_range},
       {"set_alpha_to_one", c.set_alpha_to_one},
       {"steps_offset", c.steps_offset},
       {"timestep_spacing", spacings[static_cast<int>(c.spacing)]}});
}

}  // namespace mole
