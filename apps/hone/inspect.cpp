#include "commands.h"
#include "hone/base/error.h"

namespace hone::app {

int run_inspect(const Arguments&) { fail("hone inspect is not in this build yet"); }

}  // namespace hone::app
