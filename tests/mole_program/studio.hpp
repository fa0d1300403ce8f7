#pragma once
// Running `mole` on a tiny Stable Diffusion.

#include <cstdint>
#include <string>

#include "common/image.hpp"
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

/// Writes a picture of 20 x 14 pixels, whose colours `number` chooses.
inline void write_picture(const fs::path& path, int number) {
  fs::create_directories(path.parent_path());
  auto image = common::Image::filled(20, 14, 0);
  for (mole::Index y = 0; y < image.height; ++y)
    for (mole::Index x = 0; x < image.width; ++x)
      for (mole::Index c = 0; c < 3; ++c)
        image.at(x, y)[c] = static_cast<std::uint8_t>((number * 50 + x * (5 + c) + y * (9 - 2 * c)) % 256);
  common::write_png(path, image);
}

inline std::string lora(const std::string& file) { return (golden_pictures() / file).string(); }

inline const std::string kohya = lora("lora_kohya/kohya.safetensors"),
                         diffusers = lora("lora_diffusers/pytorch_lora_weights.safetensors");

/// A short run in the studio's folder.
inline Arguments draw(const std::string& out, const std::string& prompt = "a cat") {
  return {"draw", "--base", "sd", "--prompt", prompt, "--steps", "3", "--out", out};
}

/// The studio with all that composing takes, made once: prompts, a CLIP, and pictures in two folders, the captions of
/// which are told in both ways.
inline const Studio& composing_studio() {
  static const Studio& made = [&]() -> const Studio& {
    const auto& studio = Studio::get();
    write_guide(studio / "clip");
    write(studio / "prompts.jsonl",
          "{\"prompt\": \"a cat and the hat\"}\n{\"prompt\": \"the hat\"}\n{\"prompt\": \"hello world\"}\n");
    write(studio / "test.jsonl", "{\"prompt\": \"a cat\"}\n");
    std::string lines;
    for (int i = 0; i < 3; ++i) {
      const auto name = std::to_string(i) + ".png";
      write_picture(studio / ("cats/" + name), i);
      lines += "{\"file_name\": \"" + name + "\", \"text\": \"a cat\"}\n";
    }
    write(studio / "cats/metadata.jsonl", lines);
    for (int i = 3; i < 5; ++i) {
      const auto name = "hats/" + std::to_string(i);
      write_picture(studio / (name + ".png"), i);
      write(studio / (name + ".txt"), "the hat\n");
    }
    return studio;
  }();
  return made;
}

/// `compose --prompts` in the studio's folder.
inline Arguments compose_pictures(const std::string& out, const std::string& steps = "4") {
  return {"compose",
          "--base",
          "sd",
          "--experts",
          "a=" + kohya + ",b=" + diffusers,
          "--clip",
          "clip",
          "--prompts",
          "prompts.jsonl",
          "--steps",
          steps,
          "--sampler-steps",
          "3",
          "--out",
          out};
}

}  // namespace program_test
