#include "commands.h"
#include "hone/base/error.h"

namespace hone::app {

int run_doctor(const Arguments&) { fail("hone doctor is not in this build yet"); }

}  // namespace hone::app
