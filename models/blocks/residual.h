// residual + dropout(branch): how a sublayer's result returns to the residual stream.
//
// Dropout stands between the branch's last product and the addition. Where it is off, because p is
// 0 or the model is not being trained, the product adds the residual itself and the sum is one
// tensor already; else the norm that reads the sum adds, or added().
#pragma once

#include "models/blocks/projection.h"

namespace engine {

// The residual stream before a sublayer, and the dropout of what is added to it.
struct ResidualStream {
  Variable x;
  float dropout = 0.0f;
};

// What has to be added up yet, or (no branch) has been.
struct Sum {
  Variable residual, branch;
};

// The sum of the stream and a product, or a feed-forward block. x may be discarded by the latter,
// and may be the stream.
Sum project_onto(Graph& graph, const ResidualStream& stream, const Variable& x,
                 const Projection& projection);
Sum feed_forward_onto(Graph& graph, const ResidualStream& stream, const Variable& x,
                      const FeedForward& block);

Normed add_norm(Graph& graph, const Sum& sum, const NormParameters& norm);
Variable added(Graph& graph, const Sum& sum);

}  // namespace engine
