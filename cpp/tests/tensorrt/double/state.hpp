// The simulated GPU's insides, behind one lock.
#pragma once

#include <functional>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "double.hpp"

namespace tame_double {

using Work = std::function<void()>;

/// Makes a work when it is queued: a graph's anew at each launch.
using Operation = std::function<Work()>;

using Handle = const void*;

struct Block {
  std::vector<unsigned char> room;
  std::size_t size = 0;
  int device = 0;
  bool host = false;
};

struct Queue {
  std::vector<Work> waiting;
  std::size_t done = 0;
  bool own_work_only = false;  // made with cudaStreamNonBlocking
};

struct Capture {
  std::vector<Operation> operations;
  std::thread::id thread;
  bool broken = false;
};

/// Executions that share scratch memory must come one after the other, in whichever streams.
struct Scratch {
  std::uint64_t issued = 0;
  std::uint64_t finished = 0;
};

struct State {
  std::recursive_mutex lock;
  Settings settings;
  std::map<Handle, Block> blocks;
  std::map<Handle, Queue> streams;
  std::map<Handle, std::pair<Handle, std::size_t>> events;
  std::map<Handle, std::vector<Operation>> graphs;
  std::map<Handle, Capture> capturing;
  std::map<Handle, Scratch> scratches;
  std::set<Handle> contexts;
  std::set<Handle> engines;
  std::map<std::string, int> calls;
  std::map<std::string, std::pair<int, cudaError_t>> faults;
  std::vector<std::string> complaints;
  std::uintptr_t next = 4096;

  Handle number() { return reinterpret_cast<Handle>(next += 16); }
  void complain(const std::string& text) { complaints.push_back(text); }

  /// Whether an address lies in memory that is there.
  bool holds(const void* address, std::size_t size) const;
};

State& state();

/// Queue work on a stream, or record it where the stream is captured.
void push(Handle stream, const Operation& operation);

/// Do a stream's work, up to a point.
void drain(Handle stream, std::size_t until);

/// The device of this thread, and the last error that CUDA keeps for it.
int& thread_device();
cudaError_t& last_error();

}  // namespace tame_double
