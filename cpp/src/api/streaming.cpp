// tame.h: streams.
#include "boundary.hpp"

namespace libtame {
namespace {

constexpr int default_capacity = 32;
constexpr int most_capacity = 65536;

tame_status status_of(Waited waited) {
  return waited == Waited::done ? TAME_OK : waited == Waited::ended ? TAME_END : TAME_TIMED_OUT;
}

void close(const tame_stream* stream) {
  // NULL where it ended with its explainer.
  if (const auto closed = streams().take(stream)) closed->close();
}

}  // namespace
}  // namespace libtame

extern "C" {

using namespace libtame;

tame_status tame_stream_open(tame_explainer* explainer, const tame_request* request,
                             const tame_stream_options* options, tame_stream** stream) {
  return guarded([&] {
    *checked_pointer(stream, "stream") = nullptr;
    const auto opened = explainers().get(explainer);
    const tame_stream_options given = checked_struct(options, "tame_stream_options");
    Asked asked = checked_request(request, 1);
    asked.batch_size =
        checked_number(given.batch_size, asked.batch_size, most_capacity, "batch_size");
    const int capacity =
        checked_number(given.capacity, default_capacity, most_capacity, "capacity");
    tame_stream* made = streams().add(
        std::make_shared<Stream>(opened, std::move(asked), static_cast<std::size_t>(capacity)));
    // Closed meanwhile, the explainer did not know of this stream.
    if (!explainers().has(explainer)) {
      libtame::close(made);
      explainers().get(explainer);  // says so
    }
    *stream = made;
  });
}

tame_status tame_stream_push(tame_stream* stream, const tame_image* image, int64_t timeout_ms,
                             uint64_t* index) {
  return guarded([&] {
    const auto opened = streams().get(stream);
    if (index) checked_pointer(index, "index");
    return status_of(opened->push(checked_image(image), timeout_ms, index));
  });
}

tame_status tame_stream_finish(tame_stream* stream) {
  return guarded([&] { streams().get(stream)->finish(); });
}

tame_status tame_stream_pop(tame_stream* stream, int64_t timeout_ms, uint64_t* index,
                            tame_explanation** explanation) {
  return guarded([&] {
    *checked_pointer(explanation, "explanation") = nullptr;
    if (index) checked_pointer(index, "index");
    Streamed found;
    const Waited waited = streams().get(stream)->pop(timeout_ms, found);
    if (waited != Waited::done) return status_of(waited);
    if (index) *index = found.index;
    if (found.error) std::rethrow_exception(found.error);
    *explanation =
        explanations().add(std::make_shared<const Explanation>(std::move(found.explanation)));
    return TAME_OK;
  });
}

tame_status tame_stream_close(tame_stream* stream) {
  return keeping_warning([&] {
    if (stream) libtame::close(stream);
  });
}

}  // extern "C"
