package client

import "hanse/pkg/httpx"

// roomRoutes registers what clients do in rooms. Which of it guests may do is in the section "Guest Access" of the
// client-server API.
func (c *Client) roomRoutes(rt *routes) {
	c.eventRoutes(rt)
	c.relationRoutes(rt)
	c.membershipRoutes(rt)
	c.roomDirectoryRoutes(rt)
	rt.auth.Handle("POST /createRoom", c.createRoom, httpx.MaxBody(maxCreateBody))
	rt.auth.Handle("POST /rooms/{roomId}/upgrade", c.upgradeRoom)
	rt.auth.Handle("POST /rooms/{roomId}/receipt/{receiptType}/{eventId}", c.postReceipt)
	rt.auth.Handle("POST /rooms/{roomId}/read_markers", c.readMarkers)
	rt.auth.Handle("PUT /rooms/{roomId}/typing/{userId}", c.typing)
}

func (c *Client) eventRoutes(rt *routes) {
	large := httpx.MaxBody(maxEventBody)
	rt.guest.Handle("PUT /rooms/{roomId}/send/{eventType}/{txnId}", c.sendEvent, large)
	rt.guest.Handle("PUT /rooms/{roomId}/state/{eventType}/{stateKey}", c.putState, large)
	rt.guest.Handle("PUT /rooms/{roomId}/state/{eventType}", c.putState, large)
	rt.auth.Handle("PUT /rooms/{roomId}/redact/{eventId}/{txnId}", c.redact, large)
	rt.guest.Handle("GET /rooms/{roomId}/state", c.allState)
	rt.guest.Handle("GET /rooms/{roomId}/state/{eventType}/{stateKey}", c.getState)
	rt.guest.Handle("GET /rooms/{roomId}/state/{eventType}", c.getState)
	rt.guest.Handle("GET /rooms/{roomId}/messages", c.messages)
	rt.guest.Handle("GET /rooms/{roomId}/initialSync", c.roomInitialSync)
	rt.guest.Handle("GET /rooms/{roomId}/context/{eventId}", c.eventContext)
	rt.guest.Handle("GET /rooms/{roomId}/event/{eventId}", c.roomEvent)
	rt.guest.Handle("GET /rooms/{roomId}/members", c.roomMembers)
	rt.auth.Handle("GET /rooms/{roomId}/joined_members", c.joinedMembers)
	rt.auth.Handle("GET /rooms/{roomId}/aliases", c.roomAliases)
	rt.authUnstable("/org.matrix.msc2432").Handle("GET /rooms/{roomId}/aliases", c.roomAliases)
	rt.authV1.Handle("GET /rooms/{roomId}/timestamp_to_event", c.timestampToEvent)
}

func (c *Client) membershipRoutes(rt *routes) {
	rt.auth.Handle("GET /joined_rooms", c.joinedRooms)
	rt.guest.Handle("POST /rooms/{roomId}/join", c.joinRoom)
	rt.guest.Handle("POST /join/{roomIdOrAlias}", c.joinAny)
	rt.auth.Handle("POST /knock/{roomIdOrAlias}", c.knockRoom)
	rt.guest.Handle("POST /rooms/{roomId}/leave", c.leaveRoom)
	rt.auth.Handle("POST /rooms/{roomId}/forget", c.forgetRoom)
	rt.auth.Handle("POST /rooms/{roomId}/invite", c.inviteUser)
	rt.auth.Handle("POST /rooms/{roomId}/kick", c.kickUser)
	rt.auth.Handle("POST /rooms/{roomId}/ban", c.banUser)
	rt.auth.Handle("POST /rooms/{roomId}/unban", c.unbanUser)
}

func (c *Client) roomDirectoryRoutes(rt *routes) {
	rt.open.Handle("GET /directory/room/{roomAlias}", c.getAlias)
	rt.auth.Handle("PUT /directory/room/{roomAlias}", c.putAlias)
	rt.auth.Handle("DELETE /directory/room/{roomAlias}", c.deleteAlias)
	rt.open.Handle("GET /directory/list/room/{roomId}", c.getListed)
	rt.auth.Handle("PUT /directory/list/room/{roomId}", c.putListed)
	rt.open.Handle("GET /publicRooms", c.optional(c.getPublicRooms))
	rt.auth.Handle("POST /publicRooms", c.postPublicRooms)
	rt.openV1.Handle("GET /room_summary/{roomIdOrAlias}", c.optional(c.roomSummary))
	rt.authV1.Handle("GET /rooms/{roomId}/hierarchy", c.hierarchy)
	unstable := rt.root.Group("/_matrix/client/unstable/im.nheko.summary")
	unstable.Handle("GET /summary/{roomIdOrAlias}", c.optional(c.roomSummary))
	unstable.Handle("GET /rooms/{roomIdOrAlias}/summary", c.optional(c.roomSummary))
}
