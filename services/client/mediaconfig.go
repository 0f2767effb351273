package client

import (
	"net/http"

	"hanse/pkg/httpx"
)

const maxUpload = 50 << 20

func (c *Client) mediaConfigRoutes(rt *routes) {
	rt.authV1.Handle("GET /media/config", c.mediaConfig)
	rt.root.Group("/_matrix/media/v3", "/_matrix/media/r0").With(c.sessions.Required, c.perUser).Handle("GET /config", c.mediaConfig)
}

// mediaConfig answers GET /_matrix/client/v1/media/config and its deprecated form.
func (c *Client) mediaConfig(w http.ResponseWriter, _ *http.Request) error {
	return httpx.OK(w, map[string]int64{"m.upload.size": maxUpload})
}
