package presence

import (
	"cmp"
	"slices"
	"time"

	"hanse/pkg/matrix/id"
	logv1 "hanse/proto/log/v1"
)

// The states (client-server API, "Presence"; busy is MSC3026).
const (
	Online      = "online"
	Unavailable = "unavailable"
	Offline     = "offline"
	Busy        = "busy"
)

const (
	// ActiveFor is how long somebody counts as active after having done something.
	ActiveFor = 60 * time.Second
	// IdleFor is after what time without activity a device that is online becomes unavailable.
	IdleFor = 5 * time.Minute
	// SetFor is for how long what PUT /presence says counts of a device that does not poll.
	SetFor = 30 * time.Second
	// BusyFor is for how long a device that is busy counts after it was last heard of: the user may be in a call.
	BusyFor = time.Hour
	// RemoteFor is for how long a user of another server counts after having been heard of.
	RemoteFor = 30 * time.Minute
	// PingEvery is how often others are told of a local user who does not change.
	PingEvery = 25 * time.Minute

	// maxDevices bounds the devices of a user that count.
	maxDevices = 20
)

// Valid reports whether s is a state that a client may set.
func Valid(s string) bool { return rank(s) >= 0 }

// rank orders the states; the highest one of a user's devices counts.
func rank(s string) int { return slices.Index([]string{Offline, Unavailable, Online, Busy}, s) }

// Change makes of what is known of a user what is known then. It may be called several times.
type Change func(p *logv1.Presence, now time.Time)

// Put is what PUT /presence/{userId}/status by a device does. Without a status there is none any more.
func Put(device id.Device, presence, status string) Change {
	return func(p *logv1.Presence, now time.Time) {
		d := deviceOf(p, device)
		until := now.Add(SetFor)
		if presence == Busy {
			until = now.Add(BusyFor)
		}
		d.Presence, d.ActiveMs, d.UntilMs = presence, now.UnixMilli(), max(d.UntilMs, until.UnixMilli())
		p.StatusMsg = status
	}
}

// Poll is what a poll that began at a time with a set_presence does, other than offline, which does nothing. The device
// counts for as long as lease, from now on, unless it leaves before.
func Poll(device id.Device, set string, began time.Time, lease time.Duration) Change {
	return func(p *logv1.Presence, now time.Time) {
		d := deviceOf(p, device)
		if d.Presence != Busy {
			d.Presence = set
		}
		keep(d, began, now.Add(lease))
	}
}

// Keep is Poll for one that goes on: what the device has said since stands.
func Keep(device id.Device, set string, began time.Time, lease time.Duration) Change {
	return func(p *logv1.Presence, now time.Time) {
		d := deviceOf(p, device)
		d.Presence = cmp.Or(d.Presence, set)
		keep(d, began, now.Add(lease))
	}
}

// Leave is that a device has stopped to poll, if nobody has moved on until when it counts.
func Leave(device id.Device, until int64) Change {
	return func(p *logv1.Presence, now time.Time) {
		d := Device(p, device)
		switch {
		case d == nil || d.UntilMs > until:
		case d.Presence == Busy:
			d.UntilMs = now.Add(BusyFor).UnixMilli()
		default:
			d.UntilMs = 0
		}
	}
}

// Look changes nothing but what time has.
func Look(*logv1.Presence, time.Time) {}

// Told is what another server says of its user.
func Told(q *logv1.Presence) Change {
	return func(p *logv1.Presence, now time.Time) {
		p.Presence, p.StatusMsg, p.LastActiveMs, p.CurrentlyActive = q.Presence, q.StatusMsg, q.LastActiveMs, q.CurrentlyActive
		p.VersionMs = now.UnixMilli()
	}
}

// Device returns what a device of a user says, nil if it says nothing.
func Device(p *logv1.Presence, device id.Device) *logv1.DevicePresence {
	for _, d := range p.GetDevices() {
		if d.DeviceId == string(device) {
			return d
		}
	}
	return nil
}

