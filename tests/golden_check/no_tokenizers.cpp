#include <golden_check/tokenizers.hpp>

namespace golden {

void check_tokenizers(const std::filesystem::path&, const std::string& name, Report& report) {
  report.skip(name, "this program was built without ICU (apt-get install libicu-dev)");
}

}  // namespace golden
