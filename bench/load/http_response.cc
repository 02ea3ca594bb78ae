// SPDX-License-Identifier: Apache-2.0
#include "bench/load/http_response.h"

#include <algorithm>
#include <charconv>

namespace allezon::load {
namespace {

bool EqualsIgnoreCase(std::string_view text, std::string_view lower) {
  if (text.size() != lower.size()) return false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i] >= 'A' && text[i] <= 'Z' ? static_cast<char>(text[i] + 32) : text[i];
    if (c != lower[i]) return false;
  }
  return true;
}

std::string_view Trim(std::string_view text) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\t')) text.remove_suffix(1);
  return text;
}

bool ParseNumber(std::string_view text, int base, uint64_t* value) {
  const auto result = std::from_chars(text.data(), text.data() + text.size(), *value, base);
  return result.ec == std::errc() && result.ptr == text.data() + text.size();
}

// Calls `use` for each trimmed element of a comma-separated list.
template <typename Use>
void ForEachElement(std::string_view list, Use use) {
  while (!list.empty()) {
    const size_t comma = std::min(list.find(','), list.size());
    use(Trim(list.substr(0, comma)));
    list.remove_prefix(std::min(comma + 1, list.size()));
  }
}

}  // namespace

void ResponseReader::Reset() {
  state_ = State::kHead;
  started_ = chunked_ = has_length_ = false;
  left_ = 0;
  extra_bytes_ = 0;
  head_.clear();
  error_.clear();
  response_.status = 0;
  response_.close = false;
  response_.keep_alive_s = -1;
  response_.body.clear();
}

ResponseReader::Progress ResponseReader::Broken(std::string_view why) {
  error_ = why;
  return Progress::kBroken;
}

ResponseReader::Progress ResponseReader::Feed(std::string_view bytes) {
  if (bytes.empty()) return state_ == State::kDone ? Progress::kDone : Progress::kMore;
  started_ = true;
  while (state_ == State::kHead) {
    // The end of the head may be cut in two: look again at the last three bytes.
    const size_t from = head_.size() < 3 ? 0 : head_.size() - 3;
    const size_t before = head_.size();
    head_.append(bytes.substr(0, kHeadBytesMax + 4 - std::min(before, kHeadBytesMax)));
    const size_t end = head_.find("\r\n\r\n", from);
    if (end == std::string::npos) {
      return head_.size() > kHeadBytesMax ? Broken("the head is too long") : Progress::kMore;
    }
    bytes.remove_prefix(end + 4 - before);
    head_.resize(end);
    if (ParseHead(head_) == Progress::kBroken) return Progress::kBroken;
    head_.clear();
    if (response_.status >= 100 && response_.status < 200) {  // 100 Continue: the answer follows
      if (response_.status == 101) return Broken("an upgrade that nobody asked for");
      Reset();
      started_ = true;
      if (bytes.empty()) return Progress::kMore;
      continue;
    }
    if (BeginBody() == Progress::kBroken) return Progress::kBroken;
  }
  if (state_ == State::kLength || state_ == State::kUntilEnd) {
    const size_t take =
        state_ == State::kLength ? std::min<uint64_t>(left_, bytes.size()) : bytes.size();
    if (response_.body.size() + take > kBodyBytesMax) return Broken("the body is too long");
    response_.body.append(bytes.substr(0, take));
    bytes.remove_prefix(take);
    if (state_ == State::kLength && (left_ -= take) == 0) state_ = State::kDone;
  }
  if (state_ == State::kChunkSize || state_ == State::kChunkData || state_ == State::kChunkEnd ||
      state_ == State::kTrailer) {
    return FeedChunked(bytes);
  }
  if (state_ != State::kDone) return Progress::kMore;
  extra_bytes_ += bytes.size();
  return Progress::kDone;
}

ResponseReader::Progress ResponseReader::FeedEnd() {
  if (state_ == State::kDone) return Progress::kDone;
  if (state_ == State::kUntilEnd) {
    state_ = State::kDone;
    return Progress::kDone;
  }
  return Broken(started_ ? "closed in the middle of an answer" : "closed without an answer");
}

ResponseReader::Progress ResponseReader::ParseHead(std::string_view head) {
  const std::string_view line = head.substr(0, std::min(head.find("\r\n"), head.size()));
  uint64_t status = 0;
  const bool is_http = line.starts_with("HTTP/1.1 ") || line.starts_with("HTTP/1.0 ");
  if (!is_http || line.size() < 12 || !ParseNumber(line.substr(9, 3), 10, &status) ||
      status < 100 || (line.size() > 12 && line[12] != ' ')) {
    return Broken("the status line is not of HTTP/1");
  }
  response_.status = static_cast<int>(status);
  response_.close = line[7] == '0';
  head.remove_prefix(std::min(line.size() + 2, head.size()));
  while (!head.empty()) {
    const size_t end = std::min(head.find("\r\n"), head.size());
    if (ParseHeader(head.substr(0, end)) == Progress::kBroken) return Progress::kBroken;
    head.remove_prefix(std::min(end + 2, head.size()));
  }
  return Progress::kMore;
}

