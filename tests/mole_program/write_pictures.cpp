// write_pictures FOLDER: writes the tests' tiny Stable Diffusion, for tests/data/check_draw_with_diffusers.py.

#include <cstdio>
#include <exception>

#include "mole_program/tiny_pictures.hpp"

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: %s FOLDER\n", argv[0]);
    return 2;
  }
  try {
    program_test::write_pictures(argv[1]);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}
