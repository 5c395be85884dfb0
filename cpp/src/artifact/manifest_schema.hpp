// Which fields a manifest has: the dataclasses of tame_deploy/artifact/manifest.py and types.py as tables.
#pragma once

#include <vector>

#include "artifact/decode.hpp"
#include "artifact/manifest.hpp"

namespace libtame {

constexpr int schema_version = 4;

/// GraphIdentity(…): the fields that fix what the graph means.
const Decoder& identity_decoder();

/// Manifest(…): it makes of an object what to_dict() gives in Python.
const Decoder& manifest_decoder();

/// What a list of tensors says that a decoder let through.
std::vector<TensorSpec> tensor_specs(const Value& tensors);

}  // namespace libtame
