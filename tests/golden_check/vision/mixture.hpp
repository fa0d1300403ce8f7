#pragma once
// Goldens of LoRAs in a Stable Diffusion pipeline: each alone, trained, mixed by MoLE's gates, and the loss
// of vision and language through everything.

#include <algorithm>
#include <array>
#include <filesystem>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include <golden_check/vision/diffusion.hpp>
#include <mole/compose/linear.hpp>
#include <mole/loss/total.hpp>
#include <mole/models/diffusion/lora_file.hpp>

namespace golden {

/// The folder of each adapter of a golden.
inline std::vector<std::pair<std::string, std::string>> lora_folders() {
  return {{"a", "lora_peft"}, {"b", "lora_diffusers"}, {"b_old", "lora_diffusers_old"}, {"c", "lora_kohya"}};
}

template <class T, class B>
mole::DiffusionLora read_lora(const std::filesystem::path& folder, const std::string& tag,
                              const mole::StableDiffusion<T, B>& model) {
  for (const auto& [name, path] : lora_folders())
    if (name == tag)
      return mole::load_diffusion_lora(folder / path, model.unet.layers().table, model.text.layers().table,
                                       tag);
  throw mole::FormatError("there is no adapter " + tag);
}

/// The UNet at unet.* as it stands.
template <class T, class B>
Tensor<T, B> unet_sample(const Golden& golden, const mole::UNet<T, B>& unet, mole::MolePass<T, B>& pass) {
  return unet(image_of<T, B>(golden, "unet.latents"), golden.indices<B>("unet.timestep"),
              golden.tensor<T, B>("unet.text"), pass);
}

/// One adapter, attached as the only expert, and merged at a weight.
template <class T, class B>
void check_lora(const Golden& golden, mole::StableDiffusion<T, B>& model, const mole::DiffusionLora& lora,
                const std::string& name, double weight) {
  const mole::NoGrad off;
  const auto ids = golden.indices<B>("input_ids");
  const auto compare = [&](const std::string& how) {
    mole::MolePass<T, B> for_unet, for_text;
    golden.compare(name + ".sample" + how, channels_first(unet_sample(golden, model.unet, for_unet)),
                   name + ".sample");
    golden.compare(name + ".text" + how, model.text.states(ids, for_text), name + ".text");
  };
  if (weight == 1) {
    model.unet.attach({lora.unet}, mole::GateOptions{});
    model.text.attach({lora.text}, mole::GateOptions{});
    compare("");
    model.unet.detach();
    model.text.detach();
  }
  mole::merge(model.unet.layers().table, {lora.unet}, {weight});
  mole::merge(model.text.layers().table, {lora.text}, {weight});
  compare(" merged");
  model.unet.detach();
  model.text.detach();
}

/// train_a.*: the gradients of adapter a's factors in training.
template <class T, class B>
void check_lora_training(const Golden& golden, mole::UNet<T, B>& unet, const mole::LoraSet& set) {
  auto& table = unet.layers().table;
  table.set_lora(set);
  mole::MolePass<T, B> pass;
  const auto loss = training_loss(golden, unet, image_of<T, B>(golden, "train.noisy"),
                                  golden.tensor<T, B>("train.text"), pass);
  golden.compare("train_a.loss", loss, "train_a.loss");
  backward(loss);
  for (const auto& name : set.slots) {
    const auto& lora = table.slots[table.find(name)].lora;
    const std::array parts{std::pair("lora_A", lora.down), std::pair("lora_B", lora.up)};
    for (const auto& [tensor, factor] : parts) {
      const std::string d = "train_a.d." + name + "." + tensor + ".weight";
      golden.compare(d, factor.grad(), d);
    }
  }
  unet.detach();
}

/// Rows of a gate's F that belong to one slot, and e at full width: (expert that adapts it, feature) by the
/// gate's experts.
struct SlotRows {
  std::vector<double> Q;  ///< [d_out, R]
  std::vector<Index> ends;
  Index d_out, R, N;

