#include "explainer.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "artifact/contrast.hpp"
#include "error.hpp"
#include "output.hpp"
#include "probabilities.hpp"

namespace libtame {
namespace {

/// a * b, where the caller's sizes could overflow it.
std::size_t product(std::size_t a, std::size_t b) {
  if (b != 0 && a > std::numeric_limits<std::size_t>::max() / sizeof(double) / b) {
    fail(TAME_INPUT_ERROR, "so many pictures and classes do not fit into memory");
  }
  return a * b;
}

void check_finite(const std::vector<float>& logits) {
  const auto finite = [](float value) { return std::isfinite(value); };
  if (!std::all_of(logits.begin(), logits.end(), finite)) {
    fail(TAME_BACKEND_ERROR, "the network gave NaN or infinite logits; its weights are no good");
  }
}

/// Replace the maps by bilinearly resized ones.
void resize_maps(Explanation& explanation, int width, int height) {
  const std::size_t maps = product(explanation.count, explanation.explained);
  const std::size_t before = explanation.map_height * explanation.map_width;
  const std::size_t after = product(static_cast<std::size_t>(width), height);
  std::vector<float> resized(product(maps, after));
  const Size size{static_cast<int>(explanation.map_width),
                  static_cast<int>(explanation.map_height)};
  for (std::size_t index = 0; index < maps; ++index) {
    resize_map(explanation.maps.data() + index * before, size, resized.data() + index * after,
               {width, height});
  }
  explanation.maps = std::move(resized);
  explanation.map_width = static_cast<std::size_t>(width);
  explanation.map_height = static_cast<std::size_t>(height);
}

/// What the graph says that it explained, as classes and what they are contrasted with.
void tell_apart(Explanation& explanation) {
  const auto classes = static_cast<std::int64_t>(explanation.classes);
  for (std::size_t index = 0; index < explanation.class_ids.size(); ++index) {
    const Question told = decode_contrast(explanation.class_ids[index], classes);
    explanation.class_ids[index] = told.own;
    explanation.versus_ids[index] = told.versus;
  }
}

std::string lowered(std::string text) {
  const auto first = text.find_first_not_of(" \t\r\n");
  const auto last = text.find_last_not_of(" \t\r\n");
  text = first == std::string::npos ? "" : text.substr(first, last - first + 1);
  for (char& letter : text) {
    if (letter >= 'A' && letter <= 'Z') letter = static_cast<char>(letter - 'A' + 'a');
  }
  return text;
}

}  // namespace

Explanation Explanation::one(std::size_t index) const {
  const std::size_t map_size = explained * map_height * map_width;
  const auto row = [index](const auto& values, std::size_t width) {
    const auto first = values.begin() + static_cast<std::ptrdiff_t>(index * width);
    return std::decay_t<decltype(values)>(first, first + static_cast<std::ptrdiff_t>(width));
  };
  Explanation alone{1, classes, explained, map_height, map_width, map_kind, task, {}, {}, {}, {}};
  alone.logits = row(logits, classes);
  alone.class_ids = row(class_ids, explained);
  alone.maps = row(maps, map_size);
  alone.versus_ids = row(versus_ids, explained);
  return alone;
}

bool Explanation::is_contrast(std::size_t index, std::size_t place) const {
  return versus_ids[index * explained + place] != alone_id;
}

const float* Explanation::map(std::size_t index, std::size_t place) const {
  if (index >= count || place >= explained) {
    fail(TAME_INPUT_ERROR, "there is no map ", place, " of picture ", index,
         "; this explanation has ", count, " pictures with ", explained, " maps each");
  }
  return maps.data() + (index * explained + place) * map_height * map_width;
}

void Explanation::top(std::size_t index, std::size_t wanted, tame_score* out) const {
  if (index >= count || wanted < 1 || wanted > classes) {
    fail(TAME_INPUT_ERROR, "found picture ", index, " and ", wanted, " classes; expected one of ",
         count, " pictures, and 1 to ", classes, " classes");
  }
  const float* scores = logits.data() + index * classes;
  const std::vector<double> shares = probabilities(scores, classes, task);
  std::vector<std::size_t> order(classes);
  std::iota(order.begin(), order.end(), std::size_t{0});
  const auto likelier = [&](std::size_t a, std::size_t b) {
    return scores[a] > scores[b] || (scores[a] == scores[b] && a < b);
  };
  const auto last = order.begin() + static_cast<std::ptrdiff_t>(wanted);
  std::partial_sort(order.begin(), last, order.end(), likelier);
  for (std::size_t place = 0; place < wanted; ++place) {
    out[place] = {static_cast<std::int64_t>(order[place]),
                  static_cast<float>(shares[order[place]])};
  }
}

/// How pictures are read for a network: one of 16 bits takes all of them, in its own window.
Reading reading_for(const ImageSpec& image, Reading reading) {
  reading.deep = image.dtype == InputType::uint16;
  if (!reading.deep || !reading.windowed) return reading;
  const std::string own =
      image.window ? words((*image.window)[0], ",", (*image.window)[1]) : "each picture's own";
  fail(TAME_INPUT_ERROR, "found window ", reading.low, ",", reading.high,
       " for pictures; the graph has its own (", own,
       "), so leave it out, or export with another --window");
}

Explainer::Explainer(const std::string& path, const Options& options, const Reading& reading)
    : artifact_(open_artifact(path)),
      reading_(reading_for(artifact_.manifest.image, reading)),
      backend_(open_backend(artifact_, options)),
      backend_name_(backend_->name()),
      backend_version_(backend_->version()),
      preparers_(options.threads) {}

Explanation Explainer::explain(const tame_image* images, std::size_t count,
                               const Asked& asked) const {
  const std::size_t bytes = manifest().image.input_bytes();
  const auto step = static_cast<std::size_t>(asked.batch_size);
  std::vector<std::uint8_t> tensors;
  Preparing preparing(preparers_, count, step, [&](std::size_t index) {
    try {
      prepare(images[index], tensors.data() + preparing.place(index) * bytes);
    } catch (const Failure& failure) {
      fail(failure.status(), "picture ", index, ": ", failure.what());
    }
    if (last_warning[0] != '\0') warn(words("picture ", index, ": ", last_warning));
  });
  tensors.resize(product(bytes, preparing.places()));
  return run(count, asked, [&](std::size_t first, std::size_t) {
    preparing.wait_for_batch(first);
    return static_cast<const void*>(tensors.data() + preparing.place(first) * bytes);
  });
}

Explanation Explainer::explain_prepared(const void* tensor, std::size_t count,
                                        const Asked& asked) const {
  const auto* bytes = static_cast<const std::uint8_t*>(tensor);
  return run(count, asked, [&](std::size_t first, std::size_t) {
    return static_cast<const void*>(bytes + first * manifest().image.input_bytes());
  });
}

Explanation Explainer::run(std::size_t count, const Asked& asked, const Batch& batch) const {
  check_map_size(asked);
  const Chosen chosen = choose_classes(manifest(), asked, count);
  Explanation found = shaped(count, chosen.count);
  const auto step = static_cast<std::size_t>(asked.batch_size);
  std::vector<std::int64_t> ids(product(std::min(count, step), chosen.count));
  for (std::size_t first = 0; first < count; first += step) {
    const std::size_t pictures = std::min(step, count - first);
    Call call;
    call.count = static_cast<std::int64_t>(pictures);
    call.explained = static_cast<std::int64_t>(chosen.count);
    call.images = batch(first, pictures);
    if (!chosen.rows.empty()) {
      chosen.write(first, pictures, ids.data());
      call.class_ids = ids.data();
    }
    call.logits = found.logits.data() + first * found.classes;
    call.explained_ids = found.class_ids.data() + first * found.explained;
    call.maps = found.maps.data() + first * found.explained * found.map_height * found.map_width;
    backend_->run(call);
  }
  check_finite(found.logits);
  tell_apart(found);
  if (asked.map_width > 0) resize_maps(found, asked.map_width, asked.map_height);
  return found;
}

Explanation Explainer::shaped(std::size_t count, std::size_t explained) const {
  const auto [height, width] = manifest().map_size();
  Explanation made;
  made.count = count;
  made.classes = static_cast<std::size_t>(manifest().classes);
  made.explained = explained;
  made.map_height = static_cast<std::size_t>(height);
  made.map_width = static_cast<std::size_t>(width);
  made.map_kind = manifest().maps;
  made.task = manifest().task;
  made.logits.resize(product(count, made.classes));
  made.class_ids.resize(product(count, explained));
  made.versus_ids.resize(product(count, explained), alone_id);
  made.maps.resize(product(product(count, explained), made.map_height * made.map_width));
  return made;
}

void Explainer::prepare(const tame_image& image, void* tensor) const {
  prepare_input(image, reading_, manifest().image, tensor);
}

void Explainer::overlay(const tame_image& image, const Explanation& explanation, std::size_t index,
                        std::size_t place, double strength, std::uint8_t* rgb, std::size_t size,
                        std::size_t stride) const {
  if (!(strength >= 0 && strength <= 1)) {
    fail(TAME_INPUT_ERROR, "strength is ", strength, "; expected 0 to 1");
  }
  const float* map = explanation.map(index, place);
  const bool is_contrast = explanation.is_contrast(index, place);
  const std::vector<float> heat = stretched(map, explanation.map_height * explanation.map_width,
                                            explanation.map_kind, is_contrast);
  const Size heat_size{static_cast<int>(explanation.map_width),
                       static_cast<int>(explanation.map_height)};
  with_pixels(image, reading_, [&](const PixelView& pixels) {
    const std::size_t row = checked_output(rgb, size, stride, {pixels.width, pixels.height});
    const Box box = visible_box({pixels.width, pixels.height}, manifest().image);
    blend(pixels, heat.data(), heat_size, box, strength, rgb, row, is_contrast);
  });
}

const std::string& Explainer::label(std::int64_t class_id) const {
  if (class_id < 0 || class_id >= manifest().classes) {
    fail(TAME_INPUT_ERROR, "class id ", class_id, " is out of range; expected 0 to ",
         manifest().classes - 1);
  }
  return artifact_.labels[static_cast<std::size_t>(class_id)];
}

std::int64_t Explainer::class_id(const std::string& label) const {
  const std::string wanted = lowered(label);
  std::vector<std::size_t> matches;
  for (std::size_t id = 0; id < artifact_.labels.size(); ++id) {
    if (lowered(artifact_.labels[id]) == wanted) matches.push_back(id);
  }
  if (matches.size() == 1) return static_cast<std::int64_t>(matches.front());
  if (matches.empty()) {
    fail(TAME_INPUT_ERROR, "no class is called '", label, "'. See labels.txt in the artifact");
  }
  std::string ids;
  for (const std::size_t id : matches) ids += (ids.empty() ? "" : ", ") + std::to_string(id);
  fail(TAME_INPUT_ERROR, "classes [", ids, "] are all called '", label, "'; name one by its id");
}

}  // namespace libtame
