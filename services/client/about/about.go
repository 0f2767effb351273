package about

import (
	"net/http"

	"hanse/pkg/bus"
	"hanse/pkg/httpx"
	"hanse/pkg/matrix/roomversion"
	"hanse/services/client/core"
)

// versions are the versions of the specification that clients are told of (client-server API, "API Versions"): those
// without which clients do not talk to a server at all, up to v1.1, and of the later ones those of which everything is
// there that they added to what a server has to answer.
var versions = []string{
	"r0.0.1", "r0.1.0", "r0.2.0", "r0.3.0", "r0.4.0", "r0.5.0", "r0.6.0", "r0.6.1",
	"v1.1", "v1.2", "v1.3", "v1.4", "v1.5", "v1.6", "v1.7", "v1.8", "v1.9", "v1.10", "v1.11", "v1.12", "v1.13", "v1.14", "v1.15", "v1.16", "v1.17", "v1.18", "v1.19",
}

// unstable are the features that clients ask for by name although the specification has them by now.
var unstable = map[string]bool{
	"org.matrix.e2e_cross_signing":           true,
	"org.matrix.msc2285.stable":              true, // private read receipts
	"org.matrix.msc2432":                     true, // alias semantics
	"org.matrix.msc3771":                     true, // receipts of threads
	"org.matrix.msc3773":                     true, // notifications of threads
	"org.matrix.msc3827.stable":              true, // filter of room types in the directory
	"org.matrix.msc4151":                     true, // reporting rooms
	"org.matrix.msc4222":                     true, // state_after
	"org.matrix.msc4326":                     true, // device masquerading
	"org.matrix.simplified_msc3575":          true, // sliding sync
	"org.matrix.msc3391":                     true, // account data is deleted
	"org.matrix.msc3881":                     true, // pushers are turned off and on
	"org.matrix.msc4076":                     true, // badges that clients count themselves
	"org.matrix.msc4155":                     true, // invite filtering
	"org.matrix.msc4380.stable":              true, // invite blocking
	"uk.tcpip.msc4133":                       true, // profile fields
	"uk.tcpip.msc4133.stable":                true,
	"org.matrix.label_based_filtering":       false,
	"org.matrix.msc3440.stable":              true, // lists of threads
	"org.matrix.msc3916.stable":              true, // authenticated media
	"io.element.e2ee_forced.public":          false,
	"io.element.e2ee_forced.private":         false,
	"io.element.e2ee_forced.trusted_private": false,
	"fi.mau.msc2659.stable":                  true,  // pings of application services
	"org.matrix.msc3814":                     true,  // dehydrated devices
	"org.matrix.msc4140":                     false, // delayed events
}

// About answers what clients ask about the server.
type About struct {
	*core.Core
	turn    TURN
	bus     *bus.Bus
	version string // of new rooms
}

// New makes the concern. version is that of rooms for which clients ask for none.
func New(c *core.Core, turn TURN, version string, b *bus.Bus) *About {
	return &About{Core: c, turn: turn, version: version, bus: b}
}

// Routes registers the endpoints.
func (c *About) Routes(rt *core.Routes) {
	rt.Root.Handle("GET /_matrix/client/versions", c.getVersions)
	rt.Guest.Handle("GET /capabilities", c.capabilities)
	rt.Guest.Handle("GET /voip/turnServer", c.turnServer)
	c.thirdPartyRoutes(rt)
	c.pingRoutes(rt)
}

func (c *About) getVersions(w http.ResponseWriter, _ *http.Request) error {
	return httpx.OK(w, map[string]any{"versions": versions, "unstable_features": unstable})
}

// capabilities answers GET /capabilities (client-server API, "Capabilities negotiation").
func (c *About) capabilities(w http.ResponseWriter, _ *http.Request) error {
	available := make(map[string]string)
	for _, v := range roomversion.Supported() {
		available[v] = "stable"
		if rules, ok := roomversion.Get(v); ok && !rules.Stable {
			available[v] = "unstable"
		}
	}
	enabled := map[string]bool{"enabled": true}
	return httpx.OK(w, map[string]any{"capabilities": map[string]any{
		"m.room_versions":            map[string]any{"default": c.version, "available": available},
		"m.change_password":          enabled,
		"m.set_displayname":          enabled,
		"m.set_avatar_url":           enabled,
		"m.profile_fields":           enabled,
		"m.3pid_changes":             map[string]bool{"enabled": false},
		"m.get_login_token":          map[string]bool{"enabled": false},
		"m.forget_forced_upon_leave": map[string]bool{"enabled": false},
	}})
}
