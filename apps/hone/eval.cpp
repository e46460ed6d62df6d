#include "commands.h"
#include "hone/base/error.h"

namespace hone::app {

int run_eval(const Arguments&) { fail("hone eval is not in this build yet"); }

}  // namespace hone::app
