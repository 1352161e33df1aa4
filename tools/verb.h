// A verb of the command: one file, one function, one line in the table of verbs.cpp.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "engine/config/train_config.h"
#include "engine/core/error.h"
#include "kernels/api/backends.h"

namespace CLI {
class App;
}

namespace engine {

// What works with every verb, before or after it.
struct GlobalOptions {
  int verbosity = 0;  // -q is -1; each -v adds one
  ColorMode color = ColorMode::automatic;
  bool json_log = false;                                           // --log-format json
  int threads = 0;                                                 // --threads; 0 = not given
  kernels::MatmulBackend matmul = kernels::MatmulBackend::engine;  // --matmul
  kernels::AttentionBackend attention = kernels::AttentionBackend::engine;  // --attention
};

struct Invocation {
  std::vector<std::string> arguments;  // behind the verb, without global options
  GlobalOptions global;
};

struct Verb {
  const char* name;
  const char* summary;  // one line of `engine --help`
  ExitCode (*run)(Invocation&);
};

std::span<const Verb> verbs();

// Parses the arguments of `invocation` with `app`. True to go on; false when --help was answered.
// Mistakes are Errors with code CLI-USAGE.
bool parse_arguments(CLI::App& app, Invocation& invocation);

// Whether to colour what goes to standard output or standard error (1 or 2).
bool use_color(ColorMode mode, int descriptor);

}  // namespace engine
