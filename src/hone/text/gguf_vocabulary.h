#pragma once
// The tokenizer as GGUF metadata carries it (keys tokenizer.ggml.*), as plain values: the GGUF reader fills it, Tokenizer::from_gguf reads it.
#include <cstdint>
#include <string>
#include <vector>

namespace hone::text {

struct GgufVocabulary {
  std::string model;                 // tokenizer.ggml.model; only "gpt2" (byte-level BPE) is supported
  std::string pre;                   // tokenizer.ggml.pre: "smollm", "gpt-2", "gpt2"; empty = absent = gpt-2
  std::vector<std::string> tokens;   // tokenizer.ggml.tokens, index = id
  std::vector<int32_t> token_types;  // tokenizer.ggml.token_type (1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte); may be empty
  std::vector<std::string> merges;   // tokenizer.ggml.merges, "left right"
  int64_t bos = -1, eos = -1, unk = -1, pad = -1;  // -1 = absent
  bool add_bos = false;                            // tokenizer.ggml.add_bos_token
  std::string chat_template;                       // tokenizer.chat_template; empty = absent
};

}  // namespace hone::text
