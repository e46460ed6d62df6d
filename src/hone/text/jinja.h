#pragma once
// A small Jinja interpreter for chat templates, with the settings transformers uses (trim_blocks, lstrip_blocks, one trailing newline of the
// source dropped). It carries for every byte it writes which message the value came from. What it does not know is refused by name and line.
// Bounded: nesting, loop steps and bytes produced, so a hostile template ends with an error.
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "hone/text/jinja_value.h"

namespace hone::text::jinja {

/// Rendered text. The vectors have one entry per byte of it.
struct Output {
  std::string text;
  std::vector<int32_t> origin;  // the printed value's origin (message_origin), no_origin for the template's own words
  std::vector<int32_t> turn;    // the message whose iteration of a loop over messages wrote the byte, -1 outside such loops
};

struct Statement;

/// A parsed template. Immutable, may be rendered from several threads.
class Template {
 public:
  /// Parses; UserError "chat template line N: ..." for what is wrong or not supported.
  explicit Template(const std::string& source);
  /// Renders with these variables; UserError with the line, also for what the template itself raises (raise_exception).
  Output render(const Dict& variables) const;

 private:
  std::shared_ptr<const std::vector<Statement>> body_;
};

}  // namespace hone::text::jinja
