#include "artifact/sha256.hpp"

#include <openssl/evp.h>

#include "error.hpp"

namespace libtame {

namespace {

void check(int succeeded) {
  if (succeeded != 1) {
    fail(TAME_ERROR, "libcrypto cannot compute a sha256");
  }
}

}  // namespace

void Sha256::Free::operator()(evp_md_ctx_st* context) const { EVP_MD_CTX_free(context); }

Sha256::Sha256() : context_(EVP_MD_CTX_new()) {
  check(context_ != nullptr && EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr) == 1);
}

void Sha256::add(const void* data, std::size_t size) {
  check(EVP_DigestUpdate(context_.get(), data, size));
}

std::string Sha256::hex() {
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned size = 0;
  check(EVP_DigestFinal_ex(context_.get(), digest, &size));
  std::string text;
  for (unsigned index = 0; index < size; ++index) {
    text += "0123456789abcdef"[digest[index] >> 4];
    text += "0123456789abcdef"[digest[index] & 15];
  }
  return text;
}

std::string sha256(std::string_view bytes) {
  Sha256 hash;
  hash.add(bytes.data(), bytes.size());
  return hash.hex();
}

}  // namespace libtame
