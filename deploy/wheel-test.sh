#!/bin/sh
# Build the wheel, install it into a separate environment outside the checkout, and run the tests on it.
# Before that, a smoke run with only the run-time dependencies of the daemon.
set -eu
case $1 in /*) python=$1 ;; *) python=$(pwd)/$1 ;; esac
checkout=$(pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"$python" -m build --wheel --outdir "$work/dist" . >"$work/build.log" 2>&1 || { cat "$work/build.log" >&2; exit 1; }
wheel=$(ls "$work"/dist/*.whl)
export PIP_DISABLE_PIP_VERSION_CHECK=1

"$python" -m venv "$work/core"
"$work/core/bin/pip" install --quiet "$wheel"
mkdir "$work/empty"
cd "$work/empty"
"$work/core/bin/edgebed" --version
printf 'time,x\n0,1\n1,2\n' >readings.csv
cat >agent.yaml <<'YAML'
node: acme/smoke/bench/node-1
broker: {url: "mqtt://127.0.0.1:1883"}
state: ./state
devices:
  log: {adapter: replay, options: {file: readings.csv, time: time, fields: {x: x}}}
YAML
"$work/core/bin/edgebed" agent check agent.yaml
"$work/core/bin/edgebed" agent once agent.yaml
shipped=$work/core/share/edgebed
for package in "$shipped"/models/*/; do
    "$work/core/bin/edgebed" model verify "$package" --public-key "$shipped/configs/keys/edgebed.pem"
done

"$python" -m venv "$work/full"
"$work/full/bin/pip" install --quiet "$wheel[test]"
cp -r "$checkout/tests" "$work/tests"
cp "$checkout/pyproject.toml" "$work/pyproject.toml"
cp -r "$checkout/docs" "$checkout/configs" "$checkout/models" "$checkout/deploy" "$work/"
cd "$work"
# left out: tests of the checkout itself
"$work/full/bin/pytest" -q -m "not slow" -n 4 tests/unit tests/contract tests/integration \
    --ignore=tests/unit/docs --ignore=tests/unit/packaging \
    --deselect=tests/unit/adapters/test_built_in.py::test_the_same_word_in_three_places