// deviceOf returns what a device of a local user says, to be changed.
func deviceOf(p *logv1.Presence, device id.Device) *logv1.DevicePresence {
	p.Local = true
	d := Device(p, device)
	if d == nil {
		d = &logv1.DevicePresence{DeviceId: string(device)}
		p.Devices = append(p.Devices, d)
	}
	return d
}

// keep lets a device count for longer. A poll is activity if the device is online, as with Synapse.
func keep(d *logv1.DevicePresence, began, until time.Time) {
	if d.Presence == Online {
		d.ActiveMs = max(d.ActiveMs, began.UnixMilli())
	}
	d.UntilMs = max(d.UntilMs+1, until.UnixMilli()) // no two workers take the same for theirs: see Leave
}

// settle does what time does, and makes of what a local user's devices say what the user is (client-server API,
// "Presence": "Last active ago", "Idle timeout").
func settle(p *logv1.Presence, now time.Time) {
	ms := now.UnixMilli()
	if !p.Local {
		if ms-p.VersionMs > RemoteFor.Milliseconds() {
			p.Presence, p.CurrentlyActive = Offline, false
		}
		return
	}
	p.Presence = Offline
	p.Devices = slices.DeleteFunc(p.Devices, func(d *logv1.DevicePresence) bool { return d.UntilMs <= ms })
	for _, d := range p.Devices {
		if d.Presence == Online && ms-d.ActiveMs > IdleFor.Milliseconds() {
			d.Presence = Unavailable
		}
		if rank(d.Presence) > rank(p.Presence) {
			p.Presence = d.Presence
		}
		p.LastActiveMs = max(p.LastActiveMs, d.ActiveMs)
	}
	p.CurrentlyActive = p.Presence == Online && ms-p.LastActiveMs < ActiveFor.Milliseconds()
	if len(p.Devices) > maxDevices {
		slices.SortFunc(p.Devices, func(a, b *logv1.DevicePresence) int {
			return cmp.Or(rank(b.Presence)-rank(a.Presence), cmp.Compare(b.UntilMs, a.UntilMs))
		})
		p.Devices = p.Devices[:maxDevices]
	}
}

// sameSeen says whether others see no difference. That somebody has been active is one, unless they know that it is so
// all the time.
func sameSeen(a, b *logv1.Presence) bool {
	return a.Presence == b.Presence && a.StatusMsg == b.StatusMsg && a.CurrentlyActive == b.CurrentlyActive &&
		(b.CurrentlyActive || b.LastActiveMs-a.LastActiveMs <= ActiveFor.Milliseconds())
}

// sameDevices says whether the same devices are in the same states.
func sameDevices(a, b *logv1.Presence) bool {
	if len(a.Devices) != len(b.Devices) {
		return false
	}
	for _, d := range a.Devices {
		if other := Device(b, id.Device(d.DeviceId)); other == nil || other.Presence != d.Presence {
			return false
		}
	}
	return true
}

// News says whether others are to be told of what was heard behind old, which may be nil.
func News(old, heard *logv1.Presence) bool { return old == nil || !sameSeen(old, heard) }

// Ago returns how long ago somebody was active, 0 if that is not known. While they are currently active it is less than
// [ActiveFor], whatever was heard last (client-server API, "Last active ago").
func Ago(p *logv1.Presence, now time.Time) time.Duration {
	if p.LastActiveMs <= 0 {
		return 0
	}
	ago := max(time.Millisecond, now.Sub(time.UnixMilli(p.LastActiveMs)).Truncate(time.Millisecond))
	if p.CurrentlyActive {
		ago = min(ago, ActiveFor)
	}
	return ago
}

// Due returns when time changes what is known, as far as that is known: when a device, or a user of another server,
// counts no longer.
func Due(p *logv1.Presence) time.Time {
	if !p.Local {
		return time.UnixMilli(p.VersionMs).Add(RemoteFor)
	}
	var due int64
	for _, d := range p.Devices {
		if due == 0 || d.UntilMs < due {
			due = d.UntilMs
		}
	}
	return time.UnixMilli(due)
}
