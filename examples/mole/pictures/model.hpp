#pragma once
// A Stable Diffusion as the commands see it, on whichever backend. Tokens go in and pixels come out as numbers on the
// host, so that only what implements this (model_on.hpp) is compiled for each backend.

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include <mole/io/gates.hpp>
#include <mole/models/clip/prepare.hpp>
#include <mole/models/diffusion/lora_file.hpp>
#include <mole/models/diffusion/sample.hpp>
#include <mole/train/curves.hpp>

#include "common/gate_maps.hpp"
#include "common/image.hpp"
#include "common/ranks.hpp"
#include "common/training.hpp"
#include "mole/pictures/files.hpp"

namespace program {

/// A picture to be painted.
struct PictureJob {
  std::vector<Index> prompt, negative;  ///< tokens, as many as the text encoder reads
  Index height = 64, width = 64;        ///< of the latents
  mole::SampleOptions sample = {};      ///< its `noise` stream is not read
  std::uint64_t seed = 0;
  std::uint64_t number = 0;       ///< of the picture with this seed: each has noise of its own
  std::vector<float> noise = {};  ///< latents to begin with [height, width, channels], in place of the seed's
  bool watch_gates = false;       ///< gather the maps of token gates
  std::function<void()> tick = {};  ///< called after each step, and once after the VAE
};

/// A picture, its values in [0, 1].
struct PaintedPicture {
  Index height = 0, width = 0;
  std::vector<float> pixels;  ///< [height, width, 3]
  common::GateMap gates;      ///< where they were watched
};

/// A picture to train on, and the tokens of its caption as the text encoder reads them.
struct TrainingPicture {
  common::Image image;  ///< RGB, as large as the pictures in flight
  std::vector<Index> caption;
};

/// How gates are trained by CLIP guidance. Pictures are in flight, each at a step of the sampler of its own
/// (mole::TrajectoryPool); CLIP compares what the UNet says they will be with their prompts. The loss is
/// 1 - cos(picture, prompt), the mean over the pictures, plus own_weight times the diffusion loss of a batch of own
/// pictures, where there are some, plus alpha times the balance loss. Negative texts have no part in it, as in the
/// paper's code.
struct GuidedTraining {
  common::RunOptions run;                        ///< batch: pictures in flight, and own pictures a step
  Index steps = 20;                              ///< of the sampler
  double alpha = 0;                              ///< weight of the balance loss
  bool balanced = false;                         ///< whether there is one
  std::vector<std::vector<Index>> prompts = {};  ///< as the text encoder reads them
  std::vector<std::vector<Index>> texts = {};    ///< the same as CLIP does
  Index height = 64, width = 64;                 ///< of the latents
  std::vector<TrainingPicture> own = {};
  double own_weight = 0;
  std::string fingerprint = {};    ///< all that the gates depend on, for checkpoints
  common::RankOptions ranks = {};  ///< float gates alone train in shares

  /// Calls of the UNet that standardise() makes: at least eight pictures go all the way of the sampler.
  Index measuring() const { return (8 + run.batch - 1) / run.batch * steps; }
};

/// A pipeline with its weights.
class PictureModel {
 public:
  virtual ~PictureModel() = default;

  /// Puts experts into the weights of UNet and text encoder, each times its weight, in place of what was merged before.
  /// `for_good`: the weights before are forgotten, which spares their memory. Throws as mole::merge().
  virtual void merge(const std::vector<mole::DiffusionLora>& experts, const std::vector<double>& weights,
                     bool for_good) = 0;
  /// Mixes experts in the UNet by a router or by saved gates. Their parts for the text encoder are merged, each with
  /// weight 1/N (eq. 2): a text is read once, before there are pixels whose gates could weigh them. Throw as
  /// mole::ExpertModel::attach() and mole::attach_gates().
  virtual void attach(const std::vector<mole::DiffusionLora>& experts, const mole::RouterOptions& router) = 0;
  virtual void attach(const std::vector<mole::DiffusionLora>& experts, const mole::GatesFile& gates) = 0;
  /// The base alone again.
  virtual void detach() = 0;

  /// The names of the attached experts; none where nothing is attached.
  virtual std::vector<std::string> experts() const = 0;
  /// Whether the attached gates weigh pixels, and not whole pictures.
  virtual bool has_token_gates() const = 0;
  /// Leaves out the attached experts that are false; see mole::Mixer::set_mask().
  virtual void mask(const std::vector<bool>& keep) = 0;

  /// Throws mole::ArgumentError for steps that do not fit the schedule, mole::ShapeError for noise or tokens of other
  /// sizes.
  virtual PaintedPicture paint(const PictureJob& job) const = 0;

  /// Writes the gates; see mole::save_gates().
  virtual void save_gates(const std::filesystem::path& path,
                          const std::map<std::string, std::string>& notes) const = 0;

  /// Loads the CLIP that guides and judges; its warnings go to stderr. Throws as mole::load_clip().
  virtual void load_clip(const std::filesystem::path& folder, const mole::ClipImageOptions& image) = 0;
  /// The cosine of a picture and the tokens of a text. Throws mole::ArgumentError before load_clip().
  virtual double text_alignment(const PaintedPicture& picture, const std::vector<Index>& text) const = 0;
  /// Measures what the attached gates read while pictures of the prompts are painted with uniform gates, where their
  /// input is standardised. Calls tick(calls of the UNet done), training.measuring() times. Throws as
  /// mole::Mixer::standardise().
  virtual void standardise(const GuidedTraining& training, const std::function<void(Index)>& tick) = 0;
  /// Trains the attached gates; nothing where the router has none to train. Returns loss, clip, diffusion and balance
  /// by step. Throws mole::ArgumentError before load_clip(), and as common::train().
  virtual mole::Curves train_gates(const GuidedTraining& training) = 0;
};

/// What a backend offers in numbers of one type.
struct PictureModels {
  /// Loads a pipeline's weights; what looks wrong is told in *warnings. Throws as mole::load_stable_diffusion().
  std::unique_ptr<PictureModel> (*load)(const PictureFiles& files, std::vector<std::string>* warnings);
};

/// The backend called "cpu" or "cuda", in float or in bf16. Throw mole::ArgumentError for any other name, and for what
/// this build lacks, with what to do about it.
const PictureModels& picture_models_on(const std::string& backend);
const PictureModels& picture_models_bf16_on(const std::string& backend);

}  // namespace program
