#include "hone/model/folders.h"

#include <fcntl.h>
#include <stdio.h>

#include <cerrno>
#include <cstring>

#include "hone/base/error.h"
#include "hone/base/files.h"

namespace hone::model {
namespace {

namespace fs = std::filesystem;

void check_replaceable(const fs::path& folder, const char* marker, const char* kind) {
  if (!fs::exists(fs::symlink_status(folder))) return;
  if (!fs::is_directory(folder)) fail("{}: a file stands where the {} folder should be written", folder.string(), kind);
  if (!fs::is_empty(folder) && !fs::exists(folder / marker))
    fail("{}: this folder has files in it and is no {} folder; it is not written over", folder.string(), kind);
}

[[noreturn]] void rename_failed(const fs::path& folder, int error) {
  fail_resource("{}: cannot be put in place: {}", folder.string(), std::strerror(error));
}

// Where a folder stands already, the two names are exchanged in one step, so that a whole folder stands there at every moment.
void put_in_place(const fs::path& written, const fs::path& folder) {
  if (fs::exists(folder)) {
    if (::renameat2(AT_FDCWD, written.c_str(), AT_FDCWD, folder.c_str(), RENAME_EXCHANGE) == 0) return;
    if (errno != EINVAL && errno != ENOSYS) rename_failed(folder, errno);
    fs::remove_all(folder);  // a file system that cannot exchange
  }
  if (::rename(written.c_str(), folder.c_str()) != 0) rename_failed(folder, errno);
}

}  // namespace

void write_text_file(const fs::path& path, std::string_view text) {
  FileWriter writer(path);
  writer.write(text);
  writer.close();
}

void replace_folder(const fs::path& folder, const char* marker, const char* kind, const std::function<void(const fs::path& scratch)>& write) {
  const fs::path target = fs::absolute(folder).lexically_normal();
  const fs::path final_path = target.has_filename() ? target : target.parent_path();
  const fs::path scratch = final_path.parent_path() / fmt::format(".{}.writing", final_path.filename().string());
  try {
    check_replaceable(final_path, marker, kind);
    fs::create_directories(final_path.parent_path());
    fs::remove_all(scratch);  // what a killed process left
    fs::create_directory(scratch);
    write(scratch);
    sync_folder(scratch);
    put_in_place(scratch, final_path);
    sync_folder(final_path.parent_path());
    fs::remove_all(scratch);  // after an exchange: what stood there before
  } catch (const fs::filesystem_error& error) {
    std::error_code ignored;
    fs::remove_all(scratch, ignored);
    fail_resource("{}: the {} cannot be saved: {}", final_path.string(), kind, error.code().message());
  } catch (...) {
    std::error_code ignored;
    fs::remove_all(scratch, ignored);
    throw;
  }
}

}  // namespace hone::model
