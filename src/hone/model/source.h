#pragma once
// Where a model comes from: a Hugging Face folder, a .gguf file, or a hub id in the local Hugging Face cache. One way to read all three:
// tensors by their Hugging Face names, in float32, in the half-split Q/K order (GGUF llama files interleave the rows of q and k).
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "hone/model/config.h"
#include "hone/model/quantized_source.h"

namespace hone::text {
struct GgufVocabulary;
}

namespace hone::model {

/// What is needed to build a tokenizer and to render a conversation.
struct TokenizerSource {
  std::filesystem::path tokenizer_json;                    // empty: the tokenizer is in `gguf`
  std::filesystem::path tokenizer_config_json;             // empty when the folder has none
  std::shared_ptr<const text::GgufVocabulary> gguf;        // null for a folder
  std::string chat_template;                               // empty when there is none; of several named ones the one called "default"
  std::string bos_token, eos_token, unk_token, pad_token;  // as text, for the template and the saved model; empty: none
  std::string content_hash;                                // of everything above; 32 hexadecimal digits
};

class ModelSource {
 public:
  virtual ~ModelSource() = default;
  const ModelConfig& config() const { return config_; }
  /// The folder or .gguf file that was found (a hub id is resolved to its snapshot folder).
  const std::filesystem::path& path() const { return path_; }
  /// The expected tensors of the configuration; each of them is there with that shape (checked at opening).
  const std::vector<TensorSpec>& tensors() const { return tensors_; }
  /// Null when a folder has no tokenizer.
  const TokenizerSource* tokenizer() const { return tokenizer_.get(); }
  /// generation_config.json as read, empty when there is none.
  const std::string& generation_config_json() const { return generation_config_json_; }

  /// The whole tensor as float32; `name` is one of tensors().
  void load(const std::string& name, float* out) const;
  /// Rows [begin, end) only.
  virtual void load_rows(const std::string& name, int64_t begin, int64_t end, float* out) const = 0;
  /// The tensor's 4-bit form where the checkpoint holds it so (load_rows then dequantises).
  virtual std::optional<QuantizedTensor> quantized(const std::string& name) const {
    (void)name;
    return std::nullopt;
  }
  /// The blocks of a GGUF file's tensor, where it is Q4_0 or Q4_1 there: exactly the values of load_rows, in 4 bits.
  virtual std::optional<QuantizedTensor> gguf_blocks(const std::string& name) const {
    (void)name;
    return std::nullopt;
  }
  /// Gives the pages of the mapped files that were read back to the system.
  virtual void release() const {}
  /// Hash of the configuration and of every byte of the weights (reads the files once, at gigabytes a second).
  virtual std::string content_hash() const = 0;

 protected:
  const TensorSpec& spec(const std::string& name) const;
  ModelConfig config_;
  std::filesystem::path path_;
  std::vector<TensorSpec> tensors_;
  std::unique_ptr<TokenizerSource> tokenizer_;
  std::string generation_config_json_;
};

/// The head that a model is opened for. A model with another one is refused by name, with what to do.
enum class Head { language, reward, any };

/// Opens and checks a model: configuration, every tensor's presence, shape and type; nothing is converted yet. UserError (exit 2) with what
/// was found and what was wanted; for a hub id that is not in the cache the message is the command that downloads it.
std::unique_ptr<ModelSource> open_model(const std::string& path_or_id, Head head = Head::language);

/// Only the tokenizer: a folder that holds at least tokenizer.json, a .gguf file, or a hub id.
TokenizerSource open_tokenizer_source(const std::string& path_or_id);

/// The folder or file that `path_or_id` names: itself if it exists, else the snapshot in the local Hugging Face cache ("org/name[@revision]").
std::filesystem::path resolve_model_path(const std::string& path_or_id);

/// Hash of what the model computes: the shape fields of its configuration and every tensor in float32, in the order of tensors(). The same for
/// every form that stores the same values (a GGUF file, a directory in any float type that holds them exactly). Reads the model once.
std::string weights_hash(const ModelSource& source);

}  // namespace hone::model
