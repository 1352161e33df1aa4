// SIGINT, SIGTERM and SIGUSR1 ask a run to finish its step, write a checkpoint and exit, or, before
// its first step, to exit with nothing written; a second SIGINT ends the process at once.
#pragma once

namespace engine {

class InterruptGuard {
 public:
  InterruptGuard();   // installs the handlers
  ~InterruptGuard();  // puts the old ones back
  InterruptGuard(const InterruptGuard&) = delete;
  InterruptGuard& operator=(const InterruptGuard&) = delete;

  // The signal that asked, or 0.
  static int requested();
  // Throws RUN-INTERRUPTED (interrupted) when a signal has asked: for the time before the first
  // step, in which there is nothing to save.
  static void stop_if_requested();
};

const char* signal_name(int signal);

}  // namespace engine
