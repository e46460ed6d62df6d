#pragma once
// The part of a model that text needs: its tokenizer and chat template, without the weights.
#include "hone/config/run_config.h"
#include "hone/model/source.h"
#include "hone/text/chat_template.h"
#include "hone/text/tokenizer.h"

namespace hone::app {

struct TextModel {
  text::Tokenizer tokenizer;
  text::ChatTemplate chat;
};

/// The tokenizer, with the roles that the source gives by their text.
text::Tokenizer make_tokenizer(const model::TokenizerSource& source);

/// Tokenizer and template of the model, or the template of --chat_template_path.
TextModel make_text_model(const model::TokenizerSource& source, const config::ModelOptions& options);
TextModel open_text_model(const config::ModelOptions& options);

}  // namespace hone::app
