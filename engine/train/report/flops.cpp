#include "engine/train/report/flops.h"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <utility>

#include "engine/core/error.h"

namespace engine {
namespace {

constexpr std::pair<FlopsConvention, std::string_view> kConventions[] = {
    {FlopsConvention::palm, "palm"},
    {FlopsConvention::titan, "titan"},
    {FlopsConvention::llmc, "llmc"},
    {FlopsConvention::exact, "exact"}};

// Σ over the queries of one document of the number of keys they see.
double visible_pairs(double length, double window, bool causal) {
  if (!causal) return length * length;
  if (window <= 0 || window >= length) return length * (length + 1) / 2;
  return window * (window + 1) / 2 + (length - window) * window;
}

// Two products (scores and values), 2 FLOPs per multiply-add, forward + twice that backward.
constexpr double kFlopsPerPair = 12;

double attention_flops(const FlopsShape& shape, int64_t length) {
  const auto width = static_cast<double>(shape.attention_width);
  double pairs = 0;
  for (int64_t layer = 0; layer < shape.num_layers; ++layer) {
    const int64_t window =
        shape.sliding_windows.empty() ? 0 : shape.sliding_windows.at(static_cast<size_t>(layer));
    pairs += visible_pairs(static_cast<double>(length), static_cast<double>(window), shape.causal);
  }
  return kFlopsPerPair * width * pairs;
}

}  // namespace

std::string_view flops_convention_name(FlopsConvention convention) {
  for (const auto& [value, name] : kConventions) {
    if (value == convention) return name;
  }
  throw std::logic_error("unknown FLOPs convention");
}

FlopsConvention parse_flops_convention(std::string_view name) {
  for (const auto& [value, known] : kConventions) {
    if (known == name) return value;
  }
  throw Error(ExitCode::usage, "CONF-FLOPS",
              "unknown FLOPs convention \"" + std::string(name) + "\"")
      .expected("palm, titan, llmc or exact");
}

double flops_per_token(const FlopsShape& shape, int64_t row_length, FlopsConvention convention) {
  const double matmul = 6.0 * static_cast<double>(shape.matmul_params);
  const auto length = static_cast<double>(row_length);
  if (convention == FlopsConvention::exact) {
    return matmul + attention_flops(shape, row_length) / std::max(1.0, length);
  }
  const double all_pairs =
      static_cast<double>(shape.num_layers) * static_cast<double>(shape.attention_width) * length;
  return matmul + (convention == FlopsConvention::llmc ? 6.0 : 12.0) * all_pairs;
}

double step_flops(const FlopsShape& shape, std::span<const int64_t> document_lengths) {
  double total = 0;
  for (const int64_t length : document_lengths) {
    total += 6.0 * static_cast<double>(shape.matmul_params) * static_cast<double>(length) +
             attention_flops(shape, length);
  }
  return total;
}

double example_flops(const EncoderDecoderFlopsShape& shape, int64_t source_tokens,
                     int64_t target_tokens) {
  const auto source = static_cast<double>(source_tokens);
  const auto target = static_cast<double>(target_tokens);
  const double pairs = static_cast<double>(shape.encoder_layers) * visible_pairs(source, 0, false) +
                       static_cast<double>(shape.decoder_layers) *
                           (visible_pairs(target, 0, true) + target * source);
  return 6.0 * (source * static_cast<double>(shape.source_params) +
                target * static_cast<double>(shape.target_params)) +
         kFlopsPerPair * static_cast<double>(shape.attention_width) * pairs;
}

std::optional<double> peak_bf16_flops(std::string_view device_name) {
  // Published dense figures; the more specific name first.
  constexpr std::pair<std::string_view, double> kPeaks[] = {{"H100 PCIe", 756e12},
                                                            {"H100", 989e12},
                                                            {"H200", 989e12},
                                                            {"A100", 312e12},
                                                            {"B200", 2250e12}};
  for (const auto& [name, peak] : kPeaks) {
    if (device_name.find(name) != std::string_view::npos) return peak;
  }
  return std::nullopt;
}

Utilisation utilisation(double model_flops, double seconds, double peak_flops,
                        double recomputed_share) {
  Utilisation result;
  result.mfu = model_flops / (seconds * peak_flops);
  result.hfu = result.mfu * (3.0 + recomputed_share) / 3.0;  // a forward is a third of the three
  return result;
}

}  // namespace engine
