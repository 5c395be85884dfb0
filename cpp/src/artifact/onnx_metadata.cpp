#include "artifact/onnx_metadata.hpp"

#include <vector>

namespace libtame {

namespace {

// Fields of onnx.proto.
constexpr std::uint64_t model_graph = 7;
constexpr std::uint64_t model_metadata = 14;
constexpr std::uint64_t entry_key = 1;
constexpr std::uint64_t entry_value = 2;

enum WireType : unsigned {
  varint = 0,
  fixed64 = 1,
  bytes = 2,
  begin_group = 3,
  end_group = 4,
  fixed32 = 5
};

struct Malformed {};

struct Tag {
  std::uint64_t field;
  unsigned type;
};

/// Reads the wire format of protobuf; every read is inside the bounds that its caller names.
class Wire {
 public:
  explicit Wire(std::istream& stream) : stream_(stream) {}

  std::uint64_t place() const { return place_; }

  /// The end of the `length` bytes from here, which have to lie before `end`.
  std::uint64_t bounded(std::uint64_t length, std::uint64_t end) const {
    if (length > end - place_) {
      throw Malformed();
    }
    return place_ + length;
  }

  std::uint64_t read_varint(std::uint64_t end) {
    std::uint64_t value = 0;
    for (unsigned shift = 0; shift < 70; shift += 7) {
      const std::uint64_t byte = read_byte(end);
      value |= shift < 64 ? (byte & 0x7f) << shift : 0;
      if (byte < 0x80) {
        return value;
      }
    }
    throw Malformed();
  }

  Tag read_tag(std::uint64_t end) {
    const std::uint64_t tag = read_varint(end);
    if (tag >> 3 == 0 || tag >> 32 != 0) {
      throw Malformed();
    }
    return {tag >> 3, static_cast<unsigned>(tag & 7)};
  }

  /// The text up to a place; "" if it is longer than `longest`.
  std::string read_text(std::uint64_t stop, std::size_t longest) {
    std::string text(stop - place_ <= longest ? static_cast<std::size_t>(stop - place_) : 0, '\0');
    if (!text.empty() && !stream_.read(text.data(), static_cast<std::streamsize>(text.size()))) {
      throw Malformed();
    }
    place_ += text.size();
    seek(stop);
    return text;
  }

  void seek(std::uint64_t place) {
    if (place != place_ && !stream_.seekg(static_cast<std::streamoff>(place))) {
      throw Malformed();
    }
    place_ = place;
  }

  /// Pass over the value of a tag; groups are a relic that parsers still have to accept.
  void skip(const Tag& tag, std::uint64_t end) {
    std::vector<std::uint64_t> groups;
    for (Tag at = tag;; at = read_tag(end)) {
      if (at.type == begin_group) {
        groups.push_back(at.field);
      } else if (at.type == end_group) {
        if (groups.empty() || groups.back() != at.field) {
          throw Malformed();
        }
        groups.pop_back();
      } else {
        skip_plain(at.type, end);
      }
      if (groups.empty()) {
        return;
      }
      if (groups.size() > deepest) {
        throw Malformed();
      }
    }
  }

 private:
  static constexpr std::size_t deepest = 100;

  std::uint64_t read_byte(std::uint64_t end) {
    const int byte = place_ < end ? stream_.get() : std::istream::traits_type::eof();
    if (byte == std::istream::traits_type::eof()) {
      throw Malformed();
    }
    ++place_;
    return static_cast<std::uint64_t>(byte);
  }

  void skip_plain(unsigned type, std::uint64_t end) {
    if (type == varint) {
      read_varint(end);
    } else if (type == fixed64) {
      seek(bounded(8, end));
    } else if (type == fixed32) {
      seek(bounded(4, end));
    } else if (type == bytes) {
      const std::uint64_t length = read_varint(end);
      seek(bounded(length, end));
    } else {
      throw Malformed();
    }
  }

  std::istream& stream_;
  std::uint64_t place_ = 0;
};

struct Entry {
  std::string key;
  std::string value;
};

Entry read_entry(Wire& wire, std::uint64_t end, std::size_t longest) {
  Entry entry;
  while (wire.place() < end) {
    const Tag tag = wire.read_tag(end);
    if (tag.type != bytes || (tag.field != entry_key && tag.field != entry_value)) {
      wire.skip(tag, end);
      continue;
    }
    const std::uint64_t length = wire.read_varint(end);
    (tag.field == entry_key ? entry.key : entry.value) =
        wire.read_text(wire.bounded(length, end), longest);
  }
  return entry;
}

}  // namespace

OnnxMetadata find_onnx_metadata(std::istream& stream, std::uint64_t size, std::string_view key,
                                std::size_t longest) try {
  OnnxMetadata found;
  Wire wire(stream);
  while (wire.place() < size) {
    const Tag tag = wire.read_tag(size);
    found.is_model = found.is_model || (tag.field == model_graph && tag.type == bytes);
    if (tag.field != model_metadata || tag.type != bytes) {
      wire.skip(tag, size);
      continue;
    }
    const std::uint64_t length = wire.read_varint(size);
    Entry entry = read_entry(wire, wire.bounded(length, size), longest);
    if (entry.key == key) {
      found.value = std::move(entry.value);
    }
  }
  return found;
} catch (const Malformed&) {
  return {};
}

}  // namespace libtame
