#!/bin/sh
# Runs the measurements of docs/performance.md one after the other against a running Hanse, and leaves a report of each,
# as text and as JSON, in a directory. Some minutes.
#
#   tools/loadgen/suite.sh DIR [flags of loadgen: --server, --secret, --pid-tree, --postgres, --metrics ...]
#
# SCENARIOS names those to run (all of them).
set -eu

out=$1
shift
mkdir -p "$out"
loadgen=${LOADGEN:-bin/loadgen}
commit='events per commit=hanse_room_append_entries_sum/hanse_room_append_entries_count'

run() {
	name=$1
	shift
	case " ${SCENARIOS:-$name} " in *" $name "*) ;; *) return 0 ;; esac
	echo "== $name"
	# The books of a scenario that fails are in its report: the others go on.
	"$loadgen" --state "$out/state.json" --json "$out/$name.json" --label "$name" "$@" >"$out/$name.txt" || echo "$name failed"
	cat "$out/$name.txt"
}

# Memory is that of a server which has not done anything yet.
run idle-polls "$@" idle-poll --users 2000
run send-1 "$@" send --senders 1
run send-32 "$@" send --senders 32
run senders "$@" --ratio "$commit" senders --senders 1,8,64,256
run deliver "$@" deliver --members 50 --rate 20
run create-room "$@" create-room --count 300
run join "$@" join --users 1000
run first-100x10 "$@" initial-sync --rooms 100 --members 10 --times 100
run first-100x10-accounts "$@" initial-sync --rooms 100 --members 10 --accounts 10 --times 100
run first-300x300 "$@" initial-sync --rooms 300 --members 300 --messages 20 --times 50
run growth "$@" growth
