// The processor: its name, and the instruction sets that inference libraries choose kernels by.
// The counterpart of tame_deploy/runtime/backends/processor.py: verdicts of both are in one cache.
#pragma once

#include <string>
#include <vector>

namespace libtame {

/// The processor as its maker names it.
std::string processor_name();

/// The kind of machine, such as "x86_64".
std::string machine_name();

/// Which instructions for arithmetic it has, in Linux's spelling and a fixed order; none where the
/// system does not say.
std::vector<std::string> instructions();

/// The processor and its instruction sets in words, such as "AMD EPYC (avx2 vnni)".
std::string processor_and_sets();

}  // namespace libtame
