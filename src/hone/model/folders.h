#pragma once
// A folder that is either whole under its final name or not there: written beside it, synced, renamed.
#include <filesystem>
#include <functional>
#include <string_view>

namespace hone::model {

/// Calls `write` with an empty temporary folder beside `folder`, syncs it and puts it in place in one step. What stands there already is replaced
/// if it is empty or holds a file named `marker` (a folder of the same kind); anything else is a UserError (exit 2). `kind` names it in
/// messages ("model", "adapter"). UserError (exit 4) when the disk is full; what stood there before is then untouched.
void replace_folder(const std::filesystem::path& folder, const char* marker, const char* kind,
                    const std::function<void(const std::filesystem::path& scratch)>& write);

/// Writes one new, synced file.
void write_text_file(const std::filesystem::path& path, std::string_view text);

}  // namespace hone::model