ResponseReader::Progress ResponseReader::ParseHeader(std::string_view line) {
  const size_t colon = line.find(':');
  if (colon == std::string_view::npos || colon == 0) return Broken("a header without a colon");
  const std::string_view name = line.substr(0, colon);
  const std::string_view value = Trim(line.substr(colon + 1));
  if (EqualsIgnoreCase(name, "content-length")) {
    uint64_t length = 0;
    if (!ParseNumber(value, 10, &length)) return Broken("Content-Length is not a number");
    if (has_length_ && length != left_) return Broken("two different Content-Lengths");
    has_length_ = true;
    left_ = length;
  } else if (EqualsIgnoreCase(name, "transfer-encoding")) {
    if (!EqualsIgnoreCase(value, "chunked")) return Broken("an unknown Transfer-Encoding");
    chunked_ = true;
  } else if (EqualsIgnoreCase(name, "connection")) {
    ForEachElement(value, [&](std::string_view option) {
      if (EqualsIgnoreCase(option, "close")) response_.close = true;
      if (EqualsIgnoreCase(option, "keep-alive")) response_.close = false;
    });
  } else if (EqualsIgnoreCase(name, "keep-alive")) {
    ForEachElement(value, [&](std::string_view option) {
      uint64_t seconds = 0;
      constexpr std::string_view kTimeout = "timeout=";
      if (option.starts_with(kTimeout) &&
          ParseNumber(option.substr(kTimeout.size()), 10, &seconds)) {
        response_.keep_alive_s = static_cast<int64_t>(std::min<uint64_t>(seconds, 1 << 30));
      }
    });
  }
  return Progress::kMore;
}

ResponseReader::Progress ResponseReader::BeginBody() {
  if (response_.status == 204 || response_.status == 304) {
    state_ = State::kDone;
  } else if (chunked_) {
    state_ = State::kChunkSize;
  } else if (has_length_) {
    if (left_ > kBodyBytesMax) return Broken("the body is too long");
    state_ = left_ == 0 ? State::kDone : State::kLength;
    response_.body.reserve(left_);
  } else {
    state_ = State::kUntilEnd;
    response_.close = true;
  }
  return Progress::kMore;
}

// Moves bytes up to the next LF into head_; *whole says that head_ holds a line, without CRLF.
ResponseReader::Progress ResponseReader::TakeLine(std::string_view* bytes, bool* whole) {
  const size_t end = bytes->find('\n');
  *whole = end != std::string_view::npos;
  const size_t take = *whole ? end + 1 : bytes->size();
  if (head_.size() + take > kHeadBytesMax) return Broken("a chunk's line is too long");
  head_.append(bytes->substr(0, take));
  bytes->remove_prefix(take);
  if (!*whole) return Progress::kMore;
  if (!head_.ends_with("\r\n")) return Broken("a chunk's line ends without CR");
  head_.resize(head_.size() - 2);
  return Progress::kMore;
}

ResponseReader::Progress ResponseReader::FeedChunked(std::string_view bytes) {
  while (!bytes.empty() && state_ != State::kDone) {
    if (state_ == State::kChunkData) {
      const size_t take = std::min<uint64_t>(left_, bytes.size());
      response_.body.append(bytes.substr(0, take));
      bytes.remove_prefix(take);
      if ((left_ -= take) == 0) state_ = State::kChunkEnd;
      continue;
    }
    bool whole = false;
    if (TakeLine(&bytes, &whole) == Progress::kBroken) return Progress::kBroken;
    if (!whole) break;
    if (state_ == State::kChunkSize) {
      const std::string_view line(head_);
      const std::string_view size = Trim(line.substr(0, std::min(line.find(';'), line.size())));
      if (!ParseNumber(size, 16, &left_)) return Broken("a chunk's size is not a number");
      if (left_ > kBodyBytesMax - response_.body.size()) return Broken("the body is too long");
      state_ = left_ == 0 ? State::kTrailer : State::kChunkData;
    } else if (state_ == State::kChunkEnd) {
      if (!head_.empty()) return Broken("a chunk is longer than it says");
      state_ = State::kChunkSize;
    } else if (head_.empty()) {  // the trailer's end
      state_ = State::kDone;
    }
    head_.clear();
  }
  if (state_ != State::kDone) return Progress::kMore;
  extra_bytes_ += bytes.size();
  return Progress::kDone;
}

}  // namespace allezon::load
