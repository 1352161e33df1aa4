#include "engine/train/signals.h"

#include <signal.h>
#include <unistd.h>

#include <string>

#include "engine/core/error.h"

namespace engine {
namespace {

constexpr int kSignals[] = {SIGINT, SIGTERM, SIGUSR1};
volatile sig_atomic_t g_requested = 0;
struct sigaction g_previous[3], g_previous_file_size;

void on_signal(int signal) {
  if (g_requested != 0 && signal == SIGINT) _exit(128 + SIGINT);
  g_requested = signal;
}

}  // namespace

InterruptGuard::InterruptGuard() {
  g_requested = 0;
  struct sigaction action {};
  action.sa_handler = on_signal;
  sigemptyset(&action.sa_mask);
  action.sa_flags = SA_RESTART;
  for (int i = 0; i < 3; ++i) sigaction(kSignals[i], &action, &g_previous[i]);
  // A file size limit (ulimit -f) must be an error of the write, not the end of the process.
  action.sa_handler = SIG_IGN;
  sigaction(SIGXFSZ, &action, &g_previous_file_size);
}

InterruptGuard::~InterruptGuard() {
  for (int i = 0; i < 3; ++i) sigaction(kSignals[i], &g_previous[i], nullptr);
  sigaction(SIGXFSZ, &g_previous_file_size, nullptr);
  g_requested = 0;
}

int InterruptGuard::requested() {
  return g_requested;
}

void InterruptGuard::stop_if_requested() {
  if (g_requested == 0) return;
  throw Error(ExitCode::interrupted, "RUN-INTERRUPTED",
              std::string("interrupted by ") + signal_name(g_requested) + " before the first step")
      .with("written", "nothing; what was there before is as it was")
      .fix("run the same command again");
}

const char* signal_name(int signal) {
  switch (signal) {
    case SIGINT:
      return "SIGINT";
    case SIGTERM:
      return "SIGTERM";
    case SIGUSR1:
      return "SIGUSR1";
  }
  return "a signal";
}

}  // namespace engine
