// `engine bench kernels`: matmul.
#pragma once

namespace engine::bench {

// Prints a table to standard output; takes about half a minute on two cores.
void run_matmul_benchmark();

}  // namespace engine::bench
