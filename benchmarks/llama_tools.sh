#!/usr/bin/env bash
# llama.cpp's own converter and tools, which some benchmarks compare us with: its source as the
# sdist of llama-cpp-python brings it, built for this machine into out/llama.cpp. Needs cmake and
# a C++ compiler; takes some minutes.
set -euo pipefail
cd "$(dirname "$0")/.."
version=0.3.36
target=out/llama.cpp
if [ -x "$target/build/bin/llama-quantize" ]; then
    echo "already in $target"
    exit
fi
mkdir -p "$target"
.venv/bin/python -m pip download --quiet --no-deps --no-binary llama-cpp-python \
    --dest "$target" "llama-cpp-python==$version"
tar -xzf "$target/llama_cpp_python-$version.tar.gz" -C "$target" --strip-components 3 \
    "llama_cpp_python-$version/vendor/llama.cpp"
cmake -S "$target" -B "$target/build" -DCMAKE_BUILD_TYPE=Release -DLLAMA_CURL=OFF \
    -DLLAMA_BUILD_SERVER=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF
cmake --build "$target/build" -j "$(nproc)" --target llama-quantize llama-imatrix
