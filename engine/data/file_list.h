// Which files a list of paths, globs and directories means, and what is in them.
#pragma once

#include <string>
#include <vector>

#include "engine/config/train_config.h"

namespace engine {

// Every path, each glob (`data/*.jsonl`) as its matches in byte order, and each directory as the
// files below it that have a supported name, in byte order, hidden ones left out. Throws DATA-OPEN
// for a path that does not exist (naming a similar neighbour) or a pattern that matches nothing.
std::vector<std::string> expand_files(const std::vector<std::string>& patterns);

// `text` or `json` (JSON Lines or one JSON array: the first byte decides), for `requested`, or when
// that is automatic for the name: .txt .text .md, or .jsonl .ndjson .json, each also with .gz.
// Throws DATA-OPEN for a name that says nothing, DATA-FORMAT for CSV and TSV.
DataFormat file_format(const std::string& path, DataFormat requested);

}  // namespace engine
