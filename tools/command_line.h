// What is common to all verbs: global options, help, parsing with CLI11.
#pragma once

#include <string>
#include <vector>

#include "tools/verb.h"

namespace engine {

struct CommandLine {
  std::string verb;      // "" when there is none
  bool help = false;     // --help without a verb, or no arguments at all
  bool version = false;  // --version
  Invocation invocation;
};

// Sorts the arguments (without the program's name). Options behind "--" are left alone. Throws
// CLI-USAGE for a global option with a wrong or missing value.
CommandLine parse_command_line(const std::vector<std::string>& arguments);

// The verb with this name; throws CLI-VERB with the likeliest one.
const Verb& find_verb(const std::string& name);

// The one screen of `engine --help`.
std::string main_help();

// "engine 0.1.0 (1a2b3c4)"
std::string version_text();

}  // namespace engine
