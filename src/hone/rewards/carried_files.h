#pragma once
// Python files that hone carries inside itself.
#include <string_view>

namespace hone::rewards {

std::string_view code_trailer();  // code_trailer.py: the end of a Python program under test
std::string_view python_shim();   // python_shim.py: runs a reward function of the user's in the user's Python

}  // namespace hone::rewards
