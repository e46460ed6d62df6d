#include "hone/rewards/carried_files.h"

#include <cstddef>

asm(".section .rodata\n"
    "hone_trailer_begin: .incbin \"" HONE_CODE_TRAILER
    "\"\n"
    "hone_trailer_end: .byte 0\n"
    "hone_shim_begin: .incbin \"" HONE_PYTHON_SHIM
    "\"\n"
    "hone_shim_end: .byte 0\n"
    ".previous\n");
extern "C" const char hone_trailer_begin[], hone_trailer_end[], hone_shim_begin[], hone_shim_end[];

namespace hone::rewards {

std::string_view code_trailer() { return {hone_trailer_begin, static_cast<size_t>(hone_trailer_end - hone_trailer_begin)}; }
std::string_view python_shim() { return {hone_shim_begin, static_cast<size_t>(hone_shim_end - hone_shim_begin)}; }

}  // namespace hone::rewards
