#include "commands.h"
#include "hone/base/error.h"

namespace hone::app {

int run_score(const Arguments&) { fail("hone score is not in this build yet"); }

}  // namespace hone::app
