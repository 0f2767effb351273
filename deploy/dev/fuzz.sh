#!/bin/sh
# Runs every fuzzer of the given modules for a short time: fuzz.sh TIME MODULE...
set -eu
time=$1
shift
for module in "$@"; do
	cd "$module"
	grep -rl --include='*_test.go' '^func Fuzz' . | xargs -r -n1 dirname | sort -u | while read -r dir; do
		for name in $(grep -hoE '^func Fuzz[A-Za-z0-9_]+' "$dir"/*_test.go | cut -c6-); do
			"${GO:-go}" test -run '^$' -fuzz "^$name\$" -fuzztime "$time" "$dir" >fuzz.out 2>&1 || { cat fuzz.out; rm -f fuzz.out; exit 1; }
			echo "ok  	$module/${dir#./}	$name"
		done
	done
	rm -f fuzz.out
	cd - >/dev/null
done
