// SHA-256, lowercase hexadecimal.
#pragma once

#include <nettle/sha2.h>

#include <string>
#include <string_view>

namespace libtame {

/// Hash of what is added bit by bit.
class Sha256 {
 public:
  Sha256();

  void add(const void* data, std::size_t size);
  std::string hex();  // once, at the end

 private:
  sha256_ctx context_;
};

std::string sha256(std::string_view bytes);

}  // namespace libtame
