#include "tools/command_line.h"

#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <charconv>
#include <cstdio>
#include <cstdlib>

namespace engine {
namespace {

constexpr int kMaxThreads = 4096;

Error usage_error(std::string what) {
  return Error(ExitCode::usage, "CLI-USAGE", std::move(what));
}

constexpr const char* kGlobalHelp =
    "Everywhere:\n"
    "  -q, -v                      say less, say more\n"
    "  --color auto|always|never   NO_COLOR is honoured\n"
    "  --log-format text|json      json: errors and progress as one JSON object per line\n"
    "  --threads N                 CPU threads\n"
    "  --matmul engine|cublas|auto matrix products on CUDA: ours, cuBLASLt's, the faster per "
    "shape\n"
    "  --attention engine|mma|cudnn|auto\n"
    "                              attention on CUDA: ours, ours without wgmma, cuDNN's, the "
    "faster "
    "per shape\n"
    "  -h, --help                  of the program or of a verb\n"
    "  --version\n";

// The value of "--name value" or "--name=value" at `i`, which moves on to it.
std::string option_value(const std::vector<std::string>& arguments, size_t& i,
                         const std::string& name) {
  const std::string& argument = arguments[i];
  if (argument.size() > name.size()) return argument.substr(name.size() + 1);
  if (i + 1 >= arguments.size()) throw usage_error(name + " needs a value");
  return arguments[++i];
}

bool is_option(const std::string& argument, const std::string& name) {
  return argument == name || argument.starts_with(name + "=");
}

ColorMode parse_color(const std::string& value) {
  if (value == "auto") return ColorMode::automatic;
  if (value == "always") return ColorMode::always;
  if (value == "never") return ColorMode::never;
  throw usage_error("--color cannot be " + value).expected("auto, always or never");
}

int parse_threads(const std::string& value) {
  int threads = 0;
  const auto [rest, status] = std::from_chars(value.data(), value.data() + value.size(), threads);
  if (status != std::errc() || rest != value.data() + value.size() || threads < 1 ||
      threads > kMaxThreads) {
    throw usage_error("--threads cannot be " + value).expected(fmt::format("1 to {}", kMaxThreads));
  }
  return threads;
}

kernels::MatmulBackend parse_matmul(const std::string& value) {
  try {
    const kernels::MatmulBackend backend = kernels::parse_matmul_backend(value);
    if (backend != kernels::MatmulBackend::engine && !kernels::has_cublas()) {
      throw usage_error("--matmul " + value + ": this build has no cuBLASLt")
          .fix("configure with the preset cuda, where the CUDA toolkit has cuBLAS");
    }
    return backend;
  } catch (const std::invalid_argument&) {
    throw usage_error("--matmul cannot be " + value).expected("engine, cublas or auto");
  }
}

kernels::AttentionBackend parse_attention(const std::string& value) {
  try {
    const kernels::AttentionBackend backend = kernels::parse_attention_backend(value);
    if (kernels::needs_cudnn(backend) && !kernels::has_cudnn()) {
      throw usage_error("--attention " + value + ": this build has no cuDNN")
          .fix("configure with the preset cuda, where there is cuDNN 9.10 or newer");
    }
    return backend;
  } catch (const std::invalid_argument&) {
    throw usage_error("--attention cannot be " + value).expected("engine, mma, cudnn or auto");
  }
}

void collect_options(const CLI::App& app, std::vector<std::string>& names) {
  for (const CLI::Option* option : app.get_options()) {
    for (const std::string& name : option->get_lnames()) names.push_back("--" + name);
  }
  for (const CLI::App* sub : app.get_subcommands({})) collect_options(*sub, names);
}

// A mistake that CLI11 found, with what was probably meant.
Error explained(std::string what, const CLI::App& app, const Invocation& invocation) {
  while (!what.empty() && what.back() == '\n') what.pop_back();
  std::vector<std::string> subcommands, options;
  for (const CLI::App* sub : app.get_subcommands({})) subcommands.push_back(sub->get_name());
  const std::string first = invocation.arguments.empty() ? "" : invocation.arguments.front();
  if (!subcommands.empty() && !first.empty() && !first.starts_with("-") &&
      std::find(subcommands.begin(), subcommands.end(), first) == subcommands.end()) {
    Error error = usage_error("there is no `" + app.get_name() + " " + first + "`");
    error.expected(fmt::format("{}", fmt::join(subcommands, ", ")));
    const std::string near = nearest_word(first, subcommands);
    return near.empty() ? error : error.fix("did you mean " + app.get_name() + " " + near + "?");
  }
  collect_options(app, options);
  for (const std::string& argument : invocation.arguments) {
    const std::string name = argument.substr(0, argument.find('='));
    if (!name.starts_with("--") ||
        std::find(options.begin(), options.end(), name) != options.end()) {
      continue;
    }
    const std::string near = nearest_word(name, options);
    if (!near.empty()) return usage_error(what).fix("did you mean " + near + "?");
  }
  return usage_error(what).fix(app.get_name() + " --help");
}

}  // namespace

CommandLine parse_command_line(const std::vector<std::string>& arguments) {
  CommandLine line;
  GlobalOptions& global = line.invocation.global;
  std::vector<std::string>& rest = line.invocation.arguments;
  for (size_t i = 0; i < arguments.size(); ++i) {
    const std::string& argument = arguments[i];
    const bool before_verb = line.verb.empty();
    if (argument == "--") {
      rest.insert(rest.end(), arguments.begin() + static_cast<ptrdiff_t>(i), arguments.end());
      break;
    }
    if (argument == "-q" || argument == "--quiet") {
      global.verbosity = -1;
    } else if (argument == "-v" || argument == "-vv" || argument == "--verbose") {
      global.verbosity += argument == "-vv" ? 2 : 1;
    } else if (is_option(argument, "--color")) {
      global.color = parse_color(option_value(arguments, i, "--color"));
    } else if (is_option(argument, "--threads")) {
      global.threads = parse_threads(option_value(arguments, i, "--threads"));
    } else if (is_option(argument, "--matmul")) {
      global.matmul = parse_matmul(option_value(arguments, i, "--matmul"));
    } else if (is_option(argument, "--attention")) {
      global.attention = parse_attention(option_value(arguments, i, "--attention"));
    } else if (is_option(argument, "--log-format")) {
      const std::string format = option_value(arguments, i, "--log-format");
      if (format != "text" && format != "json") {
        throw usage_error("--log-format cannot be " + format).expected("text or json");
      }
      global.json_log = format == "json";
    } else if (before_verb && (argument == "-h" || argument == "--help" || argument == "help")) {
      line.help = true;
    } else if (before_verb && (argument == "--version" || argument == "version")) {
      line.version = true;
    } else if (before_verb && argument.starts_with("-")) {
      throw usage_error("there is no option " + argument).fix("engine --help");
    } else if (before_verb) {
      line.verb = argument;
    } else {
      rest.push_back(argument);
    }
  }
  // `engine help config` and `engine --help config` are `engine config --help`.
  if (line.help && !line.verb.empty()) {
    rest = {"--help"};
    line.help = false;
  }
  if (line.verb.empty() && !line.version) line.help = true;
  return line;
}

const Verb& find_verb(const std::string& name) {
  std::vector<std::string> names;
  for (const Verb& verb : verbs()) {
    if (name == verb.name) return verb;
    names.push_back(verb.name);
  }
  Error error(ExitCode::usage, "CLI-VERB", "there is no verb `" + name + "`");
  error.expected(fmt::format("{}", fmt::join(names, ", ")));
  const std::string near = nearest_word(name, names);
  throw near.empty() ? error.fix("engine --help") : error.fix("did you mean engine " + near + "?");
}

std::string main_help() {
  std::string text = version_text() +
                     ": trains and runs transformers\n\n"
                     "  engine VERB [arguments] [section.setting=value ...]\n\n";
  for (const Verb& verb : verbs()) text += fmt::format("  {:<10} {}\n", verb.name, verb.summary);
  text += std::string("\n") + kGlobalHelp;
  text +=
      "\nExit codes: 0 ok, 1 a bug of ours, 2 usage or config, 3 data, 4 checkpoint or tokenizer,\n"
      "  5 out of memory, 6 not a number, 7 distributed, 8 interrupted,\n"
      "  74 cannot write, 75 try again\n";
  return text;
}

std::string version_text() {
  std::string text = "engine " ENGINE_VERSION;
  if (sizeof(ENGINE_COMMIT) > 1) text += " (" ENGINE_COMMIT ")";
  return text;
}

bool parse_arguments(CLI::App& app, Invocation& invocation) {
  if (app.get_footer().empty()) app.footer("Options that work everywhere: engine --help\n");
  std::vector<std::string> reversed(invocation.arguments.rbegin(), invocation.arguments.rend());
  try {
    app.parse(std::move(reversed));
    return true;
  } catch (const CLI::CallForHelp&) {
    std::fputs(app.help().c_str(), stdout);
    return false;
  } catch (const CLI::CallForAllHelp&) {
    std::fputs(app.help("", CLI::AppFormatMode::All).c_str(), stdout);
    return false;
  } catch (const CLI::ParseError& error) {
    throw explained(error.what(), app, invocation);
  }
}

bool use_color(ColorMode mode, int descriptor) {
  if (mode != ColorMode::automatic) return mode == ColorMode::always;
  const char* no_color = std::getenv("NO_COLOR");
  const char* terminal = std::getenv("TERM");
  if (no_color != nullptr && no_color[0] != '\0') return false;
  if (terminal != nullptr && std::string_view(terminal) == "dumb") return false;
  return isatty(descriptor) != 0;
}

}  // namespace engine
