#include "tokenizer/chat/jinja/scope.h"

namespace engine::jinja {
namespace {

constexpr size_t kMany = 16;

}  // namespace

Scope::Scope(std::shared_ptr<Scope> parent, const UnsetNames& unset, Budget& budget)
    : parent_(std::move(parent)) {
  budget.step(unset.size() * 4);  // and their places
  variables_ = unset;
  add_to_index(0);
}

void Scope::add_to_index(size_t first) {
  if (variables_.size() <= kMany) return;
  if (!index_) {
    index_ = std::make_unique<std::unordered_map<int32_t, size_t>>();
    first = 0;
  }
  for (size_t i = first; i < variables_.size(); ++i) index_->emplace(variables_[i].first, i);
}

size_t Scope::place(int32_t symbol) const {
  if (index_) {
    const auto at = index_->find(symbol);
    return at == index_->end() ? variables_.size() : at->second;
  }
  size_t i = 0;
  while (i < variables_.size() && variables_[i].first != symbol) ++i;
  return i;
}

const Value* Scope::find(int32_t symbol) const {
  for (const Scope* scope = this; scope; scope = scope->parent_.get()) {
    const size_t i = scope->place(symbol);
    if (i < scope->variables_.size()) return &scope->variables_[i].second;
  }
  return nullptr;
}

void Scope::set(int32_t symbol, Value value) {
  const size_t i = place(symbol);
  if (i < variables_.size()) {
    variables_[i].second = std::move(value);
  } else {
    variables_.emplace_back(symbol, std::move(value));
    add_to_index(i);
  }
}

void Scope::clear() {
  index_.reset();
  variables_.clear();
}

}  // namespace engine::jinja
