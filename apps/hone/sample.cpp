#include "commands.h"
#include "hone/base/error.h"

namespace hone::app {

int run_sample(const Arguments&) { fail("hone sample is not in this build yet"); }

}  // namespace hone::app
