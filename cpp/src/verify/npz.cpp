#include "verify/npz.hpp"

#include <zlib.h>

#include <algorithm>
#include <limits>

#include "error.hpp"

namespace libtame {
namespace {

[[noreturn]] void damaged(const char* what) { fail(TAME_MANIFEST_ERROR, "cannot be read: ", what); }

/// Bytes of the archive, and numbers among them; nothing beyond its end is touched.
class ZipBytes {
 public:
  explicit ZipBytes(const std::string& all) : all_(all) {}

  std::size_t size() const { return all_.size(); }

  std::string_view part(std::size_t at, std::size_t count) const {
    if (at > all_.size() || count > all_.size() - at) damaged("it is truncated");
    return std::string_view(all_).substr(at, count);
  }

  std::size_t number(std::size_t at, std::size_t count) const {
    std::size_t found = 0;
    for (const char byte : part(at, count)) {
      found = found >> 8 | static_cast<std::size_t>(static_cast<unsigned char>(byte))
                               << 8 * (count - 1);
    }
    return found;
  }

 private:
  const std::string& all_;
};

/// A file in the archive, as its central directory lists it.
struct Member {
  std::string name;
  std::size_t method = 0;
  std::size_t checksum = 0;
  std::size_t packed = 0;
  std::size_t unpacked = 0;
  std::size_t offset = 0;
};

constexpr std::size_t most_members = 64;
constexpr std::size_t end_bytes = 22;

/// Where the record lies that ends the archive.
std::size_t end_of(const ZipBytes& archive) {
  constexpr std::size_t longest_comment = 65535;
  const std::size_t size = archive.size();
  for (std::size_t back = end_bytes; back <= std::min(size, end_bytes + longest_comment); ++back) {
    if (archive.part(size - back, 4) == "PK\5\6") return size - back;
  }
  damaged("it is no ZIP archive");
}

std::vector<Member> members_of(const ZipBytes& archive) {
  const std::size_t end = end_of(archive);
  const std::size_t count = archive.number(end + 10, 2);
  std::size_t at = archive.number(end + 16, 4);
  if (count > most_members) damaged("it has too many members");
  std::vector<Member> members;
  std::size_t whole = 0;
  for (std::size_t index = 0; index < count; ++index) {
    if (archive.part(at, 4) != "PK\1\2") damaged("its directory is no directory");
    const std::size_t letters = archive.number(at + 28, 2);
    Member member{std::string(archive.part(at + 46, letters)),
                  archive.number(at + 10, 2),
                  archive.number(at + 16, 4),
                  archive.number(at + 20, 4),
                  archive.number(at + 24, 4),
                  archive.number(at + 42, 4)};
    if (archive.number(at + 8, 2) & 1) damaged("it is encrypted");
    whole += member.unpacked;
    if (whole > max_npz_bytes) {
      fail(TAME_MANIFEST_ERROR, "unpacks to ", whole >> 20, " MiB; no reference does");
    }
    at += 46 + letters + archive.number(at + 30, 2) + archive.number(at + 32, 2);
    members.push_back(std::move(member));
  }
  return members;
}

struct Inflating : z_stream {
  Inflating() : z_stream{} {
    if (inflateInit2(this, -MAX_WBITS) != Z_OK) throw std::bad_alloc();
  }
  Inflating(const Inflating&) = delete;
  Inflating& operator=(const Inflating&) = delete;
  ~Inflating() { inflateEnd(this); }
};

std::string inflated(std::string_view packed, std::size_t size) {
  constexpr std::size_t best_ratio = 1032;  // of deflate: memory is not taken on trust
  if (size / best_ratio > packed.size()) damaged("its sizes contradict each other");
  std::string found(size, '\0');
  Inflating stream;
  // zlib does not write to its input, whatever the type says.
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(packed.data()));
  stream.avail_in = static_cast<uInt>(packed.size());
  stream.next_out = reinterpret_cast<Bytef*>(found.data());
  stream.avail_out = static_cast<uInt>(size);
  if (inflate(&stream, Z_FINISH) != Z_STREAM_END || stream.avail_out != 0) {
    damaged("what is packed is damaged");
  }
  return found;
}

std::string unpacked(const ZipBytes& archive, const Member& member) {
  if (archive.part(member.offset, 4) != "PK\3\4") damaged("a member is not where it should be");
  const std::size_t before =
      30 + archive.number(member.offset + 26, 2) + archive.number(member.offset + 28, 2);
  const std::string_view packed = archive.part(member.offset + before, member.packed);
  constexpr std::size_t stored = 0;
  constexpr std::size_t deflated = 8;
  if (member.method != stored && member.method != deflated) damaged("it is packed in another way");
  if (member.method == stored && member.packed != member.unpacked) {
    damaged("its sizes contradict each other");
  }
  std::string bytes =
      member.method == stored ? std::string(packed) : inflated(packed, member.unpacked);
  const auto* data = reinterpret_cast<const Bytef*>(bytes.data());
  if (crc32(0, data, static_cast<uInt>(bytes.size())) != member.checksum) {
    damaged("a checksum is not that of what is there");
  }
  return bytes;
}

/// What stands between two texts of the header of a .npy file.
std::string between(const std::string& header, const std::string& first, char last) {
  const auto at = header.find(first);
  if (at == std::string::npos) damaged("an array has no such header");
  const auto from = at + first.size();
  const auto end = header.find(last, from);
  if (end == std::string::npos) damaged("an array has no such header");
  return header.substr(from, end - from);
}

/// The sizes in a text such as "3, 32, 32, 3".
std::vector<std::int64_t> sizes_of(const std::string& text) {
  std::vector<std::int64_t> sizes;
  std::int64_t size = -1;
  for (const char letter : text + ",") {
    if (letter >= '0' && letter <= '9') {
      size = 10 * std::max<std::int64_t>(size, 0) + (letter - '0');
      if (size > static_cast<std::int64_t>(max_npz_bytes)) damaged("an array is too large");
    } else if (letter == ',') {
      if (size >= 0) sizes.push_back(size);
      size = -1;
    } else if (letter != ' ') {
      damaged("an array has no such shape");
    }
  }
  return sizes;
}

Array array_of(const std::string& file) {
  const ZipBytes bytes(file);
  if (bytes.part(0, 6) != "\x93NUMPY") damaged("a member is no array");
  const std::size_t wide = bytes.number(6, 1) == 1 ? 2 : 4;
  const std::size_t letters = bytes.number(8, wide);
  const std::string header(bytes.part(8 + wide, letters));
  Array array{between(header, "'descr': '", '\''), sizes_of(between(header, "'shape': (", ')')),
              file.substr(8 + wide + letters)};
  if (between(header, "'fortran_order': ", ',') != "False") damaged("an array is of another order");
  const std::string& dtype = array.dtype;
  std::size_t wanted = dtype == "|u1"   ? 1
                       : dtype == "<u2" ? 2
                       : dtype == "<f4" ? 4
                       : dtype == "<i8" ? 8
                                        : 0;
  if (wanted == 0) damaged("an array holds no bytes, uint16, float32 or int64");
  for (const std::int64_t size : array.shape) {
    const auto factor = static_cast<std::size_t>(size);
    if (factor != 0 && wanted > max_npz_bytes / factor) damaged("an array is too large");
    wanted *= factor;
  }
  if (array.bytes.size() != wanted) damaged("an array has another size than its header says");
  return array;
}

}  // namespace

std::map<std::string, Array> read_npz(const std::string& archive) {
  const ZipBytes bytes(archive);
  const std::string suffix = ".npy";
  std::map<std::string, Array> arrays;
  for (const Member& member : members_of(bytes)) {
    const bool named =
        member.name.size() > suffix.size() &&
        member.name.compare(member.name.size() - suffix.size(), suffix.size(), suffix) == 0;
    if (!named) damaged("a member is no array");
    const std::string name = member.name.substr(0, member.name.size() - suffix.size());
    if (!arrays.emplace(name, array_of(unpacked(bytes, member))).second) {
      damaged("a name is there twice");
    }
  }
  return arrays;
}

}  // namespace libtame
