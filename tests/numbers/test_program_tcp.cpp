// The numbers program as two processes that torchrun could have started: they meet by TCP, in any build.

#include "numbers/program.hpp"

#include <string>

using namespace program_test;

namespace {

const Runner& shell() {
  static const Runner shell("/bin/sh", "mole-tcp-test");
  return shell;
}

/// `compose` on the workshop's base and experts, as two processes that have these words for their job. Gives the exit
/// status of the last that ends badly, and what they wrote.
Result together(const std::string& out, const std::string& words, const std::string& timeout) {
  const auto& shop = Workshop::get();
  const std::string script =
      "port=$1; shift; words=$1; shift; rank=0; status=0; pids=\n"
      "for word in $words; do\n"
      "  MASTER_ADDR=127.0.0.1 MASTER_PORT=$port RANK=$rank LOCAL_RANK=$rank WORLD_SIZE=2 MOLE_JOB=$word \"$@\" &\n"
      "  pids=\"$pids $!\"; rank=$((rank + 1))\n"
      "done\n"
      "for pid in $pids; do wait $pid || status=$?; done\n"
      "exit $status";
  auto command = with(compose(out, "15"), "--base", shop / "base");
  command = with(command, "--experts", (shop / "en-fr") + "," + (shop / "fr-en"));
  const auto port = std::to_string(20000 + ::getpid() % 10000);
  return shell().run(Arguments{"-c", script, "sh", port, words, MOLE_NUMBERS_PROGRAM} + command +
                     Arguments{"--only-mole", "--fixed-shards", "2", "--timeout", timeout});
}

}  // namespace

TEST_CASE("Two processes that meet by TCP write the bytes of one, once") {
  const auto& shop = Workshop::get();
  REQUIRE(shop.run(compose("by-itself", "15") + Arguments{"--only-mole", "--fixed-shards", "2"}).code == 0);
  const auto result = together("both", "bakery bakery", "60");
  CAPTURE(result.err);
  REQUIRE(result.code == 0);
  const auto title = result.out.find("Exact match in per cent");
  REQUIRE(title != std::string::npos);
  CHECK(result.out.find("Exact match in per cent", title + 1) == std::string::npos);
  for (const char* file : {"gates.safetensors", "loss.csv", "table.csv"}) {
    CAPTURE(file);
    const auto want = contents(shop / (std::string("by-itself/") + file));
    CHECK(want.size() > 20);
    const bool same = contents(shell() / (std::string("both/") + file)) == want;
    CHECK(same);
  }
}

TEST_CASE("A process of another job is turned away, and none of the two goes on") {
  const auto result = together("neither", "bakery butcher", "2");
  CHECK(result.code == 1);
  CHECK(result.err.find("did not come") != std::string::npos);
  CHECK(result.err.find("turned this rank away") != std::string::npos);
  CHECK(!fs::exists(shell() / "neither"));
}
