// `engine VERB ...`: finds the verb, runs it, turns what it throws into text and an exit code.
#include <fmt/format.h>
#include <omp.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <new>
#include <string>
#include <system_error>
#include <vector>

#include "kernels/api/device.h"
#include "tools/command_line.h"

namespace engine {
namespace {

void print_error(const Error& error, const GlobalOptions& global) {
  std::string text = global.json_log ? error.json() : error.what();
  if (!global.json_log && use_color(global.color, 2)) {
    const size_t colon = text.find(':');  // "error[CODE]" in bold red
    text = "\033[1;31m" + text.substr(0, colon) + "\033[0m" + text.substr(colon);
  }
  std::fflush(stdout);
  std::fprintf(stderr, "%s\n", text.c_str());
}

Error internal_error(const char* what) {
  return Error(ExitCode::internal, "INTERNAL", what)
      .why("a mistake in the program, not in its input")
      .fix("please report this, with the command and the output of `engine env`");
}

// A call to the GPU failed: the driver's words, and what is usually behind them.
Error gpu_error(const kernels::GpuError& error) {
  return Error(ExitCode::internal, "DEV-FAILED", "the GPU stopped working for this process")
      .found(error.what())
      .why(
          "a mistake in a kernel (illegal access, misaligned address), or the GPU or its driver "
          "failed (Xid messages of dmesg, ECC errors of nvidia-smi -q)")
      .fix(
          "run it again: a trained step is only lost back to the last checkpoint (--resume). If it "
          "happens again at the same place, please report the command and `engine env`");
}

Error output_error(const std::string& reason) {
  return Error(ExitCode::io, "IO-WRITE", "cannot write to standard output: " + reason);
}

ExitCode run(const std::vector<std::string>& arguments, GlobalOptions& global) {
  CommandLine line = parse_command_line(arguments);
  global = line.invocation.global;
  if (line.version) {
    fmt::print("{}\n", version_text());
    return ExitCode::ok;
  }
  if (line.help) {
    fmt::print("{}", main_help());
    return ExitCode::ok;
  }
  if (global.threads > 0) omp_set_num_threads(global.threads);
  kernels::select_matmul(global.matmul);
  kernels::select_attention(global.attention);
  return find_verb(line.verb).run(line.invocation);
}

// What was printed may still be in the buffer, and the disk may be full.
ExitCode flush_output(ExitCode code, const GlobalOptions& global) {
  const bool failed = std::fflush(stdout) != 0 || std::ferror(stdout) != 0;
  if (!failed || code != ExitCode::ok) return code;
  print_error(output_error(std::strerror(errno)), global);
  return ExitCode::io;
}

}  // namespace
}  // namespace engine

int main(int argc, char** argv) {
  using engine::ExitCode;
  const std::vector<std::string> arguments(argv + 1, argv + argc);
  engine::GlobalOptions global;
  // Known before the rest is parsed, so that mistakes in it come out in the right format.
  for (size_t i = 0; i < arguments.size(); ++i) {
    if (arguments[i] == "--") break;
    if (arguments[i] == "--log-format=json" ||
        (arguments[i] == "--log-format" && i + 1 < arguments.size() &&
         arguments[i + 1] == "json")) {
      global.json_log = true;
    }
  }
  try {
    const ExitCode code = engine::run(arguments, global);
    return static_cast<int>(engine::flush_output(code, global));
  } catch (const engine::Error& error) {
    engine::print_error(error, global);
    return static_cast<int>(error.exit_code());
  } catch (const engine::kernels::GpuError& error) {
    engine::print_error(engine::gpu_error(error), global);
    return static_cast<int>(ExitCode::internal);
  } catch (const std::bad_alloc&) {
    engine::print_error(
        engine::Error(ExitCode::out_of_memory, "MEM-HOST", "the system has no memory left")
            .fix("close other programs, or use a smaller micro-batch or model"),
        global);
    return static_cast<int>(ExitCode::out_of_memory);
  } catch (const std::system_error& error) {
    if (std::ferror(stdout) == 0) {
      engine::print_error(engine::internal_error(error.what()), global);
      return static_cast<int>(ExitCode::internal);
    }
    engine::print_error(engine::output_error(error.code().message()), global);
    return static_cast<int>(ExitCode::io);
  } catch (const std::exception& exception) {
    engine::print_error(engine::internal_error(exception.what()), global);
    return static_cast<int>(ExitCode::internal);
  } catch (...) {
    engine::print_error(engine::internal_error("an exception of unknown type"), global);
    return static_cast<int>(ExitCode::internal);
  }
}
