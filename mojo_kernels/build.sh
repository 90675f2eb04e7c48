#!/usr/bin/env bash
# Precompiles the kernel package into the user's cache, when it changed, and prints the package's path.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
[ -x "$python" ] || python=python3
exec "$python" -m python_layer.model.kernels
