// How many processors this process may use: of its affinity mask, and of its container's quota.
// The counterpart of tame_deploy/runtime/backends/cores.py, held to the same tests/golden/cores.json.
#pragma once

#include <filesystem>
#include <optional>

namespace libtame {

/// How many processors this process may use, at least 1. Part of a processor that a quota allows
/// counts as a whole one.
int usable_processors();

/// Likewise, but hardware threads of one core count as one: they share what multiplies.
int usable_cores();

/// How many threads a library is told to use for one operation on the CPU; 0 for none, where the
/// process may use the whole machine, whose cores every library counts well by itself.
///
/// `asked` is what the user asked for, 0 for nothing; more threads than processors are warned of.
int threads_for(int asked);

/// How many processors' time the process's cgroups allow, of version 1 or 2: the least of its own
/// and those above. `process` is the folder of /proc that describes it.
std::optional<double> cpu_quota(const std::filesystem::path& process = "/proc/self");

}  // namespace libtame
