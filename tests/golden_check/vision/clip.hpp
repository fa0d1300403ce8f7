#pragma once
// Goldens of a CLIP: features, cosines, the three losses with the gradients of their pixels, the preparation
// of images.

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include <golden_check/report.hpp>
#include <mole/autodiff/backward.hpp>
#include <mole/loss/clip_guidance.hpp>
#include <mole/models/clip/checkpoint.hpp>
#include <mole/ops/conv.hpp>

namespace golden {

/// What the goldens of vision promise: 1e-9 of max(1, the largest expected value).
inline void accept_vision(Golden& golden) { golden.accept(1e-9, 2e-4, 1); }

/// The projected features of images [S, C, H, W], prepared.
template <class T, class B>
Tensor<T, B> image_features(const mole::Clip<T, B>& model, const Tensor<T, B>& pixels) {
  mole::MolePass<T, B> pass;
  return model.vision.features(channels_last(pixels), pass);
}

template <class T, class B>
Tensor<T, B> text_features(const mole::Clip<T, B>& model, const Tensor<Index, B>& ids) {
  mole::MolePass<T, B> pass;
  return model.text.features(ids, pass);
}

/// Every image with every text: 1 - cos, the mean.
template <class T, class B>
Tensor<T, B> global_loss(const Tensor<T, B>& images, const Tensor<T, B>& texts) {
  return mole::clip_global_loss(reshape(images, {images.size(0), 1, images.size(1)}), texts);
}

/// One line for a loss, one for the gradient of the pixels that it is of.
template <class T, class B, class F>
void check_loss(const Golden& golden, const std::string& name, const std::string& pixels, F loss) {
  golden.part(name, [&] {
    const auto x = golden.tensor<T, B>(pixels).set_requires_grad();
    const auto found = loss(x);
    golden.compare(name + ".loss", found, name + ".loss");
    backward(found);
    golden.compare(name + ".d_" + pixels, x.grad(), name + ".d_" + pixels);
  });
}

/// Images of [0, 1] [S, 3, H, W] as the tower takes them, channels first.
template <class T, class B>
Tensor<T, B> prepared(const mole::Clip<T, B>& model, const Tensor<T, B>& image01) {
  return channels_first(mole::clip_prepare(channels_last(image01), model.config().vision.image_size));
}

/// processor.image by the 8-bit path; the reference is of float32 at its end.
template <class T, class B>
void check_processor(const Golden& golden, const mole::Clip<T, B>& model) {
  golden.part("processor", [&] {
    const auto bytes = golden.read<Index>("processor.image");
    const Shape shape = golden.shape("processor.image");
    const Index size = model.config().vision.image_size;
    const auto found =
        mole::clip_process<T, B>(std::vector<std::uint8_t>(bytes.begin(), bytes.end()), shape[0], shape[1],
                                 {.resize = size, .crop_height = size, .crop_width = size});
    const auto values = channels_first(found).to_host();
    // A difference of less than a millionth of the float32 reference is none.
    golden.compare_rounded("processor.pixel_values", values, "processor.pixel_values", 1e-6);
  });
}

/// golden/vl/clip.
template <class T, class B>
void check_clip_guidance(const Golden& golden, const mole::Clip<T, B>& model) {
  const auto T_ = text_features(model, golden.indices<B>("target_ids")),
             S_ = text_features(model, golden.indices<B>("source_ids"));
  const auto direction = mole::clip_text_direction(T_, S_);
  const auto source = image_features(model, golden.tensor<T, B>("source_pixel_values"));
  const auto image = golden.tensor<T, B>("pixel_values");
  golden.compare("text_features", T_, "text_features");
  golden.compare("source_text_features", S_, "source_text_features");
  golden.compare("image_features", image_features(model, image), "image_features");
  golden.compare("source_image_features", source, "source_image_features");
  golden.compare("logits_per_image",
                 model.logits_per_image(channels_last(image), golden.indices<B>("target_ids")),
                 "logits_per_image");
  golden.compare("text_direction", direction, "text_direction");

  const auto global = [&](const auto& x) { return global_loss(image_features(model, x), T_); };
  const auto directional = [&](const auto& x) {
    return mole::clip_directional_loss(image_features(model, x), source, direction);
  };
  check_loss<T, B>(golden, "global", "pixel_values", global);
  check_loss<T, B>(golden, "directional", "pixel_values", directional);
  check_loss<T, B>(golden, "released", "pixel_values", [&](const auto& x) {
    const auto features = image_features(model, x);
    return mole::clip_released_loss(global_loss(features, T_),
                                    mole::clip_directional_loss(features, source, direction));
  });

  const auto image01 = golden.tensor<T, B>("image01"), source01 = golden.tensor<T, B>("source_image01");
  golden.compare("prepared", prepared(model, image01), "prepared");
  check_loss<T, B>(golden, "global01", "image01", [&](const auto& x) { return global(prepared(model, x)); });
  const auto from = image_features(model, prepared(model, source01));
  check_loss<T, B>(golden, "directional01", "image01", [&](const auto& x) {
    return mole::clip_directional_loss(image_features(model, prepared(model, x)), from, direction);
  });
  const auto boxes = golden.read<Index>("boxes");
  const auto cut = [&](const auto& x, std::size_t i) {
    const Index* const b = boxes.data() + 4 * i;
    return prepared(model, channels_first(mole::crop(channels_last(x), b[0], b[1], b[2], b[3])));
  };
  golden.compare("prepared_crop0", cut(image01, 0), "prepared_crop0");
  check_loss<T, B>(golden, "local01", "image01", [&](const auto& x) {
    std::vector<Tensor<T, B>> patches, sources;
    for (std::size_t i = 0; i < boxes.size() / 4; ++i) {
      const Shape one{x.size(0), 1, model.config().projection};
      patches.push_back(reshape(image_features(model, cut(x, i)), one));
      sources.push_back(reshape(image_features(model, cut(source01, i)), one));
    }
    return mole::clip_patch_loss(concat(patches, 1), concat(sources, 1), direction);
  });
  check_processor(golden, model);
}

/// golden/hf/clip.
template <class T, class B>
void check_clip_embeddings(const Golden& golden, const mole::Clip<T, B>& model) {
  const auto ids = golden.indices<B>("input_ids");
  const auto x = golden.tensor<T, B>("pixel_values").set_requires_grad();
  const auto images = image_features(model, x), texts = text_features(model, ids);
  golden.compare("text_embeds", unit_rows(texts), "text_embeds");
  golden.compare("image_embeds", unit_rows(images), "image_embeds");
  golden.compare("logits_per_image", model.logits_per_image(channels_last(x.detach()), ids),
                 "logits_per_image");
  const auto loss = global_loss(images, texts);
  golden.compare("global_loss", loss, "global_loss");
  backward(loss);
  golden.compare("d_pixel", x.grad(), "d_pixel");
}

/// A folder with base/ and expected.safetensors of a CLIP.
template <class T, class B>
void check_clip(Golden& golden, const std::filesystem::path& folder) {
  const auto model = mole::load_clip<T, B>(folder / "base");
  accept_vision(golden);
  if (golden.contains("input_ids")) golden.part("embeddings", [&] { check_clip_embeddings(golden, model); });
  if (golden.contains("target_ids")) golden.part("guidance", [&] { check_clip_guidance(golden, model); });
}

}  // namespace golden
