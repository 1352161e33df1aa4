// The verbs. Adding one: its file, a declaration here and a line in verbs.cpp.
#pragma once

#include "tools/verb.h"

namespace engine {

ExitCode run_train(Invocation& invocation);
ExitCode run_config(Invocation& invocation);
ExitCode run_env(Invocation& invocation);

}  // namespace engine
