#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#include <utility>

#include "base/temp_folder.h"
#include "hone/base/error.h"
#include "hone/base/files.h"

namespace hone {
namespace {

using test::TempFolder;

/// The message and code of the UserError that `action` throws.
template <class Action>
std::pair<std::string, Exit> error_of(Action action) {
  try {
    action();
  } catch (const UserError& error) {
    return {error.what(), error.code()};
  }
  return {"no error", Exit::ok};
}

size_t entries(const std::filesystem::path& folder) {
  return static_cast<size_t>(std::distance(std::filesystem::directory_iterator(folder), std::filesystem::directory_iterator()));
}

/// Caps the size of files this process writes: the way to a failing write that needs no full disk.
struct ScopedFileLimit {
  rlimit saved{};
  explicit ScopedFileLimit(rlim_t bytes) {
    std::signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &saved);
    const rlimit limited{bytes, saved.rlim_max};
    setrlimit(RLIMIT_FSIZE, &limited);
  }
  ~ScopedFileLimit() { setrlimit(RLIMIT_FSIZE, &saved); }
};

TEST(MappedFile, ReadsMovesAndAcceptsAnEmptyFile) {
  const TempFolder folder;
  MappedFile file(folder.file("a", "hello"));
  EXPECT_EQ(file.text(), "hello");
  MappedFile moved(std::move(file));
  EXPECT_EQ(moved.text(), "hello");
  MappedFile other(folder.file("b", "x"));
  other = std::move(moved);
  EXPECT_EQ(other.text(), "hello");
  EXPECT_EQ(other.path(), folder / "a");
  EXPECT_TRUE(MappedFile(folder.file("c", "")).bytes().empty());
}

TEST(MappedFile, SaysWhatIsThereInstead) {
  const TempFolder folder;
  const std::string missing = (folder / "missing").string();
  EXPECT_EQ(error_of([&] { MappedFile{missing}; }), std::pair(missing + ": no such file", Exit::usage));
  EXPECT_EQ(error_of([&] { MappedFile{folder.path}; }).first, folder.path.string() + ": is a folder, a file is needed");
  EXPECT_THAT(error_of([] { MappedFile{"/dev/null"}; }).first, testing::HasSubstr("not a regular file"));
}

TEST(ReadText, WholeFileAndLimit) {
  const TempFolder folder;
  const auto path = folder.file("a", std::string(100000, 'x'));
  EXPECT_EQ(read_text(path).size(), 100000u);
  EXPECT_EQ(read_text(path, 100000).size(), 100000u);
  EXPECT_THAT(error_of([&] { read_text(path, 99999); }).first, testing::HasSubstr("larger than 99999 bytes"));
  EXPECT_EQ(read_text("/dev/null"), "");
}

TEST(WriteAtomic, ReplacesAndLeavesNothingBeside) {
  const TempFolder folder;
  write_atomic(folder / "a", "one");
  write_atomic(folder / "a", "two");
  EXPECT_EQ(read_text(folder / "a"), "two");
  EXPECT_EQ(entries(folder.path), 1u);
}

TEST(WriteAtomic, AFailedWriteKeepsTheOldFileAndRemovesTheNewOne) {
  const TempFolder folder;
  write_atomic(folder / "a", "old");
  std::pair<std::string, Exit> error;
  {
    const ScopedFileLimit limit(1000);
    error = error_of([&] { write_atomic(folder / "a", std::string(5000, 'n')); });
  }
  EXPECT_EQ(error.second, Exit::resource) << error.first;
  EXPECT_THAT(error.first, testing::HasSubstr((folder / "a").string() + ": writing failed"));
  EXPECT_EQ(read_text(folder / "a"), "old");
  EXPECT_EQ(entries(folder.path), 1u);
}

TEST(WriteAtomic, AFailedRenameRemovesTheNewFile) {
  const TempFolder folder;
  std::filesystem::create_directories(folder / "a/b");  // a folder that is not empty cannot be replaced by a file
  const auto error = error_of([&] { write_atomic(folder / "a", "x"); });
  EXPECT_EQ(error.second, Exit::usage);
  EXPECT_THAT(error.first, testing::HasSubstr("renaming into place failed"));
  EXPECT_EQ(entries(folder.path), 1u);
}

TEST(WriteAtomic, AMissingFolderIsTheUsersError) {
  const TempFolder folder;
  EXPECT_EQ(error_of([&] { write_atomic(folder / "no/a", "x"); }).second, Exit::usage);
}

TEST(FileWriter, WritesSmallAndLargePiecesInOrder) {
  const TempFolder folder;
  std::string expected;
  FileWriter writer(folder / "a");
  for (int i = 0; i < 40; ++i) {
    const std::string piece(i % 4 == 0 ? (1 << 20) + i : 1000 + i, static_cast<char>('a' + i % 26));
    writer.write(piece);
    expected += piece;
  }
  writer.close();
  EXPECT_TRUE(read_text(folder / "a") == expected);
  FileWriter more(folder / "a", true);
  more.write("end");
  more.flush();
  EXPECT_EQ(read_text(folder / "a").size(), expected.size() + 3);
  more.close();
  EXPECT_THROW(more.write("x"), ProgrammerError);
  FileWriter fresh(folder / "a");
  fresh.close();
  EXPECT_EQ(read_text(folder / "a"), "");
}

TEST(FileWriter, AFullDiskIsExit4) {
  const TempFolder folder;
  FileWriter writer(folder / "a");
  const ScopedFileLimit limit(1000);
  writer.write(std::string(5000, 'x'));
  EXPECT_EQ(error_of([&] { writer.flush(); }).second, Exit::resource);
}

TEST(FileWriter, DevFullIsExit4) {
  if (access("/dev/full", W_OK) != 0) GTEST_SKIP() << "no /dev/full here";
  FileWriter writer("/dev/full");
  writer.write("x");
  EXPECT_EQ(error_of([&] { writer.close(); }).second, Exit::resource);
}

TEST(FreeBytes, OfAPathThatIsNotThereYet) {
  const TempFolder folder;
  EXPECT_GT(free_bytes(folder / "not/yet/there"), 0u);
  EXPECT_GT(free_bytes("relative-name-that-is-not-there"), 0u);
}

}  // namespace
}  // namespace hone
