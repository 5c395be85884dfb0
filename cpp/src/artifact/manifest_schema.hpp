// Which fields a manifest has: the dataclasses of tame_deploy/artifact/manifest.py and types.py as tables.
#pragma once

#include "artifact/decode.hpp"

namespace libtame {

constexpr int schema_version = 3;

/// GraphIdentity(…): the fields that fix what the graph means.
const Decoder& identity_decoder();

/// Manifest(…): it makes of an object what to_dict() gives in Python.
const Decoder& manifest_decoder();

}  // namespace libtame
