// Names that are not there until a block assigns them.
#pragma once

#include "tokenizer/chat/jinja/parser.h"

namespace engine::jinja {

// Jinja decides before a template runs where a block finds each of its names. One that the block
// assigns, and neither reads before that nor has from a block around it, belongs to the block:
// until it is assigned it is undefined, even for inner blocks, and even where the conversation has
// a variable of that name. Assignments in branches of an `if` do not count. Fills `unset` of the
// template and its statements.
void find_unset_names(Template& parsed);

}  // namespace engine::jinja
