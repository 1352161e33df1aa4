// --device of the verbs that run a model.
#pragma once

#include <CLI/CLI.hpp>
#include <string>

#include "engine/core/device.h"
#include "tools/verb.h"

namespace engine {

// `name` begins as "auto".
void add_device_option(CLI::App& app, std::string& name);

// choose_device(), and what its user should know on standard error (not with -q).
kernels::Stream device_of(const std::string& name, const Invocation& invocation);

}  // namespace engine
