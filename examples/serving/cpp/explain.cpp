// Explains a picture by a server: explain PICTURE [HOST:PORT] [MODEL]
//
// The file goes as it is; the server decodes and prepares it as the manifest says.
#include <grpcpp/grpcpp.h>

#include <chrono>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <iostream>
#include <iterator>
#include <string>

#include "open_inference.grpc.pb.h"

namespace {

// Byte strings travel behind their length, four bytes, little-endian.
std::string with_length(const std::string& bytes) {
  std::string found;
  for (int shift = 0; shift < 32; shift += 8) {
    found.push_back(static_cast<char>(bytes.size() >> shift & 0xff));
  }
  return found + bytes;
}

std::string read_file(const std::string& path) {
  std::ifstream stream(path, std::ios::binary);
  if (!stream) throw std::runtime_error("cannot read " + path);
  return {std::istreambuf_iterator<char>(stream), {}};
}

inference::ModelInferRequest make_request(const std::string& model, const std::string& file) {
  inference::ModelInferRequest request;
  request.set_model_name(model);
  auto* image = request.add_inputs();
  image->set_name("image");
  image->set_datatype("BYTES");
  image->add_shape(1);
  request.add_raw_input_contents(with_length(file));
  auto* logits = request.add_outputs();
  logits->set_name("logits");
  (*logits->mutable_parameters())["classification"].set_int64_param(3);
  request.add_outputs()->set_name("maps");
  request.add_outputs()->set_name("overlay");
  return request;
}

// Returns the byte strings of a raw BYTES tensor.
std::vector<std::string> strings_of(const std::string& raw) {
  std::vector<std::string> found;
  for (std::size_t place = 0; place + 4 <= raw.size();) {
    std::uint32_t length = 0;
    for (int byte = 3; byte >= 0; --byte) {
      length = length << 8 | static_cast<unsigned char>(raw[place + byte]);
    }
    found.push_back(raw.substr(place + 4, length));
    place += 4 + length;
  }
  return found;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) {
    std::cerr << "usage: explain PICTURE [HOST:PORT] [MODEL]\n";
    return 2;
  }
  const std::string address = argc > 2 ? argv[2] : "localhost:8001";
  const std::string model = argc > 3 ? argv[3] : "demo";
  try {
    grpc::ChannelArguments arguments;
    arguments.SetMaxReceiveMessageSize(-1);
    auto channel =
        grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments);
    auto stub = inference::GRPCInferenceService::NewStub(channel);
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(30));
    inference::ModelInferResponse answer;
    const auto status = stub->ModelInfer(&context, make_request(model, read_file(argv[1])), &answer);
    if (!status.ok()) throw std::runtime_error(status.error_message());
    for (const auto& line : strings_of(answer.raw_output_contents(0))) {
      std::cout << line << "  (logit:class:name)\n";
    }
    const auto& shape = answer.outputs(1).shape();
    std::cout << "map of " << shape[2] << "x" << shape[3] << ", in [0, 1]\n";
    std::ofstream("explained.png", std::ios::binary) << strings_of(answer.raw_output_contents(2))[0];
    std::cout << "wrote explained.png\n";
  } catch (const std::exception& error) {
    std::cerr << "error: " << error.what() << "\n";
    return 1;
  }
}
