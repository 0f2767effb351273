package state

import "strings"

// Key names one entry of a room's state: an event type and a state key
// (Client-Server API, "Types of room events").
type Key struct{ Type, StateKey string }

// The tree orders byte strings, so a Key becomes one string: the type, two zero
// bytes, the state key. A zero byte inside a type (JSON allows one) is written
// 00 01, which sorts after the terminator 00 00: the order of the encoded strings
// is the order of (type, state key), and no two keys meet in one string.
const typeEnd = "\x00\x00"

// keyBuf is long enough for almost every key; a longer one spills to the heap.
type keyBuf [160]byte

func appendType(b []byte, typ string) []byte {
	if strings.IndexByte(typ, 0) < 0 {
		return append(b, typ...)
	}
	for i := range len(typ) {
		b = append(b, typ[i])
		if typ[i] == 0 {
			b = append(b, 1)
		}
	}
	return b
}

func appendKey(b []byte, k Key) []byte {
	b = appendType(b, k.Type)
	b = append(b, typeEnd...)
	return append(b, k.StateKey...)
}

func encodeKey(k Key) string {
	var buf keyBuf
	return string(appendKey(buf[:0], k))
}

// decodeKey is the inverse of encodeKey; the strings share memory with enc.
func decodeKey(enc string) Key {
	escaped := false
	for i := 0; i+1 < len(enc); i++ {
		j := strings.IndexByte(enc[i:], 0)
		if j < 0 || i+j+1 >= len(enc) {
			break
		}
		i += j
		if enc[i+1] == 0 {
			typ := enc[:i]
			if escaped {
				typ = strings.ReplaceAll(typ, "\x00\x01", "\x00")
			}
			return Key{typ, enc[i+2:]}
		}
		escaped = true
		i++
	}
	return Key{Type: enc} // unreachable for strings made by encodeKey
}

// validKey says whether enc could have come from encodeKey; it guards what is
// read back from storage.
func validKey(enc string) bool {
	for i := 0; i+1 < len(enc); i++ {
		if enc[i] != 0 {
			continue
		}
		switch enc[i+1] {
		case 0:
			return true
		case 1:
			i++
		default:
			return false
		}
	}
	return false
}
