package client

// roomRoutes registers what clients do in rooms.
func (c *Client) roomRoutes(*routes) {}
