// tame.h: explaining, explanations and GPU memory.
#include "boundary.hpp"

namespace libtame {
namespace {

constexpr std::size_t most_pictures = 1'000'000;

void check_count(std::size_t count) {
  if (count < 1 || count > most_pictures) {
    fail(TAME_INPUT_ERROR, "found ", count, " pictures; expected 1 to ", most_pictures);
  }
}

tame_explanation* added(Explanation&& explanation) {
  return explanations().add(std::make_shared<const Explanation>(std::move(explanation)));
}

tame_view view_of(const Explanation& explanation) {
  tame_view view{};
  view.logits = explanation.logits.data();
  view.class_ids = explanation.class_ids.data();
  view.maps = explanation.maps.data();
  view.count = explanation.count;
  view.classes = explanation.classes;
  view.explained = explanation.explained;
  view.map_height = explanation.map_height;
  view.map_width = explanation.map_width;
  view.versus_ids = explanation.versus_ids.data();
  return view;
}

}  // namespace
}  // namespace libtame

extern "C" {

using namespace libtame;

tame_status tame_explain(tame_explainer* explainer, const tame_image* images, size_t count,
                         const tame_request* request, tame_explanation** explanation) {
  return guarded([&] {
    *checked_pointer(explanation, "explanation") = nullptr;
    const auto opened = explainers().get(explainer);
    check_count(count);
    const std::vector<tame_image> given = checked_images(images, count);
    *explanation = added(opened->explain(given.data(), count, checked_request(request, count)));
  });
}

tame_status tame_explain_prepared(tame_explainer* explainer, const void* tensor, size_t size,
                                  size_t count, const tame_request* request,
                                  tame_explanation** explanation) {
  return guarded([&] {
    *checked_pointer(explanation, "explanation") = nullptr;
    const auto opened = explainers().get(explainer);
    check_count(count);
    const ImageSpec& spec = opened->manifest().image;
    if (spec.dtype == InputType::float32) {
      checked_pointer(static_cast<const float*>(tensor), "tensor");
    } else if (spec.dtype == InputType::uint16) {
      checked_pointer(static_cast<const uint16_t*>(tensor), "tensor");
    }
    checked_pointer(static_cast<const char*>(tensor), "tensor");
    if (size != count * spec.input_bytes()) {
      fail(TAME_INPUT_ERROR, "found ", size, " bytes for ", count,
           " pictures of the network; "
           "expected ",
           count * spec.input_bytes());
    }
    *explanation = added(opened->explain_prepared(tensor, count, checked_request(request, count)));
  });
}

tame_status tame_explanation_view(const tame_explanation* explanation, tame_view* view) {
  return keeping_warning(
      [&] { write_struct(view, view_of(*explanations().get(explanation)), "tame_view"); });
}

tame_status tame_explanation_top(const tame_explanation* explanation, size_t index, size_t count,
                                 tame_score* scores) {
  return keeping_warning([&] {
    explanations().get(explanation)->top(index, count, checked_pointer(scores, "scores"));
  });
}

tame_status tame_explanation_free(tame_explanation* explanation) {
  return keeping_warning([&] {
    if (explanation) explanations().take(explanation);
  });
}

tame_status tame_run_on_device(tame_explainer* explainer, const tame_device_call* call) {
  return guarded([&] {
    const auto opened = explainers().get(explainer);
    checked_pointer(call, "call");
    opened->backend().run_on_device(checked_struct(call, "tame_device_call"));
  });
}

}  // extern "C"
