// Ranks that meet by TCP: what they exchange, whom they turn away, and how they end.

#include <doctest/doctest.h>

#include <chrono>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include <arpa/inet.h>

#include <mole/dist/any_group.hpp>
#include <mole/dist/tcp.hpp>
#include <mole/dist/thread_group.hpp>
#include <testing.hpp>

using namespace mole::dist;
using mole::Index;
using mole::testing::lacks;

namespace {

using std::chrono::milliseconds;

/// A port that nothing used a moment ago.
int free_port() {
  const detail::Socket socket(::socket(AF_INET, SOCK_STREAM, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  REQUIRE(::bind(socket.number(), reinterpret_cast<sockaddr*>(&address), size) == 0);
  REQUIRE(::getsockname(socket.number(), reinterpret_cast<sockaddr*>(&address), &size) == 0);
  return ntohs(address.sin_port);
}

TcpMeeting meeting_here() { return {"127.0.0.1", free_port(), "bakery"}; }

/// f(rank) on a thread a rank; the message of what it threw, by rank.
template <class F>
std::vector<std::string> endings(int size, F f) {
  std::vector<std::string> all(static_cast<std::size_t>(size));
  std::vector<std::thread> threads;
  for (int rank = 0; rank < size; ++rank)
    threads.emplace_back([&, rank] {
      try {
        f(rank);
      } catch (const PeerFailed& error) {
        all[static_cast<std::size_t>(rank)] = error.what();
      }
    });
  for (auto& thread : threads) thread.join();
  return all;
}

bool has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

Variables given(std::map<std::string, std::string> values) {
  return [values = std::move(values)](const std::string& name) {
    const auto found = values.find(name);
    return found == values.end() ? std::nullopt : std::optional(found->second);
  };
}

}  // namespace

TEST_CASE("Ranks that meet by TCP get the sums, all parts in order, and the root's values") {
  for (const int size : {1, 2, 4}) {
    CAPTURE(size);
    const auto meeting = meeting_here();
    std::vector<std::vector<double>> results(static_cast<std::size_t>(size));
    const auto ended = endings(size, [&](int rank) {
      const AnyGroup group = TcpGroup(meeting, rank, size);
      REQUIRE(group.rank() == rank);
      REQUIRE(group.size() == size);
      for (int round = 0; round < 20; ++round) {
        std::vector<double> sum{double(rank), 0.5}, all(2 * static_cast<std::size_t>(size)),
            root{rank + 10.0};
        group.all_gather(sum.data(), 2, all.data());
        group.all_reduce_sum(sum.data(), 2);
        group.broadcast(root.data(), 1, size - 1);
        group.barrier();
        sum.insert(sum.end(), all.begin(), all.end());
        sum.push_back(root.front());
        results[static_cast<std::size_t>(rank)] = sum;
      }
      // More than the system buffers.
      std::vector<float> large(3000000, static_cast<float>(rank + 1));
      group.all_reduce_sum(large.data(), static_cast<Index>(large.size()));
      REQUIRE(large == std::vector<float>(large.size(), static_cast<float>(size * (size + 1) / 2)));
    });
    CHECK(ended == std::vector<std::string>(static_cast<std::size_t>(size)));
    std::vector<double> want{size * (size - 1) / 2.0, size / 2.0};
    for (int rank = 0; rank < size; ++rank) want.insert(want.end(), {double(rank), 0.5});
    want.push_back(size + 9);
    for (const auto& result : results) CHECK(result == want);
  }
}

TEST_CASE("Strangers, and ranks of another job, are turned away while the others meet") {
  const auto meeting = meeting_here();
  const auto ended = endings(3, [&](int rank) {
    if (rank == 0) {
      const TcpGroup group(meeting, 0, 2);
      double x = 1;
      group.all_reduce_sum(&x, 1);
      REQUIRE(x == 3);
    } else if (rank == 1) {
      // First somebody who talks of something else, and one who has another word.
      detail::Socket stranger;
      while (!stranger) stranger = detail::connect_once(meeting.host, meeting.port);
      const std::string text = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
      REQUIRE(stranger.send(text.data(), text.size(), std::chrono::steady_clock::now() + milliseconds(500)) ==
              "");
      auto other = meeting;
      other.job = "butcher";
      const auto away =
          lacks<PeerFailed>([&] { TcpGroup(other, 1, 2, std::chrono::seconds(5), milliseconds(300)); },
                            {"turned this rank away"});
      REQUIRE(away == "");
      const auto uneven = lacks<PeerFailed>(
          [&] { TcpGroup(meeting, 1, 3, std::chrono::seconds(5), milliseconds(300)); }, {"number of ranks"});
      REQUIRE(uneven == "");
      const TcpGroup group(meeting, 1, 2);
      double x = 2;
      group.all_reduce_sum(&x, 1);
    }
  });
  CHECK(ended == std::vector<std::string>(3));
}

TEST_CASE("A rank that never comes is named after the time that the others have") {
  const auto meeting = meeting_here();
  const auto ended = endings(2, [&](int rank) {
    const TcpGroup group(meeting, rank, 3, std::chrono::seconds(5), milliseconds(400));
  });
  CHECK(has(ended[0], "1 ranks did not come, the first of them rank 2"));
  CHECK(has(ended[1], "did not reach rank 0"));
  const auto nobody = lacks<PeerFailed>(
      [&] { TcpGroup(meeting, 1, 2, std::chrono::seconds(5), milliseconds(200)); }, {"nobody listens"});
  CHECK(nobody == "");
}

TEST_CASE("A rank that is gone ends the others' calls, which say who") {
  for (const int gone : {0, 2}) {
    CAPTURE(gone);
    const auto meeting = meeting_here();
    const auto ended = endings(3, [&](int rank) {
      const TcpGroup group(meeting, rank, 3);
      group.barrier();
      if (rank == gone) return;
      CHECK_THROWS_AS(group.barrier(), PeerFailed);
      group.barrier();  // it has ended for good
    });
    for (int rank = 0; rank < 3; ++rank) {
      const auto& text = ended[static_cast<std::size_t>(rank)];
      CAPTURE(text);
      if (rank == gone)
        CHECK(text == "");
      else
        CHECK(has(text, "has lost rank " + std::to_string(gone)));
    }
  }
}

TEST_CASE("A rank that says nothing ends the others after the timeout") {
  const auto meeting = meeting_here();
  const auto ended = endings(2, [&](int rank) {
    const TcpGroup group(meeting, rank, 2, milliseconds(200));
    if (rank == 1) std::this_thread::sleep_for(milliseconds(800));
    group.barrier();
  });
  CHECK(has(ended[0], "lost rank 1 - it does not answer"));
  CHECK(ended[1] != "");
}

TEST_CASE("Ranks that make different calls are told so") {
  const auto meeting = meeting_here();
  const auto ended = endings(2, [&](int rank) {
    const TcpGroup group(meeting, rank, 2);
    std::vector<float> x(5);
    group.all_reduce_sum(x.data(), rank == 0 ? 5 : 4);
  });
  for (const auto& text : ended) CHECK(has(text, "of 20 and 16 bytes"));
}

TEST_CASE("A port that is in use, and a host that is none, are refused by name") {
  const auto meeting = meeting_here();
  const auto used = detail::listen_at(meeting.host, meeting.port);
  CHECK(lacks<mole::ArgumentError>([&] { TcpGroup(meeting, 0, 2); },
                                   {"127.0.0.1", std::to_string(meeting.port).c_str(), "MOLE_PORT"}) == "");
  CHECK(lacks<mole::ArgumentError>(
            [&] {
              TcpGroup({"no.such.host.invalid", 29500, "x"}, 1, 2);
            },
            {"no.such.host.invalid"}) == "");
}

TEST_CASE("The meeting is what torchrun's variables say") {
  std::map<std::string, std::string> all{
      {"MASTER_ADDR", "node1"}, {"MASTER_PORT", "4000"}, {"MOLE_JOB", "a"}};
  auto found = tcp_meeting(given(all));
  CHECK(found.host == "node1");
  CHECK(found.port == 4000);
  CHECK(found.job == "a");
  // torchrun's own store is at MASTER_PORT.
  all["TORCHELASTIC_USE_AGENT_STORE"] = "True";
  all["TORCHELASTIC_RUN_ID"] = "b";
  CHECK(tcp_meeting(given(all)).port == 4001);
  all["MOLE_PORT"] = "5000";
  CHECK(tcp_meeting(given(all)).port == 5000);
  all.erase("MOLE_JOB");
  CHECK(tcp_meeting(given(all)).job == "b");
  const auto refused = [&](const char* name, const char* value, std::initializer_list<const char*> parts) {
    auto changed = all;
    if (value)
      changed[name] = value;
    else
      changed.erase(name);
    return lacks<mole::ArgumentError>([&] { tcp_meeting(given(changed)); }, parts);
  };
  CHECK(refused("MASTER_ADDR", nullptr, {"MASTER_ADDR", "not set"}) == "");
  CHECK(refused("MASTER_PORT", nullptr, {"MASTER_PORT", "not set"}) == "");
  CHECK(refused("MASTER_PORT", "many", {"MASTER_PORT", "whole number"}) == "");
  CHECK(refused("MOLE_PORT", "70000", {"70000", "65535"}) == "");
  CHECK(refused("TORCHELASTIC_RUN_ID", "", {"MOLE_JOB"}) == "");
}
