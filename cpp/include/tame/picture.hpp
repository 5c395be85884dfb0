// libtame for C++17: pictures. Included by tame.hpp.
#ifndef TAME_PICTURE_HPP
#define TAME_PICTURE_HPP

#include <cstddef>
#include <cstdint>
#include <fstream>
#include <ios>
#include <iterator>
#include <string>
#include <type_traits>
#include <vector>

#include "error.hpp"
#include "tame.h"

namespace tame {

/// What no picture consists of: floats, addresses, and classes that own memory elsewhere.
template <typename T>
inline constexpr bool is_no_pixel = std::is_floating_point_v<T> || std::is_pointer_v<T> ||
                                    (std::is_class_v<T> && !std::is_trivially_copyable_v<T>);

/// Bytes in somebody else's memory. Of a pointer alone, nobody can check how many there are.
class Bytes {
 public:
  Bytes(const void* data) : data_(data), size_(0) {}
  Bytes(const void* data, std::size_t size) : data_(size == 0 ? nullptr : data), size_(size) {}
  template <typename T, std::enable_if_t<std::is_integral_v<T>, int> = 0>
  Bytes(const std::vector<T>& values TAME_LIFETIMEBOUND)
      : data_(values.empty() ? nullptr : values.data()), size_(values.size() * sizeof(T)) {}
  template <typename T>
  Bytes(const std::vector<T>&&) = delete;  // gone at the end of the line: give the vector a name

  // Pixels are integers, and a vector is given as it is, not by its address.
  template <typename T, std::enable_if_t<!std::is_integral_v<T>, int> = 0>
  Bytes(const std::vector<T>&) = delete;
  template <typename T, std::enable_if_t<is_no_pixel<T>, int> = 0>
  Bytes(const T* data) = delete;
  template <typename T, std::enable_if_t<is_no_pixel<T>, int> = 0>
  Bytes(const T* data, std::size_t size) = delete;

  const void* data() const { return data_; }
  std::size_t size() const { return size_; }  ///< 0 where it is not known

 private:
  const void* data_;
  std::size_t size_;
};

/// A picture in memory that somebody else owns, and that must outlive this; `stride` 0 means rows
/// without a gap. Pixels of a vector, or of {pointer, bytes}, are checked to be as many as said.
class Image {
 public:
  /// Whatever tame_image can say, such as planes of YUV that do not follow each other.
  explicit Image(const tame_image& image) : image_(image) { image_.struct_size = sizeof image_; }

  static Image rgb(Bytes pixels TAME_LIFETIMEBOUND, int width, int height, std::size_t stride = 0) {
    return of(TAME_RGB, pixels, width, height, stride);
  }
  static Image bgr(Bytes pixels TAME_LIFETIMEBOUND, int width, int height, std::size_t stride = 0) {
    return of(TAME_BGR, pixels, width, height, stride);
  }
  static Image gray(Bytes pixels TAME_LIFETIMEBOUND, int width, int height,
                    std::size_t stride = 0) {
    return of(TAME_GRAY, pixels, width, height, stride);
  }
  static Image rgba(Bytes pixels TAME_LIFETIMEBOUND, int width, int height,
                    std::size_t stride = 0) {
    return of(TAME_RGBA, pixels, width, height, stride);
  }
  static Image bgra(Bytes pixels TAME_LIFETIMEBOUND, int width, int height,
                    std::size_t stride = 0) {
    return of(TAME_BGRA, pixels, width, height, stride);
  }
  static Image rgbx(Bytes pixels TAME_LIFETIMEBOUND, int width, int height,
                    std::size_t stride = 0) {
    return of(TAME_RGBX, pixels, width, height, stride);
  }
  static Image bgrx(Bytes pixels TAME_LIFETIMEBOUND, int width, int height,
                    std::size_t stride = 0) {
    return of(TAME_BGRX, pixels, width, height, stride);
  }

  /// 16 bits a channel, in the machine's byte order.
  static Image gray16(Bytes pixels TAME_LIFETIMEBOUND, int width, int height,
                      std::size_t stride = 0) {
    return of(TAME_GRAY16, pixels, width, height, stride);
  }
  static Image rgb16(Bytes pixels TAME_LIFETIMEBOUND, int width, int height,
                     std::size_t stride = 0) {
    return of(TAME_RGB16, pixels, width, height, stride);
  }

