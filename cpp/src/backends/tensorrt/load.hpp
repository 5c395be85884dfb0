// The plugin as libtame finds it.
#pragma once

#include "backends/backend.hpp"
#include "plugin.hpp"

namespace libtame {

/// The plugin for the backend that the options name. Throws Failure: TAME_NOT_INSTALLED_ERROR with
/// every place looked at; TAME_INCOMPATIBLE_ERROR for another version's or flavour's.
const tame_plugin& load_plugin(const Options& options);

}  // namespace libtame
