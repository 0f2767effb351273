package sync

import (
	"context"

	"hanse/pkg/matrix/canonjson"
	"hanse/pkg/matrix/id"
	"hanse/pkg/userdb"
)

// How many to-device messages one answer carries, and how many bytes of them; those of one request are never taken apart.
const (
	toDeviceLimit = 100
	toDeviceBytes = 1 << 20
)

// addToDevice adds what waits for the device. If not all of it fits, the answer's token says how far it went, at a
// boundary between positions.
func (s *Service) addToDevice(ctx context.Context, a *answer, p *poll, after, upTo int64) error {
	if p.device == "" {
		return nil
	}
	msgs, end, err := s.userdb.ToDeviceSince(ctx, p.who.User, p.device, after, upTo, toDeviceLimit, toDeviceBytes)
	if err != nil {
		return err
	}
	if end < upTo {
		a.next.Behind = a.next.UserSeq - end
	}
	for i := range msgs {
		a.toDevice = append(a.toDevice, toDeviceEvent(&msgs[i]))
	}
	return nil
}

func toDeviceEvent(m *userdb.ToDevice) []byte {
	b := append(make([]byte, 0, len(m.Content)+128), `{"content":`...)
	b = append(b, m.Content...)
	b = append(b, `,"sender":`...)
	b = canonjson.AppendString(b, string(m.Sender))
	b = append(b, `,"type":`...)
	b = canonjson.AppendString(b, m.Type)
	return append(b, '}')
}

// addAccountData adds the user's account data, the rooms' as well: they are kept for the rooms' answers.
func (s *Service) addAccountData(ctx context.Context, a *answer, p *poll, after, upTo int64) error {
	data, err := s.userdb.AccountDataSince(ctx, p.who.User, after, upTo)
	if err != nil {
		return err
	}
	p.user.learn(data, after, upTo)
	for _, d := range data {
		if d.Room == "" && p.filter.AccountData.wantsType(d.Type) {
			a.accountData = append(a.accountData, basicEvent(d.Type, d.Content))
		}
		if d.Room != "" && p.filter.Room.AccountData.wantsType(d.Type) && p.filter.Room.AccountData.wantsRoom(d.Room) {
			if p.roomData == nil {
				p.roomData = make(map[id.Room][][]byte)
			}
			p.roomData[d.Room] = append(p.roomData[d.Room], basicEvent(d.Type, d.Content))
		}
	}
	if p.since == nil {
		return s.addDefaultPushRules(a, p, data)
	}
	return nil
}

// deviceKeys is what is left of a device's keys on the server.
type deviceKeys struct {
	counts   map[string]int
	fallback []string
	seq      int64 // position of the user's stream at which they were counted
	news     bool  // they changed since the device was told
}

// keysOf returns the counts of one-time keys and the unused fallback keys (client-server API, section "Extensions to
// /sync" of the module End-to-end encryption), as of a position of the user's stream; nil if there is no device.
func (s *Service) keysOf(ctx context.Context, p *asker, seq int64) (*deviceKeys, error) {
	if p.device == "" {
		return nil, nil
	}
	p.user.mu.Lock()
	k, ok := p.user.keys[p.device]
	p.user.mu.Unlock()
	if !ok || k.seq < seq {
		counts, err := s.userdb.OneTimeKeyCounts(ctx, p.who.User, p.device)
		if err != nil {
			return nil, err
		}
		fallback, err := s.userdb.UnusedFallbackAlgorithms(ctx, p.who.User, p.device)
		if err != nil {
			return nil, err
		}
		k = deviceKeys{counts: counts, fallback: fallback, seq: seq, news: ok && !sameCounts(k, counts, fallback)}
	} else {
		k.news = false
	}
	p.user.mu.Lock()
	p.user.keys[p.device] = k
	p.user.mu.Unlock()
	return &k, nil
}

func sameCounts(k deviceKeys, counts map[string]int, fallback []string) bool {
	if len(k.counts) != len(counts) || len(k.fallback) != len(fallback) {
		return false
	}
	for alg, n := range counts {
		if k.counts[alg] != n {
			return false
		}
	}
	for i, f := range fallback {
		if k.fallback[i] != f {
			return false
		}
	}
	return true
}

func (k *deviceKeys) append(b []byte) []byte {
	b = append(b, `,"device_one_time_keys_count":{`...)
	// Clients take a missing algorithm for one that the server says nothing of: the usual one is always there.
	b = appendCount(b, signedCurve25519, int64(k.counts[signedCurve25519]))
	for alg, n := range k.counts {
		if alg != signedCurve25519 {
			b = appendCount(append(b, ','), alg, int64(n))
		}
	}
	b = append(b, `},"device_unused_fallback_key_types":[`...)
	for i, f := range k.fallback {
		if i > 0 {
			b = append(b, ',')
		}
		b = canonjson.AppendString(b, f)
	}
	return append(b, ']')
}

const signedCurve25519 = "signed_curve25519"

// acknowledge says whether a token is newer than those that the device has acknowledged.
func (u *user) acknowledge(device id.Device, seq int64) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.acked == nil {
		u.acked = make(map[id.Device]int64)
	}
	if old, ok := u.acked[device]; ok && old >= seq {
		return false
	}
	u.acked[device] = seq
	return true
}
