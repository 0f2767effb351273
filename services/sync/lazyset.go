package sync

import "slices"

// lazySet is a set of member events, small in memory: a device that has loaded many rooms has thousands. It forgets the
// oldest when it is full. Its two halves are in order; the older one goes when the younger one is full.
type lazySet struct{ young, old []lazyKey }

// lazyKey is a member event: the partition and the event's number in it.
type lazyKey uint64

// nidBits is enough for the numbers of a partition: 2^52 events.
const nidBits = 52

func keyOf(part uint32, nid int64) lazyKey {
	return lazyKey(uint64(part)<<nidBits | uint64(nid)&(1<<nidBits-1))
}

// lazyHalf bounds each half: a device takes up to 32 KiB.
const lazyHalf = 2000

func (s *lazySet) has(key lazyKey) bool {
	if _, ok := slices.BinarySearch(s.young, key); ok {
		return true
	}
	_, ok := slices.BinarySearch(s.old, key)
	return ok
}

// add adds keys, and returns those that are new.
func (s *lazySet) add(keys []lazyKey) []lazyKey {
	fresh := make([]lazyKey, 0, len(keys))
	for _, key := range keys {
		if !s.has(key) {
			fresh = append(fresh, key)
		}
	}
	slices.Sort(fresh)
	fresh = slices.Compact(fresh)
	for rest := fresh; len(rest) > 0; {
		if len(s.young) >= lazyHalf {
			s.old, s.young = s.young, nil
		}
		n := min(len(rest), lazyHalf-len(s.young))
		s.young = append(s.young, rest[:n]...)
		slices.Sort(s.young)
		rest = rest[n:]
	}
	return fresh
}

// remove removes keys.
func (s *lazySet) remove(keys []lazyKey) {
	if len(keys) == 0 {
		return
	}
	gone := func(key lazyKey) bool { return slices.Contains(keys, key) }
	if len(keys) > 8 {
		keys = slices.Sorted(slices.Values(keys))
		gone = func(key lazyKey) bool { _, ok := slices.BinarySearch(keys, key); return ok }
	}
	s.young = slices.DeleteFunc(s.young, gone)
	s.old = slices.DeleteFunc(s.old, gone)
}
