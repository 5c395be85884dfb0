// Artifacts with engines for the simulated GPU, and calls of them.
#pragma once

#include <gtest/gtest.h>

#include <array>
#include <filesystem>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "backends/backend.hpp"
#include "double/double.hpp"
#include "error.hpp"

namespace libtame::tests {

using Json = nlohmann::ordered_json;

inline constexpr std::size_t picture_bytes = 4 * 5 * 3;
inline constexpr tame_double::Network network{10, 2, 3};
inline constexpr std::size_t classes = 10;
inline constexpr std::size_t map_values = 6;

/// Min, opt and max pictures, and classes.
using Sixfold = std::array<std::int64_t, 6>;

/// An engine to be written.
struct Wanted {
  std::vector<Sixfold> profiles{{1, 4, 8, 1, 1, 5}};
  std::string folder = TAME_TEST_FLAVOUR "-fp32-sm86";
  std::function<void(Json&)> change = [](Json&) {};              // of engine.json
  std::function<void(std::string&)> plan = [](std::string&) {};  // before it is hashed
};

/// What a call asks for, and what came.
struct Answers {
  std::vector<float> logits;
  std::vector<std::int64_t> explained;
  std::vector<float> maps;
  bool operator==(const Answers& other) const {
    return logits == other.logits && explained == other.explained && maps == other.maps;
  }
};

/// Different pictures, one after the other.
std::vector<unsigned char> pictures(std::size_t count, unsigned seed = 1);

/// What the network says, picture by picture.
Answers expected(const std::vector<unsigned char>& images, const std::vector<std::int64_t>& ids,
                 std::size_t explained);

/// Run a call on the host's memory.
Answers run(Backend& backend, const std::vector<unsigned char>& images,
            const std::vector<std::int64_t>& ids, std::size_t explained);

/// Ids that are all the same, for `count` pictures with `explained` classes each.
std::vector<std::int64_t> same_ids(std::size_t count, std::size_t explained, std::int64_t id = -1);

/// The message of the failure with a status that something ends in; "" if it does not.
std::string failure(tame_status status, const std::function<void()>& doing);

/// A fresh GPU and artifact; afterwards nothing may be left on the GPU, and nothing wrong done.
class TensorRT : public testing::Test {
 protected:
  void SetUp() override;
  void TearDown() override;

  /// Put an engine into the artifact; return its folder.
  std::filesystem::path write(const Wanted& wanted = {});

  /// Make the graph explain its likeliest class, and take no ids.
  void take_no_ids();

  std::unique_ptr<Backend> open(const std::function<void(Options&)>& change = [](Options&) {});

  std::filesystem::path path;
  Artifact artifact;
};

/// The device's memory, as the caller of run_on_device has it.
class OnGpu {
 public:
  explicit OnGpu(std::size_t size);
  OnGpu(const OnGpu&) = delete;
  OnGpu& operator=(const OnGpu&) = delete;
  ~OnGpu();

  template <typename T>
  T* as() const {
    return static_cast<T*>(address_);
  }

 private:
  void* address_ = nullptr;
};

}  // namespace libtame::tests
