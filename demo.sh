#!/usr/bin/env bash
# The main job from end to end: build a model, serve it, ask it, stop. `make demo` calls this.
# PORT (default 8000) is the first of three ports in a row: HTTP, gRPC, metrics.
set -euo pipefail
cd "$(dirname "$0")"
port=${PORT:-8000}

say() { printf '\n\033[1m== %s\033[0m\n' "$*"; }

say "1. Build: train, export to ONNX, gate on held-out accuracy, write the model repository"
slipway build digits

say "2. Serve: a real Triton on model_repository/, ready when each model has given its golden answer"
mkdir -p build
: >build/demo.out # there before it is looked into
slipway serve --http-port "$port" --grpc-port "$((port + 1))" --metrics-port "$((port + 2))" >build/demo.out 2>&1 &
server=$!
trap 'kill "$server" 2>/dev/null && wait "$server" || true' EXIT
until grep -q '^ready' build/demo.out; do
  if ! kill -0 "$server" 2>/dev/null; then
    cat build/demo.out >&2
    exit 1
  fi
  sleep 0.1
done
cat build/demo.out

say "3. Ask: held-out images over HTTP, then one over gRPC"
slipway predict digits build/digits/samples/{3,7,9}.png --url "http://127.0.0.1:$port"
slipway predict digits build/digits/samples/7.png --url "grpc://127.0.0.1:$((port + 1))" --json

say "4. Stop: running requests finish, nothing is left behind"
kill -TERM "$server"
code=0
wait "$server" || code=$?
trap - EXIT
tail -n 1 build/demo.out
[ "$code" -eq 0 ] || exit "$code"

say "Next"
cat <<'TEXT'
slipway serve                                          keep it running (Ctrl-C stops it)
slipway predict digits YOUR.png                        28 x 28 pixels, bright strokes on a dark ground
locust -f loadtest/ --headless -u 10 -t 30s            drive it: 100 requests a second over HTTP and gRPC
slipway build digits train.epochs=60                   change the configuration and build what became stale
(these commands are in .venv/bin: `source .venv/bin/activate` puts them on the PATH)
TEXT
