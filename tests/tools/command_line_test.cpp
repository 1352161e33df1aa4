// The frame of the command: global options, verbs, exit codes, where errors go.
#include "tools/command_line.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <fstream>

#include "engine/config/load.h"
#include "tools/config_presets.h"

namespace engine {
namespace {

struct Result {
  int code = -1;
  std::string output;  // standard output and standard error
};

// Runs the program with a shell command line behind its name.
Result run(const std::string& arguments) {
  const std::string command = std::string(ENGINE_COMMAND) + " " + arguments;
  FILE* pipe = popen(("( " + command + " ) 2>&1").c_str(), "r");
  Result result;
  char buffer[4096];
  for (size_t n; (n = fread(buffer, 1, sizeof buffer, pipe)) > 0;) result.output.append(buffer, n);
  const int status = pclose(pipe);
  if (WIFEXITED(status)) result.code = WEXITSTATUS(status);
  return result;
}

bool has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

TEST(CommandLine, GlobalOptionsWorkOnBothSidesOfTheVerb) {
  const CommandLine line = parse_command_line(
      {"-q", "--threads=3", "config", "--color", "never", "show", "--log-format", "json", "x"});
  EXPECT_EQ(line.verb, "config");
  EXPECT_EQ(line.invocation.arguments, (std::vector<std::string>{"show", "x"}));
  EXPECT_EQ(line.invocation.global.verbosity, -1);
  EXPECT_EQ(line.invocation.global.threads, 3);
  EXPECT_EQ(line.invocation.global.color, ColorMode::never);
  EXPECT_TRUE(line.invocation.global.json_log);
  EXPECT_EQ(parse_command_line({"-vv", "env", "-v"}).invocation.global.verbosity, 3);
}

TEST(CommandLine, TwoDashesEndTheOptions) {
  const CommandLine line = parse_command_line({"env", "--", "-q"});
  EXPECT_EQ(line.invocation.arguments, (std::vector<std::string>{"--", "-q"}));
  EXPECT_EQ(line.invocation.global.verbosity, 0);
}

TEST(CommandLine, HelpOfTheProgramAndOfAVerb) {
  EXPECT_TRUE(parse_command_line({}).help);
  EXPECT_TRUE(parse_command_line({"--help"}).help);
  for (const auto& arguments :
       {std::vector<std::string>{"help", "env"}, std::vector<std::string>{"--help", "env"},
        std::vector<std::string>{"env", "--help"}}) {
    const CommandLine line = parse_command_line(arguments);
    EXPECT_FALSE(line.help);
    EXPECT_EQ(line.verb, "env");
    EXPECT_EQ(line.invocation.arguments, std::vector<std::string>{"--help"});
  }
  const std::string help = main_help();
  for (const Verb& verb : verbs()) EXPECT_TRUE(has(help, std::string("  ") + verb.name)) << help;
}

TEST(CommandLine, Mistakes) {
  for (const auto& arguments :
       {std::vector<std::string>{"--color", "blue"}, std::vector<std::string>{"--color"},
        std::vector<std::string>{"--attention", "fast"}, std::vector<std::string>{"--matmul", "x"},
        std::vector<std::string>{"--threads", "0"}, std::vector<std::string>{"--threads", "2x"},
        std::vector<std::string>{"--log-format=xml"}, std::vector<std::string>{"--nonsense"}}) {
    EXPECT_THROW(parse_command_line(arguments), Error) << arguments[0];
  }
  try {
    find_verb("confg");
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), "CLI-VERB");
    EXPECT_TRUE(has(error.what(), "did you mean engine config?"));
  }
}

TEST(CommandLine, NoColorIsHonoured) {
  setenv("NO_COLOR", "1", 1);
  EXPECT_FALSE(use_color(ColorMode::automatic, 2));
  EXPECT_TRUE(use_color(ColorMode::always, 2));
  unsetenv("NO_COLOR");
  EXPECT_FALSE(use_color(ColorMode::never, 2));
}

TEST(Program, ExitCodes) {
  EXPECT_EQ(run("").code, 0);
  EXPECT_EQ(run("--version").output.rfind("engine ", 0), 0u);
  EXPECT_EQ(run("--version").code, 0);
  EXPECT_EQ(run("config --help").code, 0);
  EXPECT_EQ(run("nonsense").code, 2);
  EXPECT_EQ(run("config check train.sede=1").code, 2);
  EXPECT_EQ(run("config").code, 2);
  EXPECT_EQ(run("config show > /dev/full").code, 74);
}

TEST(Program, ErrorsGoToStandardError) {
  EXPECT_EQ(run("config check /no/such 2> /dev/null").output, "");
  EXPECT_TRUE(has(run("config check /no/such").output, "error[CFG-FILE]: "));
  const std::string json = run("--log-format json config show train.seed=x").output;
  EXPECT_EQ(json.rfind("{\"error\":\"CFG-TYPE\"", 0), 0u) << json;
  EXPECT_TRUE(has(run("config --color always check /no/such").output, "\033[1;31merror[CFG-FILE]"));
}

TEST(Program, Suggests) {
  EXPECT_TRUE(has(run("config chek").output, "did you mean engine config check?"));
  EXPECT_TRUE(has(run("config show --chnged").output, "did you mean --changed?"));
  EXPECT_TRUE(has(run("config new gpt2").output, "gpt2-small"));
}

TEST(Program, ConfigShowsOptions) {
  const std::string changed = run("config show --changed train.seed=7 --optimizer.lr 1e-4").output;
  EXPECT_TRUE(has(changed, "seed: 7"));
  EXPECT_TRUE(has(changed, "lr: 0.0001"));
  EXPECT_FALSE(has(changed, "output_dir"));
}

TEST(Program, ExamplesAreValid) {
  const auto dir =
      std::filesystem::temp_directory_path() / ("engine_tools_test." + std::to_string(getpid()));
  std::filesystem::create_directories(dir);
  for (const ConfigPreset& preset : config_presets()) {
    const LoadedTrainConfig loaded =
        parse_train_config(preset.text, {.path = std::string(preset.name), .options = {}});
    EXPECT_TRUE(loaded.warnings.empty()) << loaded.warnings.front();
    const std::string file = (dir / (std::string(preset.name) + ".yaml")).string();
    EXPECT_EQ(run("config new " + std::string(preset.name) + " -o " + file).code, 0);
    EXPECT_EQ(run("config check " + file).output, "ok: " + file + "\n");
    EXPECT_EQ(run("config new " + std::string(preset.name) + " -o " + file).code, 2);
  }
  std::filesystem::remove_all(dir);
}

TEST(Program, DescribesTheMachine) {
  const Result result = run("env --json");
  EXPECT_EQ(result.code, 0);
  for (const char* key : {"\"version\":", "\"features\":", "\"memory\":"}) {
    EXPECT_TRUE(has(result.output, key)) << result.output;
  }
}

}  // namespace
}  // namespace engine
