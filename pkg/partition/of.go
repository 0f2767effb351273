package partition

import (
	"fmt"
	"sync/atomic"
)

// DefaultCount is the number of partitions of a cluster unless it was created with another.
const DefaultCount = 64

// MaxCount bounds the number of partitions; sync tokens and subjects name them.
const MaxCount = 4096

var count atomic.Uint32

// Fix sets the number of partitions of the cluster that this process belongs to. It is fixed when
// the cluster is created (table cluster of shard 0) and cannot change afterwards: a second call with
// another number is an error. Without a call it is DefaultCount.
func Fix(n uint32) error {
	if n == 0 || n > MaxCount {
		return fmt.Errorf("%d partitions: must be 1 to %d", n, MaxCount)
	}
	if !count.CompareAndSwap(0, n) && count.Load() != n {
		return fmt.Errorf("%d partitions: this process already uses %d", n, count.Load())
	}
	return nil
}

// Count is the number of partitions of the cluster.
func Count() uint32 {
	if n := count.Load(); n != 0 {
		return n
	}
	return DefaultCount
}

// Of returns the partition of a room id, user id, server name or alias: FNV-1a (64 bits) modulo
// Count. It is part of what is stored: it must never change.
func Of(s string) uint32 {
	return uint32(fnv1a(s) % uint64(Count()))
}

func fnv1a(s string) uint64 {
	h := uint64(14695981039346656037)
	for i := range len(s) {
		h ^= uint64(s[i])
		h *= 1099511628211
	}
	return h
}

// rendezvous returns the index of the candidate with the highest weight for a partition, -1 if
// there are none. All workers that know the same candidates get the same answer, and one more or
// less moves only the partitions that it gets or had.
func rendezvous(part uint32, ids []string) int {
	best, bestWeight := -1, uint64(0)
	for i, id := range ids {
		w := mix(fnv1a(id) ^ mix(uint64(part)+0x9e3779b97f4a7c15))
		if best < 0 || w > bestWeight || (w == bestWeight && id < ids[best]) {
			best, bestWeight = i, w
		}
	}
	return best
}

// mix is the finaliser of splitmix64: FNV alone leaves the high bits of short names alike.
func mix(x uint64) uint64 {
	x ^= x >> 30
	x *= 0xbf58476d1ce4e5b9
	x ^= x >> 27
	x *= 0x94d049bb133111eb
	return x ^ x>>31
}
