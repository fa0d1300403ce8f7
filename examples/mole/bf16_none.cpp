// In a build without bf16, in the place of the models in it.

#include <mole/core/error.hpp>

#include "mole/language_model.hpp"
#include "mole/pictures/model.hpp"

namespace program {

namespace {

[[noreturn]] void refuse() {
  throw mole::ArgumentError(
      "--dtype bf16: this program was built without it; configure the build with -DMOLE_BF16=ON and build it again");
}

}  // namespace

const Models& models_bf16_on(const std::string&) { refuse(); }
const PictureModels& picture_models_bf16_on(const std::string&) { refuse(); }

}  // namespace program
