#pragma once
// What pictures are measured by.

#include <cstddef>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include <mole/loss/clip_guidance.hpp>

#include "pictures/judge.hpp"
#include "pictures/measured.hpp"
#include "pictures/painter.hpp"
#include "pictures/study.hpp"

namespace pictures {

/// Measures by a CLIP that trained nothing here, and by a judge that has no weights.
template <class B>
class Meters {
 public:
  Meters(mole::Clip<Scalar, B> clip, const Painter<B>& painter, const Sprites& sprites,
         const std::vector<Index>& subjects, const Judge& judge)
      : clip_(std::move(clip)), sprites_(sprites), judge_(judge), words_(painter.words) {
    const mole::NoGrad off;
    for (const Index subject : subjects) {
      const auto own = own_pictures_of(subject, 64, sprites);
      means_[subject] = mean(unit_rows(embed_pictures(clip_, as_tensor<B>(own))), {0}).to_host();
    }
  }

  /// Of pictures with their scenes. Throws mole::NumericError for a picture that holds NaN.
  Measured operator()(const std::vector<Scene>& scenes,
                      const std::vector<std::vector<float>>& pictures) const {
    Measured result;
    if (scenes.empty()) return result;
    const mole::NoGrad off;
    std::vector<Index> ids;
    std::vector<std::vector<float>> halves;
    std::vector<Index> of;
    std::size_t objects = 0, found = 0, complete = 0;
    const Index length = clip_.config().text.positions;
    for (std::size_t i = 0; i < scenes.size(); ++i) {
      to_image(pictures[i].data());  // refuses what is no picture
      const auto tokens = words_.encode(caption(scenes[i], sprites_), length);
      ids.insert(ids.end(), tokens.begin(), tokens.end());
      const auto present = judge_.present(scenes[i], pictures[i]);
      const auto there = static_cast<std::size_t>(std::count(present.begin(), present.end(), true));
      objects += present.size();
      found += there;
      complete += there == present.size();
      if (scenes[i].objects.size() != 2) continue;
      for (const std::size_t object : {0, 1}) {
        halves.push_back(half_picture(scenes[i], pictures[i], object));
        of.push_back(scenes[i].objects[object]);
      }
    }
    const auto n = static_cast<Index>(scenes.size());
    const auto texts = embed_texts(clip_, Tokens<B>::from({n, length}, ids));
    result.text =
        1 - static_cast<double>(
                mole::clip_global_loss(embed_pictures(clip_, as_tensor<B>(pictures)), texts).item());
    result.present = static_cast<double>(found) / static_cast<double>(objects);
    result.all_present = static_cast<double>(complete) / static_cast<double>(scenes.size());
    if (!halves.empty()) {
      const auto embedded = unit_rows(embed_pictures(clip_, as_tensor<B>(halves))).to_host();
      double sum = 0;
      const std::size_t width = embedded.size() / halves.size();
      for (std::size_t i = 0; i < halves.size(); ++i) {
        const auto& own = means_.at(of[i]);
        for (std::size_t k = 0; k < width; ++k) sum += static_cast<double>(embedded[i * width + k] * own[k]);
      }
      result.half = sum / static_cast<double>(halves.size());
    }
    return result;
  }

 private:
  mole::Clip<Scalar, B> clip_;
  const Sprites& sprites_;
  const Judge& judge_;
  Vocabulary words_;
  std::map<Index, std::vector<Scalar>> means_;  ///< of each subject's own pictures
};

}  // namespace pictures
