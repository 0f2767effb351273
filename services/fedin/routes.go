package fedin

import (
	"runtime/debug"

	"hanse/pkg/httpx"
)

// Bounds of request bodies in bytes.
const (
	eventBody  = 256 << 10 // one event, and white space
	inviteBody = 8 << 20   // an event and some state
	keysBody   = 4 << 20
)

// Routes registers the role's endpoints (server-server API).
func (f *Fedin) Routes(r *httpx.Router) {
	keys := r.Group("/_matrix/key/v2").With(httpx.PlainText)
	keys.Handle("GET /server", f.ownKeys)
	keys.Handle("GET /server/{keyId}", f.ownKeys)
	keys.Handle("GET /query/{serverName}", f.queryKeys)
	keys.Handle("GET /query/{serverName}/{keyId}", f.queryKeys)
	keys.Handle("POST /query", f.queryManyKeys)

	v1 := r.Group("/_matrix/federation/v1").With(httpx.PlainText)
	v2 := r.Group("/_matrix/federation/v2").With(httpx.PlainText)
	v1.Handle("GET /version", f.version)
	v1.Handle("GET /openid/userinfo", f.userinfo)
	// A transaction waits for its room, like a long poll: it must not take the slots of the others.
	v1.Handle("PUT /send/{txnId}", f.signed(f.send), httpx.MaxBody(maxTransaction), httpx.LongPoll())

	v1.Handle("GET /make_join/{roomId}/{userId}", f.signed(f.makeMembership("join")))
	v1.Handle("GET /make_leave/{roomId}/{userId}", f.signed(f.makeMembership("leave")))
	v1.Handle("GET /make_knock/{roomId}/{userId}", f.signed(f.makeMembership("knock")))
	v1.Handle("PUT /send_join/{roomId}/{eventId}", f.signed(f.sendJoinV1), httpx.MaxBody(eventBody))
	v2.Handle("PUT /send_join/{roomId}/{eventId}", f.signed(f.sendJoin), httpx.MaxBody(eventBody))
	v1.Handle("PUT /send_leave/{roomId}/{eventId}", f.signed(f.sendLeaveV1), httpx.MaxBody(eventBody))
	v2.Handle("PUT /send_leave/{roomId}/{eventId}", f.signed(f.sendLeave), httpx.MaxBody(eventBody))
	v1.Handle("PUT /send_knock/{roomId}/{eventId}", f.signed(f.sendKnock), httpx.MaxBody(eventBody))
	v1.Handle("PUT /invite/{roomId}/{eventId}", f.signed(f.inviteV1), httpx.MaxBody(inviteBody))
	v2.Handle("PUT /invite/{roomId}/{eventId}", f.signed(f.invite), httpx.MaxBody(inviteBody))
	v1.Handle("PUT /exchange_third_party_invite/{roomId}", f.signed(f.exchangeInvite), httpx.MaxBody(eventBody))

	v1.Handle("GET /state/{roomId}", f.signed(f.expensive(f.state)))
	v1.Handle("GET /state_ids/{roomId}", f.signed(f.expensive(f.stateIDs)))
	v1.Handle("GET /event/{eventId}", f.signed(f.event))
	v1.Handle("GET /event_auth/{roomId}/{eventId}", f.signed(f.expensive(f.eventAuth)))
	v1.Handle("GET /backfill/{roomId}", f.signed(f.expensive(f.backfill)))
	v1.Handle("POST /get_missing_events/{roomId}", f.signed(f.expensive(f.missingEvents)))
	v1.Handle("GET /timestamp_to_event/{roomId}", f.signed(f.expensive(f.timestampToEvent)))

	v1.Handle("GET /query/profile", f.signed(f.queryProfile))
	v1.Handle("GET /query/directory", f.signed(f.queryDirectory))
	v1.Handle("GET /publicRooms", f.signed(f.publicRooms))
	v1.Handle("POST /publicRooms", f.signed(f.searchPublicRooms))
	v1.Handle("GET /hierarchy/{roomId}", f.signed(f.hierarchy))

	// Files take as long as they are large.
	v1.Handle("GET /media/download/{mediaId}", f.signed(f.mediaDownload), httpx.LongPoll())
	v1.Handle("GET /media/thumbnail/{mediaId}", f.signed(f.mediaThumbnail), httpx.LongPoll())

	v1.Handle("POST /user/keys/query", f.signed(f.queryUserKeys), httpx.MaxBody(keysBody))
	v1.Handle("POST /user/keys/claim", f.signed(f.claimUserKeys), httpx.MaxBody(keysBody))
	v1.Handle("GET /user/devices/{userId}", f.signed(f.userDevices))
}

// buildVersion is what the binary was built from.
func buildVersion() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "unknown"
}
