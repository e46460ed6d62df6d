#include "commands.h"
#include "hone/base/error.h"

namespace hone::app {

int run_tokenize(const Arguments&) { fail("hone tokenize is not in this build yet"); }

}  // namespace hone::app
