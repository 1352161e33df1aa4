// The verbs. Adding one: its file, a declaration here and a line in verbs.cpp.
#pragma once

#include "tools/verb.h"

namespace engine {

ExitCode run_train(Invocation& invocation);
ExitCode run_generate(Invocation& invocation);
ExitCode run_eval(Invocation& invocation);
ExitCode run_tokenize(Invocation& invocation);
ExitCode run_tokenize_train(Invocation& invocation);  // `tokenize train`
ExitCode run_convert(Invocation& invocation);
ExitCode run_inspect(Invocation& invocation);
ExitCode run_dump(Invocation& invocation);
ExitCode run_bench(Invocation& invocation);
ExitCode run_config(Invocation& invocation);
ExitCode run_env(Invocation& invocation);

}  // namespace engine
