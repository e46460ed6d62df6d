// hone reward: a reward model from pairs.
#include "commands.h"
#include "hone/base/error.h"

namespace hone::app {

int run_reward(const Arguments&) { fail("hone reward comes with a later version"); }

}  // namespace hone::app