  /// Channels of a network that takes neither grey nor RGB: `count` of them, interleaved.
  static Image channels(Bytes pixels TAME_LIFETIMEBOUND, int width, int height, int count,
                        std::size_t stride = 0) {
    return with_channels(TAME_CHANNELS, pixels, width, height, count, stride);
  }
  static Image channels16(Bytes pixels TAME_LIFETIMEBOUND, int width, int height, int count,
                          std::size_t stride = 0) {
    return with_channels(TAME_CHANNELS16, pixels, width, height, count, stride);
  }

  /// YUV whose planes follow each other.
  static Image nv12(Bytes planes TAME_LIFETIMEBOUND, int width, int height,
                    tame_color color = TAME_BT601_LIMITED, std::size_t stride = 0) {
    return of(TAME_NV12, planes, width, height, stride, color);
  }
  static Image i420(Bytes planes TAME_LIFETIMEBOUND, int width, int height,
                    tame_color color = TAME_BT601_LIMITED, std::size_t stride = 0) {
    return of(TAME_I420, planes, width, height, stride, color);
  }

  /// The bytes of a JPEG or PNG file.
  static Image encoded(const void* file, std::size_t size) {
    return of(TAME_ENCODED, {file, size}, 0, 0, 0);
  }
  static Image encoded(const std::vector<std::uint8_t>& file TAME_LIFETIMEBOUND) {
    return encoded(file.data(), file.size());
  }
  static Image encoded(const std::vector<std::uint8_t>&&) = delete;  // give the file's bytes a name
  template <typename T, std::enable_if_t<(sizeof(T) > 1), int> = 0>
  static Image encoded(const T* file, std::size_t size) = delete;  // a file consists of bytes

  const tame_image& get() const& TAME_LIFETIMEBOUND { return image_; }
  tame_image get() && { return image_; }

 private:
  static Image of(tame_format format, Bytes pixels TAME_LIFETIMEBOUND, int width, int height,
                  std::size_t stride, tame_color color = TAME_BT601_LIMITED) {
    tame_image image{};
    image.format = format;
    image.data = pixels.data();
    image.size = pixels.size();
    image.width = width;
    image.height = height;
    image.stride = stride;
    image.color = color;
    return Image(image);
  }

  static Image with_channels(tame_format format, Bytes pixels TAME_LIFETIMEBOUND, int width,
                             int height, int count, std::size_t stride) {
    Image made = of(format, pixels, width, height, stride);
    made.image_.channels = count;
    return made;
  }

  tame_image image_;
};

/// An RGB picture of its own, rows without a gap.
struct Picture {
  int width = 0;
  int height = 0;
  std::vector<std::uint8_t> pixels;

  operator Image() const& TAME_LIFETIMEBOUND { return Image::rgb(pixels, width, height); }
  operator Image() const&& = delete;  // gone at the end of the line: give the picture a name
};

/// Any picture as upright RGB.
inline Picture decode(const Image& image) {
  std::int32_t width = 0;
  std::int32_t height = 0;
  check(tame_image_size(&image.get(), &width, &height));
  Picture picture{width, height, {}};
  picture.pixels.resize(std::size_t{3} * static_cast<std::size_t>(width) *
                        static_cast<std::size_t>(height));
  check(tame_decode(&image.get(), picture.pixels.data(), picture.pixels.size(), 0));
  return picture;
}

/// The bytes of a file. Throws Error: TAME_INPUT_ERROR if it cannot be read.
inline std::vector<std::uint8_t> read_file(const std::string& path) {
  try {
    std::ifstream stream(path, std::ios::binary);
    if (stream) return {std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
  } catch (const std::ios_base::failure&) {  // a directory can be opened, and not be read
  }
  throw Error(TAME_INPUT_ERROR, path + ": no such file, or it cannot be read");
}

/// A JPEG or PNG file as upright RGB. Throws Error: TAME_INPUT_ERROR.
inline Picture read_picture(const std::string& path) {
  const std::vector<std::uint8_t> file = read_file(path);
  try {
    return decode(Image::encoded(file));
  } catch (const Error& error) {
    throw Error(error.status(), path + ": " + error.what());
  }
}

}  // namespace tame

#endif  // TAME_PICTURE_HPP
