package core

// The event types that concerns look at.
const (
	TypeMember         = "m.room.member"
	TypeCreate         = "m.room.create"
	TypePowerLevels    = "m.room.power_levels"
	TypeCanonicalAlias = "m.room.canonical_alias"
	TypeVisibility     = "m.room.history_visibility"
	TypeGuestAccess    = "m.room.guest_access"
	TypeTombstone      = "m.room.tombstone"
	TypeRedaction      = "m.room.redaction"
)

// What a user may be to a room (client-server API, "m.room.member").
const (
	Join   = "join"
	Leave  = "leave"
	Invite = "invite"
	Ban    = "ban"
	Knock  = "knock"
)
