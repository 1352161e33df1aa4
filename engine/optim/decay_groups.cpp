#include "engine/optim/decay_groups.h"

#include <algorithm>
#include <cctype>
#include <string>

namespace engine {
namespace {

bool name_is_exempt(std::string_view full_name) {
  std::string name(full_name);
  std::transform(name.begin(), name.end(), name.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  for (const char* word : {"bias", "layernorm", "rmsnorm"}) {
    if (name.find(word) != std::string::npos) return true;
  }
  for (size_t begin = 0; begin <= name.size();) {
    const size_t end = std::min(name.find('.', begin), name.size());
    const std::string_view component = std::string_view(name).substr(begin, end - begin);
    if (component == "norm" || component.ends_with("_norm")) return true;
    begin = end + 1;
  }
  return false;
}

}  // namespace

bool is_weight_decayed(std::string_view full_name, bool is_layer_norm, WeightDecayMode mode) {
  switch (mode) {
    case WeightDecayMode::none:
      return false;
    case WeightDecayMode::all:
      return true;
    case WeightDecayMode::hf:
      break;
  }
  return !is_layer_norm && !name_is_exempt(full_name);
}

DecayGroups split_decay_groups(std::span<const DecayCandidate> parameters, WeightDecayMode mode) {
  DecayGroups groups;
  groups.decayed.reserve(parameters.size());
  for (const DecayCandidate& parameter : parameters) {
    const bool decayed = is_weight_decayed(parameter.name, parameter.is_layer_norm, mode);
    groups.decayed.push_back(decayed);
    (decayed ? groups.decayed_numel : groups.exempt_numel) += parameter.numel;
  }
  return groups;
}

}  // namespace engine
