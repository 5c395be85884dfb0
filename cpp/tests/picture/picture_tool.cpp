// Runs jobs on pictures for tests/cpp/test_pictures.py: one a line on stdin, their data in the file
// of the first argument. Each answers "ok" or "error", a number of bytes, a line end, and the
// bytes.
#include <cstring>
#include <fstream>
#include <iostream>
#include <iterator>
#include <sstream>

#include "error.hpp"
#include "picture/picture.hpp"
#include "warning.hpp"

namespace {

using namespace libtame;

std::string blob;

template <typename Value>
Value next(std::istream& job) {
  Value value;
  if (!(job >> value)) throw std::invalid_argument("job is cut off");
  return value;
}

template <typename Value>
std::string bytes_of(const std::vector<Value>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(Value)};
}

std::vector<float> next_map(std::istream& job, Size& size) {
  const auto offset = next<std::size_t>(job);
  size = {next<int>(job), next<int>(job)};
  std::vector<float> map(static_cast<std::size_t>(size[0]) * size[1]);
  std::memcpy(map.data(), blob.data() + offset, map.size() * sizeof(float));
  return map;
}

tame_image next_image(std::istream& job) {
  tame_image image{};
  image.data = blob.data() + next<std::size_t>(job);
  image.format = next<int>(job);
  image.width = next<int>(job);
  image.height = next<int>(job);
  image.stride = next<std::size_t>(job);
  if (image.format >= TAME_CHANNELS) image.channels = next<int>(job);
  if (image.format == TAME_ENCODED) image.size = image.stride;
  return named(image);
}

ImageSpec next_spec(std::istream& job) {
  ImageSpec spec;
  spec.height = next<int>(job);
  spec.width = next<int>(job);
  spec.resize = next<int>(job);
  const auto crop = next<std::string>(job);
  spec.crop = crop == "none" ? Crop::none : crop == "pad" ? Crop::pad : Crop::center;
  spec.interpolation = static_cast<Interpolation>(next<int>(job));
  const auto dtype = next<std::string>(job);
  spec.dtype = dtype == "float32"  ? InputType::float32
               : dtype == "uint16" ? InputType::uint16
                                   : InputType::uint8;
  const auto channels = next<std::size_t>(job);
  if (channels != 3) {
    spec.mean.assign(channels, 0.5);
    spec.std.assign(channels, 0.25);
  }
  spec.pad_level = next<int>(job);
  const int low = next<int>(job), high = next<int>(job);
  spec.window.reset();
  if (low < high) spec.window = {low, high};
  return spec;
}

std::string decode(std::istream& job) {
  const auto offset = next<std::size_t>(job);
  const auto size = next<std::size_t>(job);
  // A copy of its own, so that a sanitizer sees what is read beyond the end.
  const std::string file = blob.substr(offset, size);
  const Size head = decoded_size(file.data(), file.size());
  Reading reading;
  if (job >> reading.low >> reading.high) reading.windowed = true;
  if (!reading.windowed) reading = {};
  const Picture picture = decode_picture(file.data(), file.size(), reading);
  if (head != Size{picture.width, picture.height}) fail(TAME_ERROR, "sizes differ");
  return words(picture.width, " ", picture.height, "\n") + bytes_of(picture.pixels);
}

/// What decoding a file warns of.
std::string warning(std::istream& job) {
  last_warning[0] = '\0';
  decode(job);
  return last_warning;
}

std::string prepared(std::istream& job) {
  const tame_image image = next_image(job);
  const ImageSpec spec = next_spec(job);
  std::vector<std::uint8_t> out(spec.input_bytes(), 77);  // padding must be written, too
  Reading reading;
  reading.deep = spec.dtype == InputType::uint16;
  prepare_input(image, reading, spec, out.data());
  return bytes_of(out);
}

/// An image as it shows for a network of 16 bits.
std::string shown(std::istream& job) {
  const tame_image image = next_image(job);
  Reading reading;
  reading.deep = true;
  std::string found;
  with_pixels(image, reading, [&](const PixelView& view) {
    for (int y = 0; y < view.height; ++y) {
      const auto* row = reinterpret_cast<const char*>(view.data) + y * view.stride;
      found.append(row, std::size_t{3} * view.width);
    }
  });
  return found;
}

/// Pixels of any kind as RGB: an image, its colour, its planes of chroma, and a window if there is
/// one.
std::string rgb(std::istream& job) {
  tame_image image = next_image(job);
  image.color = next<int>(job);
  for (const void*& plane : image.chroma) {
    const auto offset = next<std::ptrdiff_t>(job);
    plane = offset < 0 ? nullptr : blob.data() + offset;
  }
  image.chroma_stride = next<std::size_t>(job);
  Reading reading;
  if (job >> reading.low >> reading.high) reading.windowed = true;
  if (!reading.windowed) reading = {};
  std::string found;
  with_pixels(image, reading, [&](const PixelView& view) {
    const auto* first = reinterpret_cast<const char*>(view.data);
    found.assign(first, std::size_t{3} * view.width * view.height);
  });
  return found;
}

std::string blended(std::istream& job) {
  const tame_image image = next_image(job);
  Size size;
  const std::vector<float> heat = next_map(job, size);
  Box box;
  for (double& side : box) side = next<double>(job);
  const auto strength = next<double>(job);
  const bool is_signed = next<int>(job) != 0;
  const std::size_t stride = std::size_t{3} * image.width;
  std::vector<std::uint8_t> out(stride * image.height);
  with_pixels(image, {}, [&](const PixelView& view) {
    blend(view, heat.data(), size, box, strength, out.data(), stride, is_signed);
  });
  return bytes_of(out);
}

std::string resized(std::istream& job) {
  Size size;
  const std::vector<float> map = next_map(job, size);
  const Size to{next<int>(job), next<int>(job)};
  std::vector<float> out(static_cast<std::size_t>(to[0]) * to[1]);
  resize_map(map.data(), size, out.data(), to);
  return bytes_of(out);
}

std::string stretch(std::istream& job) {
  Size size;
  const std::vector<float> map = next_map(job, size);
  const auto kind = static_cast<MapKind>(next<int>(job));
  return bytes_of(stretched(map.data(), map.size(), kind, next<int>(job) != 0));
}

std::string box(std::istream& job) {
  const Size size{next<int>(job), next<int>(job)};
  const Box box = visible_box(size, next_spec(job));
  return {reinterpret_cast<const char*>(box.data()), sizeof box};
}

std::string answer(std::istream& job) {
  const auto name = next<std::string>(job);
  if (name == "decode") return decode(job);
  if (name == "prepare") return prepared(job);
  if (name == "rgb") return rgb(job);
  if (name == "shown") return shown(job);
  if (name == "blend") return blended(job);
  if (name == "map") return resized(job);
  if (name == "stretch") return stretch(job);
  if (name == "box") return box(job);
  if (name == "warning") return warning(job);
  throw std::invalid_argument("unknown job " + name);
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 2) return 2;
  std::ifstream file(arguments[1], std::ios::binary);
  blob.assign(std::istreambuf_iterator<char>(file), {});
  for (std::string line; std::getline(std::cin, line);) {
    std::istringstream job(line);
    std::string status = "ok", text;
    try {
      text = answer(job);
    } catch (const Failure& failure) {
      status = failure.status() == TAME_INPUT_ERROR ? "error" : "fault";
      text = failure.what();
    }
    std::cout << status << ' ' << text.size() << '\n' << text;
  }
}