  Index e_rows() const { return static_cast<Index>(ends.size()) * d_out; }
  /// f(row of F, row of e, the element of Q between them)
  template <class F>
  void each(F f) const {
    for (std::size_t i = 0; i < ends.size(); ++i)
      for (Index k = i ? ends[i - 1] : 0; k < ends[i]; ++k)
        for (Index o = 0; o < d_out; ++o)
          f(k, static_cast<Index>(i) * d_out + o, Q[static_cast<std::size_t>(o * R + k)]);
  }
};

template <class T, class B>
SlotRows slot_rows(const mole::Mixer<T, B>& mixer, std::size_t slot, Index N) {
  const auto& stack = mixer.experts_at(slot);
  const auto Q = stack.Q.to_host();
  return {{Q.begin(), Q.end()}, stack.ends, stack.Q.size(0), stack.rank(), N};
}

/// The name of e or de of a slot that a gate reads.
template <class T, class B>
std::string tensor_of(const mole::UNet<T, B>& unet, const std::string& prefix, std::size_t slot,
                      const std::string& what) {
  return prefix + "." + unet.layers().table.slots[slot].name + "." + what;
}

/// F = Q^T e of every gate.
template <class T, class B>
void set_gates(const Golden& golden, mole::UNet<T, B>& unet) {
  for (auto& placed : unet.mixer().gates()) {
    const Index N = placed.gate.n_experts();
    std::vector<T> F;
    for (const std::size_t slot : placed.reads) {
      const auto rows = slot_rows(unet.mixer(), slot, N);
      const auto name = tensor_of(unet, "mole", slot, "e");
      const auto e = golden.numbers(name);
      MOLE_CHECK_FORMAT(static_cast<Index>(e.size()) == rows.e_rows() * N, name, "is", golden.shape(name));
      std::vector<double> part(static_cast<std::size_t>(rows.R * N));
      rows.each([&](Index k, Index row, double q) {
        for (Index n = 0; n < N; ++n)
          part[static_cast<std::size_t>(k * N + n)] += q * e[static_cast<std::size_t>(row * N + n)];
      });
      F.insert(F.end(), part.begin(), part.end());
    }
    placed.gate.weight.assign(Tensor<T, B>::from(placed.gate.weight.shape(), F));
  }
}

/// The gates of a pass and their gradients, under `prefix`.
template <class T, class B>
void check_gates(const Golden& golden, const mole::UNet<T, B>& unet, const mole::MolePass<T, B>& pass,
                 const std::string& prefix) {
  const auto records = unet.mixer().records(pass);
  std::size_t at = 0;
  for (const auto& placed : unet.mixer().gates()) {
    const std::string name = prefix + "." + placed.name;
    golden.compare(name + ".gate", records[at++].value.weights.detach(), name + ".gate");
    const auto tau = std::exp(static_cast<double>(placed.gate.log_tau.item()));
    golden.compare(
        name + ".dtau",
        std::vector<T>{static_cast<T>(static_cast<double>(placed.gate.log_tau.grad().item()) / tau)},
        name + ".dtau");
    const auto dF = placed.gate.weight.grad().to_host();
    const Index N = placed.gate.n_experts();
    Index first = 0;
    for (const std::size_t slot : placed.reads) {
      const auto rows = slot_rows(unet.mixer(), slot, N);
      std::vector<double> de(static_cast<std::size_t>(rows.e_rows() * N));
      rows.each([&](Index k, Index row, double q) {
        for (Index n = 0; n < N; ++n)
          de[static_cast<std::size_t>(row * N + n)] +=
              q * static_cast<double>(dF[static_cast<std::size_t>((first + k) * N + n)]);
      });
      first += rows.R;
      const auto tensor = tensor_of(unet, prefix, slot, "de");
      golden.compare(tensor, std::vector<T>(de.begin(), de.end()), tensor);
    }
  }
}

template <class T, class B>
void attach_golden(const Golden& golden, mole::UNet<T, B>& unet, const std::vector<mole::LoraSet>& sets,
                   double tau, mole::OutsideWeight outside) {
  unet.attach(sets, mole::GateOptions{.temperature = tau, .outside = outside});
  set_gates(golden, unet);
}

/// mole.*: the experts mixed by one gate a transformer block.
template <class T, class B>
void check_mole(const Golden& golden, mole::UNet<T, B>& unet, const std::vector<mole::LoraSet>& sets,
                double tau, double alpha) {
  attach_golden(golden, unet, sets, tau, mole::OutsideWeight::off);
  {
    const mole::NoGrad off;
    mole::MolePass<T, B> pass;
    compare_image(golden, unet_sample(golden, unet, pass), "mole.sample");
    for (const auto& record : unet.mixer().records(pass))
      golden.compare("mole." + record.name + ".gate_at_sample", record.value.weights,
                     "mole." + record.name + ".gate_at_sample");
  }
  mole::MolePass<T, B> pass;
  const auto pred = unet(image_of<T, B>(golden, "train.noisy"), golden.indices<B>("train.timestep"),
                         golden.tensor<T, B>("train.text"), pass);
  compare_image(golden, pred, "mole.pred");
  const auto loss = mole::mse(pred, image_of<T, B>(golden, "train.target")), balance = unet.balance(pass);
  const auto total = mole::total_loss(loss, balance, alpha);
  golden.compare("mole.loss", loss, "mole.loss");
  golden.compare("mole.balance", balance, "mole.balance");
  golden.compare("mole.total", total, "mole.total");
  std::vector<mole::GateSample<T, B>> samples;
  for (const auto& record : unet.mixer().records(pass))
    samples.push_back({record.value.dense.detach(), record.row_mask, record.experts});
  golden.compare("mole.q", mole::expert_shares(samples, unet.mixer().n_experts()).q, "mole.q");
  backward(total);
  check_gates(golden, unet, pass, "mole");
  const mole::NoGrad off;
  for (const auto& [name, outside] : {std::pair("mole_outside_third.sample", mole::OutsideWeight::mean),
                                      std::pair("mole_outside_one.sample", mole::OutsideWeight::full)}) {
    attach_golden(golden, unet, sets, tau, outside);
    mole::MolePass<T, B> own;
    compare_image(golden, unet_sample(golden, unet, own), name);
  }
  unet.detach();
}

/// vl.*: from the gates through a step of DDIM and the VAE to CLIP's losses, and back.
template <class T, class B>
void check_vision_loss(const Golden& golden, mole::StableDiffusion<T, B>& model, const mole::Clip<T, B>& clip,
                       const Golden& texts, const std::vector<mole::LoraSet>& sets, double tau,
                       double alpha) {
  auto& unet = model.unet;
  attach_golden(golden, unet, sets, tau, mole::OutsideWeight::off);
  const auto time = golden.read<Index>("vl.timestep");
  golden.compare(
      "vl.noisy",
      model.schedule.noisy(golden.tensor<T, B>("train.clean"), golden.tensor<T, B>("train.noise"), time),
      "vl.noisy");
  const auto steps = model.schedule.ddim_steps(50);
  const auto step =
      std::find_if(steps.begin(), steps.end(), [&](const auto& s) { return s.time == time.front(); });
  MOLE_CHECK_FORMAT(step != steps.end(), "vl.timestep is none of 50 steps");
  const auto T_ = text_features(clip, texts.indices<B>("target_ids")),
             S_ = text_features(clip, texts.indices<B>("source_ids"));

  const auto noisy = image_of<T, B>(golden, "vl.noisy");
  mole::MolePass<T, B> pass;
  const auto output = unet(noisy, Tensor<Index, B>::from({1}, time), golden.tensor<T, B>("train.text"), pass);
  const auto prev = model.schedule.ddim(output, noisy, *step);
  compare_image(golden, prev, "vl.prev");
  const auto image = model.vae.image01(prev);
  compare_image(golden, image, "vl.image01");
  const auto features = [&](const Tensor<T, B>& image01) {
    mole::MolePass<T, B> own;
    return clip.vision.features(mole::clip_prepare(image01, clip.config().vision.image_size), own);
  };
  const auto found = features(image);
  const auto global = global_loss(found, T_);
  const auto directional = mole::clip_directional_loss(
      found, features(image_of<T, B>(golden, "vl.source_image01")), mole::clip_text_direction(T_, S_));
  const auto balance = unet.balance(pass);
  const auto total = mole::total_loss(add(global, directional), balance, alpha);
  golden.compare("vl.global", global, "vl.global");
  golden.compare("vl.directional", directional, "vl.directional");
  golden.compare("vl.balance", balance, "vl.balance");
  golden.compare("vl.total", total, "vl.total");
  backward(total);
  check_gates(golden, unet, pass, "vl");
  unet.detach();
}

/// The adapters of a pipeline's folder, where it has any: lora_*, train_a.*, mole*, vl.*.
template <class T, class B>
void check_experts(const Golden& golden, const std::filesystem::path& folder,
                   mole::StableDiffusion<T, B>& model, Report& report) {
  std::map<std::string, mole::DiffusionLora> loras;
  for (const auto& [tag, path] : lora_folders())
    if (golden.contains("lora_" + tag + ".sample"))
      golden.part("lora_" + tag, [&, name = tag] {
        loras[name] = read_lora(folder, name, model);
        check_lora(golden, model, loras[name], "lora_" + name, 1);
        if (golden.contains("lora_" + name + "_half.sample"))
          check_lora(golden, model, loras[name], "lora_" + name + "_half", 0.5);
      });
  if (golden.contains("train_a.loss"))
    golden.part("train_a", [&] { check_lora_training(golden, model.unet, loras.at("a").unet); });
  if (!golden.contains("mole.sample")) return;
  const auto gates = mole::read_json(folder / "gates.json");
  const double tau = gates.at("tau").get<double>(), alpha = gates.at("alpha").get<double>();
  std::vector<mole::LoraSet> sets;
  for (const auto& name : gates.at("experts")) sets.push_back(loras.at(name.get<std::string>()).unet);
  golden.part("mole", [&] { check_mole(golden, model.unet, sets, tau, alpha); });
  if (!golden.contains("vl.total")) return;
  golden.part("vl", [&] {
    const auto clip = folder.parent_path() / "clip";
    const Golden texts((clip / "expected.safetensors").string(), "clip", report);
    check_vision_loss(golden, model, mole::load_clip<T, B>(clip / "base"), texts, sets, tau, alpha);
  });
}

/// A folder with base/ of a pipeline, its adapters, and expected.safetensors.
template <class T, class B>
void check_pipeline(Golden& golden, const std::filesystem::path& folder, Report& report) {
  check_diffusion<T, B>(golden, folder);
  auto model = mole::load_stable_diffusion<T, B>(folder / "base");
  check_experts(golden, folder, model, report);
}

}  // namespace golden
