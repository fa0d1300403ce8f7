#pragma once
// Running `mole` on a tiny Stable Diffusion.

#include <string>

#include "examples_common/runner.hpp"
#include "mole_program/tiny_pictures.hpp"

namespace program_test {

/// A folder with a tiny Stable Diffusion `sd` and all that the runs in it write. Made once.
class Studio : public Runner {
 public:
  static Studio& get() {
    static Studio studio;
    return studio;
  }

 private:
  Studio() : Runner(MOLE_PROGRAM, "mole-draw-test") { write_pictures(*this / "sd"); }
};

inline std::string lora(const std::string& file) { return (golden_pictures() / file).string(); }

inline const std::string kohya = lora("lora_kohya/kohya.safetensors"),
                         diffusers = lora("lora_diffusers/pytorch_lora_weights.safetensors");

/// A short run in the studio's folder.
inline Arguments draw(const std::string& out, const std::string& prompt = "a cat") {
  return {"draw", "--base", "sd", "--prompt", prompt, "--steps", "3", "--out", out};
}

}  // namespace program_test
