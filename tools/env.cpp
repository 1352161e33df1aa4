// engine env: versions, processor, memory, GPUs.
#include <fmt/format.h>
#include <omp.h>
#include <sched.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>
#include <sstream>

#include "engine/core/device.h"
#include "engine/core/file_io.h"
#include "tools/command_line.h"
#include "tools/verbs.h"

namespace engine {
namespace {

// The value behind "name :" in a file such as /proc/cpuinfo, or "".
std::string proc_value(const char* path, std::string_view name) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    if (!line.starts_with(name)) continue;
    const size_t colon = line.find(':');
    if (colon == std::string::npos) continue;
    const size_t begin = line.find_first_not_of(" \t", colon + 1);
    return begin == std::string::npos ? "" : line.substr(begin);
  }
  return "";
}

uint64_t meminfo_bytes(std::string_view name) {
  const std::string value = proc_value("/proc/meminfo", name);  // "24000000 kB"
  return value.empty() ? 0 : std::strtoull(value.c_str(), nullptr, 10) * 1024;
}

// The memory limit of the container, if it has one.
std::optional<uint64_t> cgroup_memory_limit() {
  for (const char* path :
       {"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"}) {
    std::ifstream file(path);
    uint64_t limit = 0;
    constexpr uint64_t kUnlimited = uint64_t{1} << 60;
    if (file >> limit && limit < kUnlimited) return limit;
  }
  return std::nullopt;
}

// Those instruction sets that decide which kernels run and how fast.
std::string cpu_features() {
  std::istringstream flags(proc_value("/proc/cpuinfo", "flags"));
  constexpr std::string_view kWanted[] = {"avx2",     "fma",         "f16c",        "avx512f",
                                          "avx512bw", "avx512_vnni", "avx512_bf16", "avx512_fp16",
                                          "amx_tile", "amx_bf16"};
  std::string found;
  for (std::string flag; flags >> flag;) {
    for (const std::string_view wanted : kWanted) {
      if (flag == wanted) found += (found.empty() ? "" : " ") + flag;
    }
  }
  return found;
}

std::string compiled_for() {
  std::string list;
  const auto add = [&](const char* name) { list += (list.empty() ? "" : " ") + std::string(name); };
#ifdef __AVX2__
  add("avx2");
#endif
#ifdef __AVX512F__
  add("avx512f");
#endif
#ifdef __AVX512BF16__
  add("avx512_bf16");
#endif
#ifdef __AMX_BF16__
  add("amx_bf16");
#endif
  return list.empty() ? "baseline" : list;
}

int usable_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  return sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 0;
}

nlohmann::ordered_json describe() {
  nlohmann::ordered_json env;
  env["version"] = version_text();
#ifdef NDEBUG
  const char* assertions = "off";
#else
  const char* assertions = "on";
#endif
  env["build"] =
      fmt::format("{}, {}, assertions {}", ENGINE_BUILD_TYPE, "gcc " __VERSION__, assertions);
  env["compiled for"] = compiled_for();
  utsname system{};
  if (uname(&system) == 0) {
    env["system"] = fmt::format("{} {} {}", system.sysname, system.release, system.machine);
  }
  env["processor"] = proc_value("/proc/cpuinfo", "model name");
  env["features"] = cpu_features();
  env["cores"] = fmt::format("{} usable of {}", usable_cores(), sysconf(_SC_NPROCESSORS_ONLN));
  const char* omp = std::getenv("OMP_NUM_THREADS");
  env["threads"] = fmt::format("{}{}", omp_get_max_threads(),
                               omp != nullptr ? fmt::format(" (OMP_NUM_THREADS={})", omp) : "");
  env["memory"] = fmt::format("{} available of {}", format_bytes(meminfo_bytes("MemAvailable")),
                              format_bytes(meminfo_bytes("MemTotal")));
  if (const auto limit = cgroup_memory_limit()) env["memory limit"] = format_bytes(*limit);
  std::error_code status;
  const auto here = std::filesystem::current_path(status);
  if (!status) env["free disk"] = format_bytes(free_disk_bytes(here));
  env["devices"] = "cpu, simt";
  const CudaSurvey cuda = survey_cuda();
  if (!cuda.built) {
    env["cuda"] = "not in this build";
  } else if (cuda.devices.empty()) {
    env["cuda"] = "none: " + cuda.count.message;
  }
  for (size_t i = 0; i < cuda.devices.size(); ++i) {
    const kernels::DeviceInfo& gpu = cuda.devices[i];
    env[fmt::format("cuda:{}", i)] =
        fmt::format("{}, compute capability {}.{}, {} multiprocessors, {}", gpu.name,
                    gpu.compute_capability / 10, gpu.compute_capability % 10, gpu.multiprocessors,
                    format_bytes(gpu.total_memory));
  }
  return env;
}

}  // namespace

ExitCode run_env(Invocation& invocation) {
  CLI::App app("Versions, processor and memory, for bug reports", "engine env");
  bool json = invocation.global.json_log;
  app.add_flag("--json", json, "As one JSON object");
  if (!parse_arguments(app, invocation)) return ExitCode::ok;
  const nlohmann::ordered_json env = describe();
  if (json) {
    fmt::print("{}\n", env.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
    return ExitCode::ok;
  }
  for (const auto& [name, value] : env.items()) {
    fmt::print("{:<13} {}\n", name, value.get<std::string>());
  }
  return ExitCode::ok;
}

}  // namespace engine
