// Explain a video or a camera with OpenCV: frames go in as they are (BGR), explained ones come out.
//
//   tame-video build/demo clip.mp4 out.avi     a file
//   tame-video build/demo 0 out.avi            the first camera, until Ctrl-C
#include <csignal>
#include <deque>
#include <iostream>
#include <opencv2/imgproc.hpp>
#include <opencv2/videoio.hpp>
#include <string>
#include <tame/tame.hpp>

namespace {

volatile std::sig_atomic_t stopped = 0;

cv::VideoCapture open_source(const std::string& name) {
  const bool camera = name.size() == 1 && name[0] >= '0' && name[0] <= '9';
  cv::VideoCapture source;
  if (camera ? source.open(name[0] - '0') : source.open(name)) return source;
  throw tame::Error(TAME_INPUT_ERROR, name + " cannot be opened as a video");
}

tame::Image image_of(const cv::Mat& frame) {
  return tame::Image::bgr(frame.data, frame.cols, frame.rows, frame.step);
}

/// The frame with its map, and the class and its probability in a corner.
cv::Mat drawn(const tame::Explainer& explainer, const cv::Mat& frame,
              const tame::Explanation& found) {
  tame::Picture shown = explainer.overlay(image_of(frame), found);
  const cv::Mat rgb(shown.height, shown.width, CV_8UC3, shown.pixels.data());
  cv::Mat bgr;
  cv::cvtColor(rgb, bgr, cv::COLOR_RGB2BGR);
  const tame::Score best = found.top(0).front();
  const std::string text = explainer.label(best.class_id) + " " +
                           std::to_string(static_cast<int>(100 * best.probability + 0.5F)) + " %";
  cv::putText(bgr, text, {8, 22}, cv::FONT_HERSHEY_SIMPLEX, 0.6, {0, 0, 0}, 3, cv::LINE_AA);
  cv::putText(bgr, text, {8, 22}, cv::FONT_HERSHEY_SIMPLEX, 0.6, {255, 255, 255}, 1, cv::LINE_AA);
  return bgr;
}

/// Read, explain and write at the same time; at most `capacity` frames are held.
int run(const std::string& artifact, const std::string& from, const std::string& to) {
  constexpr int capacity = 8;
  const tame::Explainer explainer(artifact);
  cv::VideoCapture source = open_source(from);
  const double rate = source.get(cv::CAP_PROP_FPS) > 0 ? source.get(cv::CAP_PROP_FPS) : 25;
  cv::VideoWriter writer;
  tame::Stream stream(explainer, {}, capacity, 4);
  std::deque<cv::Mat> frames;
  int written = 0;
  const auto take = [&] {
    auto found = stream.pop();
    if (!found) throw tame::Error(TAME_BACKEND_ERROR, "the stream ended early");
    const cv::Mat out = drawn(explainer, frames.front(), found->explanation);
    frames.pop_front();
    if (!writer.isOpened() &&
        !writer.open(to, cv::VideoWriter::fourcc('M', 'J', 'P', 'G'), rate, out.size())) {
      throw tame::Error(TAME_INPUT_ERROR, to + " cannot be written as a video");
    }
    writer.write(out);
    ++written;
  };
  for (cv::Mat frame; !stopped && source.read(frame);) {
    stream.push(image_of(frame));
    frames.push_back(frame.clone());
    if (frames.size() == capacity) take();
  }
  stream.finish();
  while (!frames.empty()) take();
  std::cout << written << " frames in " << to << "\n";
  return written > 0 ? 0 : 1;
}

}  // namespace

int main(int count, char** given) {
  if (count != 4) {
    std::cerr << "usage: tame-video ARTIFACT VIDEO_OR_CAMERA OUT.avi\n";
    return 2;
  }
  std::signal(SIGINT, [](int) { stopped = 1; });
  try {
    return run(given[1], given[2], given[3]);
  } catch (const tame::Error& error) {
    std::cerr << error.name() << ": " << error.what() << "\n";
    return 1;
  }
}
