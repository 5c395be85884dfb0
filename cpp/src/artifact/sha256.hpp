// SHA-256, lowercase hexadecimal.
#pragma once

#include <memory>
#include <string>
#include <string_view>

struct evp_md_ctx_st;  // of OpenSSL

namespace libtame {

/// Hash of what is added bit by bit. Throws Failure: TAME_ERROR where libcrypto does not work.
class Sha256 {
 public:
  Sha256();

  void add(const void* data, std::size_t size);
  std::string hex();  // once, at the end

 private:
  struct Free {
    void operator()(evp_md_ctx_st* context) const;
  };
  std::unique_ptr<evp_md_ctx_st, Free> context_;
};

std::string sha256(std::string_view bytes);

}  // namespace libtame
