// Floating-point operations of a training step, and how much of the device they use.
//
// Per token, forward and backward together: 6 N + A, with N the parameters that take part in matrix
// multiplications and A the attention scores and their product with the values. Sources disagree
// about A; print the convention next to the number. With L layers, a = num_heads · head_dim, T the
// row length:
//   palm, titan   A = 12 L a T             no discount for causality (PaLM appendix B, torchtitan)
//   llmc          A = 6 L a T              causal half (llm.c)
//   exact         A = 12 a Σ_layers mean_q min(q + 1, W)   what causal (sliding-window) attention
//                                          computes, per document
// Recomputation never counts as model FLOPs (MFU); hardware FLOPs (HFU) include it.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

namespace engine {

enum class FlopsConvention { palm, titan, llmc, exact };

std::string_view flops_convention_name(FlopsConvention convention);
// Throws Error (usage) for an unknown name.
FlopsConvention parse_flops_convention(std::string_view name);

struct FlopsShape {
  // Per token. A tied embedding counts once (the head uses it), an untied input table not at all.
  int64_t matmul_params = 0;
  int64_t num_layers = 0;
  int64_t attention_width = 0;  // num_heads · head_dim of the queries
  // One per layer, 0 = sees the whole document; empty = all layers do.
  std::vector<int64_t> sliding_windows;
  bool causal = true;  // false: every query sees every key of its document (encoders)
};

// For rows of `row_length` tokens, each one document.
double flops_per_token(const FlopsShape& shape, int64_t row_length, FlopsConvention convention);

// The exact count for a packed batch: attention within each document only.
double step_flops(const FlopsShape& shape, std::span<const int64_t> document_lengths);

// Encoder-decoder (T5): attention width a = num_heads · d_kv.
struct EncoderDecoderFlopsShape {
  int64_t source_params = 0;  // matrices that a token of the source takes part in: the encoder's,
                              // and the keys and values of cross-attention
  int64_t target_params = 0;  // of a token of the target: the decoder's others, and the head
  int64_t encoder_layers = 0;
  int64_t decoder_layers = 0;
  int64_t attention_width = 0;
};

// Exact, forward and backward, for one example:
//   6 (S · source_params + T · target_params) + 12 a (Le S² + Ld (T (T + 1) / 2 + T S))
double example_flops(const EncoderDecoderFlopsShape& shape, int64_t source_tokens,
                     int64_t target_tokens);

// Peak dense bf16 multiply-add rate in FLOP/s by the name the driver gives the device, such as
// "NVIDIA H200"; none for devices without a published figure in the table.
std::optional<double> peak_bf16_flops(std::string_view device_name);

struct Utilisation {
  double mfu = 0;  // 0..1, model FLOPs
  double hfu = 0;  // 0..1, recomputed forwards included
};
// `recomputed_share`: the part of the forward pass that runs again in the backward pass, 0..1.
Utilisation utilisation(double model_flops, double seconds, double peak_flops,
                        double recomputed_share = 0);

}  // namespace engine
