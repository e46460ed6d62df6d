#include "commands.h"
#include "hone/base/error.h"

namespace hone::app {

int run_sft(const Arguments&) { fail("hone sft is not in this build yet"); }

}  // namespace hone::app
