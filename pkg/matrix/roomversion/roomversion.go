// Package roomversion says what the room versions 1 to 12 differ in (specification, "Room Versions"), and some of proposals.
package roomversion

import "slices"

// Rules are the rules of one room version. They are shared: never change one.
type Rules struct {
	Version string
	Stable  bool
	// EventFormat is 1 where events name others by pairs of id and hash and carry their own id (versions 1 and 2),
	// and 3 where they name them by id.
	EventFormat int
	// EventID is 1 where the sending server makes event ids up, 2 where they are the reference hash in standard
	// base64 (version 3), 3 where it is URL-safe.
	EventID int
	// StateRes is the state resolution algorithm: 1, 2, or 21 for v2.1.
	StateRes int
	// Redaction is the redaction algorithm, by the first room version that has it: 1, 6, 8, 9, 11.
	Redaction int
	// EnforceKeyValidity: a signature counts only if its key was valid at the time (version 5).
	EnforceKeyValidity bool
	// StrictCanonicalJSON: events that are not canonical JSON are rejected (version 6).
	StrictCanonicalJSON bool
	// SpecialAliasesAuth: m.room.aliases has an auth rule of its own (up to version 5).
	SpecialAliasesAuth bool
	// RedactionAuthRule: whether somebody may redact is an auth rule (versions 1 and 2); later servers check before
	// they apply the redaction.
	RedactionAuthRule bool
	// NotificationLevelsAuth: changes of notifications in power levels are checked (version 6).
	NotificationLevelsAuth bool
	Knocking               bool // version 7
	RestrictedJoin         bool // version 8
	KnockRestricted        bool // version 10
	// IntegerPowerLevels: levels must be integers, not strings of them (version 10).
	IntegerPowerLevels bool
	// ImplicitCreator: the sender of m.room.create is the creator, content.creator is gone (version 11).
	ImplicitCreator bool
	// RedactsInContent: the redacted event is named in the content (version 11).
	RedactsInContent bool
	// StrictFieldBytes: an event whose type or state key has more than 255 bytes is not taken at all; before, if it has no
	// more than 255 code points, it is kept as rejected, as Synapse does (version 11).
	StrictFieldBytes bool
	// PrivilegedCreators: creators stand above all power levels (version 12).
	PrivilegedCreators bool
	// RoomIDIsCreateHash: the room id is the hash of the create event, which is not among auth_events (version 12).
	RoomIDIsCreateHash bool
	// OwnedState: a state key that begins with a user id belongs to that user, also if something follows behind a _, and users with
	// more power may set it (MSC3757).
	OwnedState bool
}

// MaxStateKey is how many bytes a state key may have.
func (r *Rules) MaxStateKey() int {
	if r.OwnedState {
		return 511
	}
	return 255
}

// Default is the version of new rooms.
const Default = "12"

var versions = build()

func build() map[string]*Rules {
	r := Rules{Stable: true, EventFormat: 1, EventID: 1, StateRes: 1, Redaction: 1, SpecialAliasesAuth: true, RedactionAuthRule: true}
	all := make(map[string]*Rules)
	add := func(v string, change func()) {
		change()
		r.Version = v
		c := r
		all[v] = &c
	}
	add("1", func() {})
	add("2", func() { r.StateRes = 2 })
	add("3", func() { r.EventFormat, r.EventID, r.RedactionAuthRule = 3, 2, false })
	add("4", func() { r.EventID = 3 })
	add("5", func() { r.EnforceKeyValidity = true })
	add("6", func() {
		r.StrictCanonicalJSON, r.SpecialAliasesAuth, r.NotificationLevelsAuth, r.Redaction = true, false, true, 6
	})
	add("7", func() { r.Knocking = true })
	add("8", func() { r.RestrictedJoin, r.Redaction = true, 8 })
	add("9", func() { r.Redaction = 9 })
	add("10", func() { r.KnockRestricted, r.IntegerPowerLevels = true, true })
	add("11", func() { r.ImplicitCreator, r.RedactsInContent, r.StrictFieldBytes, r.Redaction = true, true, true, 11 })
	add("12", func() { r.StateRes, r.PrivilegedCreators, r.RoomIDIsCreateHash = 21, true, true })
	for _, base := range []string{"10", "11"} {
		owned := *all[base]
		owned.Version, owned.Stable, owned.OwnedState = "org.matrix.msc3757."+base, false, true
		all[owned.Version] = &owned
	}
	return all
}

// Get returns the rules of a version that we support.
func Get(v string) (*Rules, bool) {
	r, ok := versions[v]
	return r, ok
}

// Supported returns the versions that we support, oldest first.
func Supported() []string {
	s := make([]string, 0, len(versions))
	for v := range versions {
		s = append(s, v)
	}
	slices.SortFunc(s, func(a, b string) int {
		if len(a) != len(b) {
			return len(a) - len(b)
		}
		if a < b {
			return -1
		}
		return 1
	})
	return s
}
