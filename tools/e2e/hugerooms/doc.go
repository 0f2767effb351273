// Package hugerooms plays large and hostile rooms (tools/hugeroom) through whole clusters: they are joined, forked, cut
// apart and healed while people write and read along, in them and in a room beside them.
//
// What is measured is logged: run with -v. What must hold is tested: each event reaches readers once, the state is that of
// plain state resolution, and a room in the same partition goes on meanwhile.
//
// Quiet times of the neighbour lie between those that they are compared with: on a machine with other work the ratio says more
// than the figures. The other servers of the room run in the process of the test. Forks are made before, and states compared
// after, what is measured; what is left of them meanwhile is one part in a hundred of the processors' time, so they have no
// process of their own.
//
// The sizes are small enough for every day. HUGEROOM_FULL=1 takes those of the network's largest room, which needs half
// an hour, 8 GB of memory and -timeout 2h; HUGEROOM_MEMBERS sets the number of members alone.
//
//	cd tools && HUGEROOM_FULL=1 go test -v -timeout 2h ./e2e/hugerooms
package hugerooms
